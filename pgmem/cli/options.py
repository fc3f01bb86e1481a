"""What the commands share: their common options, what they read, and how they print.

Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pgmem.errors import InvalidOption

if TYPE_CHECKING:
    from rich.text import Text

    from pgmem import Memory, RecordedEvent

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database: a libpq or SQLAlchemy URL, or 'host=… dbname=…'. Else from "
        "PGMEM_DATABASE_URL, DATABASE_URL, or libpq's PG* variables.",
        show_default=False,
    ),
]
Schema = Annotated[
    str, typer.Option("--schema", metavar="NAME", help="The schema that holds pgmem's tables.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhdw])", flags=re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def memory_of(url: str | None, schema: str, *, pool: int | tuple[int, int] = 1) -> Memory:
    """The memory that the options name, not open yet.

    Imported only now: a command line that is wrong, or asks for help, has its answer sooner.
    """
    from pgmem import Memory  # noqa: PLC0415

    return Memory(url, schema=schema, pool=pool)


def duration(text: str, option: str) -> timedelta:
    """A duration as somebody types it: a number and a unit, as `30s`, `1.5h` or `7d`.

    Whether it is in the bounds of what it is for is the memory's to check.

    Args:
        text: what was typed.
        option: the option that it was typed for, for the message.

    Raises:
        InvalidOption: it is no number with a unit.
    """
    found = _DURATION.fullmatch(text)
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        pass  # thousands of years: told below
    raise InvalidOption(
        f"{option} takes a number and a unit (s, m, h, d or w), as 30s, 1.5h or 7d, "
        f"got {text[:40]!r}"
    )


def out() -> Console:
    """The console for data. Made on each use, so that a redirected stdout is honoured."""
    return Console(highlight=False, emoji=False, soft_wrap=True)


def say(message: str) -> None:
    """One line for a person, on stderr, as it is (no markup)."""
    Console(stderr=True, highlight=False, emoji=False, soft_wrap=True).print(message, markup=False)


def ask(question: str) -> None:
    """Go on only if the caller says yes; no answer is none.

    On stderr alone: typer's own question leaves a blank on stdout, among the data.

    Raises:
        typer.Abort: exit code 1; nothing was done yet.
    """
    sys.stderr.write(f"{printable(question)} [y/N]: ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    if answer.strip().lower() not in ("y", "yes"):
        raise typer.Abort


def print_json(data: object) -> None:
    """`data` as one JSON document on stdout."""
    sys.stdout.write(json_text(data, indent=2) + "\n")


def print_json_line(data: object) -> None:
    """`data` as one of many JSON documents on stdout: a line."""
    sys.stdout.write(json_text(data) + "\n")


def json_text(data: object, *, indent: int | None = None) -> str:
    """`data` as JSON that a terminal may show: what it would obey is escaped."""
    text = json.dumps(data, ensure_ascii=False, indent=indent, default=_plain)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def event_data(event: RecordedEvent) -> dict[str, Any]:
    """What was written of an event, as JSON; where it stands is told apart."""
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


def one_line(error: BaseException) -> str:
    """The error's message without line breaks or control characters."""
    return printable(" ".join(str(error).split()) or type(error).__name__)


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def moment(at: datetime) -> str:
    """A point in time for people, in their time zone."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def line(*parts: tuple[str, str]) -> Text:
    """A line of texts, each with its style."""
    from rich.text import Text  # noqa: PLC0415

    return Text.assemble(*((printable(text), style) for text, style in parts))


def columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Text]:
    """Lines of cells, one below the other, under a line of titles. Nothing is cut off.

    Args:
        titles: of the columns; a `>` in front sets the column to the right.
        rows: the cells of each line.
    """
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    right = [title.startswith(">") for title in titles]
    lines = [[title.lstrip(">") for title in titles], *([printable(c) for c in r] for r in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]

    def aligned(cells: Sequence[str]) -> str:
        padded = (
            f"{' ' * (width - cell_len(cell))}{cell}"
            if to_right
            else f"{cell}{' ' * (width - cell_len(cell))}"
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [Text(aligned(lines[0]), style="bold"), *(Text(aligned(line)) for line in lines[1:])]


def print_columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """What `columns` makes, on stdout."""
    console = out()
    for row in columns(titles, rows):
        console.print(row)


def print_labelled(lines: Iterable[tuple[str, str]], width: int) -> None:
    """Lines of a label, `width` cells wide, and what there is to say, on stdout."""
    console = out()
    for label, text in lines:
        console.print(f"{label:{width}}", style="bold", end="", markup=False)
        console.print(printable(text), markup=False)


def age(seconds: float) -> str:
    """A time span for people: its largest unit, and no more digits than that needs."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{max(0.0, seconds):.{1 if seconds < 10 else 0}f} s"


def size(number: int) -> str:
    """Bytes for people."""
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.{0 if unit == 'B' or amount >= 100 else 1}f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TB"
