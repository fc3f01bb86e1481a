"""How commands print: tables, labelled lines, JSON, messages and questions.

Data goes to stdout, everything else to stderr. On a terminal a table is cut to its width and has
colours; in a pipe or a file nothing is cut and there are no control sequences.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import click

if TYPE_CHECKING:
    from pgmem import RecordedEvent

# Numbers of the 256-colour palette. Its colours from 16 on are the same in every theme, and these
# have a contrast of at least 3.8 to 1 on white and on black. The 16 named colours depend on the
# theme: yellow on white or blue on black cannot be read.
COLOURS: Final = {"key": 30, "type": 64, "agent": 133, "error": 160, "faint": 244}

NARROWEST: Final = 10
"""Cells that a column of text keeps when a table is cut to the terminal."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Printed above it.
        right: Align to the right, as numbers are. Such a column is never cut.
        style: A name in `COLOURS`, `bold`, or nothing. A `faint` column, a time, is never cut.
        width: Cells that it has at least.
    """

    title: str
    right: bool = False
    style: str = ""
    width: int = 0

    @property
    def is_text(self) -> bool:
        """True if cells may be cut."""
        return not self.right and self.style != "faint"


class Table:
    """Rows below a line of titles, printed on stdout page by page.

    Later pages are aligned with the earlier ones as long as their cells are not wider.

    Args:
        columns: The columns. If the table is too wide for the terminal, the last one is cut first.
    """

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._widths = [max(column.width, cells(column.title)) for column in columns]
        self._titled = False

    def fit(self, rows: Iterable[Sequence[str]]) -> None:
        """Make the columns wide enough for rows that are going to be printed."""
        for row in rows:
            for index, cell in enumerate(row):
                self._widths[index] = max(self._widths[index], cells(printable(cell)))

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Print rows; before the first ones, the titles."""
        lines = [[printable(cell) for cell in row] for row in rows]
        if not lines:
            return
        self.fit(lines)
        self._print_titles()
        widths, coloured = self._fitted(), has_colours(sys.stdout)
        styles = [column.style if coloured else "" for column in self._columns]
        for line in lines:
            self._print(line, widths, styles)

    def note(self, text: str) -> None:
        """Print a line of its own between the rows."""
        self._print_titles()
        sys.stdout.write(f"{style(text, 'bold') if has_colours(sys.stdout) else text}\n")

    def _print_titles(self) -> None:
        if not self._titled:
            self._titled = True
            styles = ["bold" if has_colours(sys.stdout) else ""] * len(self._columns)
            self._print([column.title for column in self._columns], self._fitted(), styles)

    def _fitted(self) -> list[int]:
        """Return the widths, cut to the terminal if stdout is one."""
        widths = list(self._widths)
        limit = terminal_width(sys.stdout)
        if limit is None:
            return widths
        excess = sum(widths) + 2 * (len(widths) - 1) - limit
        shrinkable = [i for i, column in enumerate(self._columns) if column.is_text]
        for index in [shrinkable[-1], *sorted(shrinkable[:-1], key=lambda i: -widths[i])]:
            if excess > 0:
                spare = min(excess, max(0, widths[index] - NARROWEST))
                widths[index] -= spare
                excess -= spare
        return widths

    def _print(self, line: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> None:
        parts = []
        for column, cell, width, name in zip(self._columns, line, widths, styles, strict=True):
            text = cut(cell, width) if column.is_text else cell
            padding = " " * (width - cells(text))
            shown = style(text, name)
            parts.append(padding + shown if column.right else shown + padding)
        sys.stdout.write("  ".join(parts).rstrip() + "\n")


def style(text: str, name: str) -> str:
    """Return the text with the control sequences of a style; unchanged for no style."""
    if not name or not text:
        return text
    code = "1" if name == "bold" else f"38;5;{COLOURS[name]}"
    return f"\x1b[{code}m{text}\x1b[0m"


def has_colours(stream: TextIO) -> bool:
    """Return True if the stream is a terminal with 256 colours and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return False
    terminal = os.environ.get("TERM", "")
    return "256color" in terminal or bool(os.environ.get("COLORTERM"))


def terminal_width(stream: TextIO) -> int | None:
    """Return the width of the terminal in cells; None if the stream is not a terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def cells(text: str) -> int:
    """Return how many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """Return the text, its end replaced by `…` if it is wider than `width` cells."""
    if cells(text) <= width:
        return text
    while cells(text) > width - 1:
        text = text[: min(len(text) - 1, width - 1)]
    return f"{text}…"


def print_labelled(lines: Iterable[tuple[str, str]], width: int) -> None:
    """Print lines of a label, `width` cells wide, and a text."""
    coloured = has_colours(sys.stdout)
    for label, text in lines:
        padded = f"{label:{width}}"
        sys.stdout.write(f"{style(padded, 'bold') if coloured else padded}{printable(text)}\n")


def print_line(text: str) -> None:
    """Print a line on stdout, such as what a command has done."""
    sys.stdout.write(f"{printable(text)}\n")


def say(message: str) -> None:
    """Print a line for people on stderr."""
    sys.stderr.write(f"{printable(message)}\n")


def confirm(question: str) -> None:
    """Ask on stderr, and return only if the answer is yes.

    Raises:
        click.Abort: The answer is not yes, or there is none. Nothing was changed.
    """
    sys.stderr.write(f"{printable(question)} [y/N]: ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    if answer.strip().lower() not in ("y", "yes"):
        say("Not confirmed: nothing was changed. --yes answers the question.")
        raise click.Abort


def print_json(data: object) -> None:
    """Print `data` as one JSON document on stdout."""
    sys.stdout.write(json_text(data, indent=2) + "\n")


def print_json_lines(data: Iterable[object]) -> None:
    """Print each item as one line of JSON on stdout."""
    for item in data:
        sys.stdout.write(json_text(item) + "\n")


def json_text(data: object, *, indent: int | None = None) -> str:
    """Return `data` as JSON, with the characters escaped that a terminal would obey."""
    text = json.dumps(data, ensure_ascii=False, indent=indent, default=_plain)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def event_data(event: RecordedEvent) -> dict[str, Any]:
    """Return what was written of an event, without its position."""
    return {
        "stream": event.stream,
        "version": event.version,
        "type": event.type,
        "agent_id": event.agent_id,
        "recorded_at": event.recorded_at,
        "payload": event.payload,
        "metadata": event.metadata,
    }


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def one_line(text: str) -> str:
    """Return the text without line breaks and control characters."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Return the text with the characters escaped that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def moment(at: datetime) -> str:
    """Return a point in time in the local time zone, to the second."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def short_moment(at: datetime) -> str:
    """Return a point in time for a table. On a terminal, the time alone if the day is today."""
    if sys.stdout.isatty() and at.astimezone().date() == datetime.now().astimezone().date():
        return f"{at.astimezone():%H:%M:%S}"
    return moment(at)


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number and its noun: `1 event`, `2,000 events`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def age(seconds: float) -> str:
    """Return a time span in its largest fitting unit, such as `5.4 min`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{max(0.0, seconds):.{1 if seconds < 10 else 0}f} s"


def size(number: int) -> str:
    """Return a number of bytes in its largest fitting unit, such as `87.7 MB`."""
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.{0 if unit == 'B' or amount >= 100 else 1}f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TB"
