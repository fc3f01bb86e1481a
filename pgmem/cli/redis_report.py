"""The progress of `pgmem import-redis` and its report."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgmem.cli.output import count_of, printable, say

if TYPE_CHECKING:
    from pgmem.redis.importing.run import Import, Report
    from pgmem.redis.importing.verify import Comparison

SHOWN = 5
"""Collisions and mixed types that the report shows. --json has all."""
REPORT_EVERY = 10.0
"""Seconds between two lines of progress if stderr is not a terminal."""


class Progress:
    """Show progress and the time left on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("reading the keys", total=None)
        self._total = self._done = 0
        self._begun = self._reported = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def expect(self, items: int) -> None:
        """Set the number of items to import."""
        self._total, self._begun = items, time.monotonic()
        self._bar.update(self._task, description="importing", total=items)

    def follow(self) -> None:
        """Switch from importing to following."""
        self._bar.update(self._task, description="following", total=None)
        self.say("following; end with Ctrl-C, or with --cut-over in another terminal")

    def moved(self, kind: str, done: int, refused: int) -> None:
        """Count items that were imported or refused."""
        self._done += done + refused
        self._bar.update(self._task, completed=self._done)
        if self._done < self._total and self._is_time():
            rate = self._done / (time.monotonic() - self._begun)
            left = (self._total - self._done) / max(rate, 1)
            self.say(f"{self._done:,} of {self._total:,} items, {rate:,.0f}/s, {left:,.0f} s left")

    def compared(self, items: int) -> None:
        """Show how many items were compared."""
        self._bar.update(self._task, description="comparing", completed=items)
        if self._is_time():
            self.say(f"{items:,} items compared")

    def lag(self, entries: int | None, seconds: float) -> None:
        """Show how far the import is behind the streams."""
        many = "an unknown number of" if entries is None else f"{entries:,}"
        words = f"following, {many} entries behind ({seconds:.1f} s)"
        self._bar.update(self._task, description=words)
        if self._is_time():
            self.say(f"{words}, {self._done:,} items so far")

    def _is_time(self) -> bool:
        """Return True if no bar is shown and a line is due."""
        now = time.monotonic()
        due = not self._console.is_terminal and now > self._reported + REPORT_EVERY
        if due:
            self._reported = now
        return due

    def say(self, words: str) -> None:
        """Print a line above the bar."""
        self._console.print(printable(words), markup=False)


def document_of(importer: Import, report: Report, compared: Comparison | None) -> dict[str, Any]:
    """Return the report for programs."""
    context = importer.context
    survey = report.survey
    document: dict[str, Any] = {
        "import": context.name,
        "found": {**survey.items},
        "streams": [
            {
                "key": part.detail.get("key", key.decode(errors="backslashreplace")),
                "stream": part.target,
                "events": part.done,
                "refused": part.refused,
                "trimmed_unread": report.missed[key],
                "read_to": part.cursor,
                "ends": key in report.ending,
            }
            for key, part in report.streams.items()
        ],
        "groups": [{"group": name, "open": count} for name, count in report.groups.items()],
        "removed": report.removed,
        "left": {
            kind: {"keys": count, "examples": examples}
            for kind, (count, examples) in survey.left.items()
        },
        "claims": report.claims,
        "undecided": report.undecided,
        "collisions": [str(found) for found in report.collisions],
        "mixed_types": [asdict(found) for found in report.mixtures],
        "refused": report.refused,
        "refused_file": str(context.refused.path),
    }
    if compared is not None:
        document["compared"] = {**asdict(compared), "equal": compared.equal}
    return document


def print_report(document: dict[str, Any], *, dry_run: bool) -> None:
    """Print the report for people, on stderr."""
    would = " (dry run: nothing was written)" if dry_run else ""
    say(f"{document['import']}: {document['ended']}{would}")
    _print_streams(document)
    for group in document.get("groups", ()):
        say(f"  group {group['group']}: {group['open']:,} open")
    found = document.get("found", {})
    for kind, words in (
        ("hash", "state entries"),
        ("set", "members of sets"),
        ("string", "strings"),
    ):
        if found.get(kind):
            say(f"  {found[kind]:,} {words}")
    if document.get("removed"):
        say(f"  {document['removed']:,} removed here, because Redis no longer has them")
    for kind, left in document.get("left", {}).items():
        examples = ", ".join(left["examples"])
        say(f"  left in Redis: {left['keys']:,} keys of type {kind} ({examples})")
    if document.get("claims"):
        say(f"  left in Redis: {document['claims']:,} strings that are claims by their value")
    _print_questions(document)
    written = document.get("written_back", {})
    for kind, count in written.items():
        say(f"  {kind}: {count:,}")
    gaps = any(stream["trimmed_unread"] != 0 for stream in document.get("streams", ()))
    if gaps or document.get("refused") or {"left", "blocked", "without their end"} & {*written}:
        say(f"  what was left out is listed in {document['refused_file']}")
    if compared := document.get("compared"):
        counts = ", ".join(
            f"{count:,} {kind.replace('_', ' ')}"
            for kind, count in compared.items()
            if isinstance(count, int) and not isinstance(count, bool) and count
        )
        say(f"  compared: {counts or 'nothing'}")
        for example in compared["examples"]:
            say(f"    {example}")
        say("  both sides are equal" if compared["equal"] else "  the two sides differ")


def _print_questions(document: dict[str, Any]) -> None:
    """Print what only the caller can decide."""
    if document.get("undecided"):
        say(
            f"  not imported: {document['undecided']:,} strings with an expiry. Each may be "
            f"work that is done, or a claim in progress (SET NX EX). Say it: --strings done or "
            f"--strings claims for all, --dedupe PATTERN and --claim PATTERN[=VALUE] for some"
        )
    for words in document.get("collisions", ())[:SHOWN]:
        say(f"  {words}")
    for found in document.get("mixed_types", ())[:SHOWN]:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in found["counts"].items())
        rows = ", ".join(found["rows"][:SHOWN])
        say(f"  mixed types in {found['place']}: {counts} ({rows}); --values text keeps texts")


def _print_streams(document: dict[str, Any]) -> None:
    for stream in document.get("streams", ()):
        events = count_of(stream["events"], "event")
        line = f"  stream {stream['key']} → {stream['stream']}: {events}"
        if stream["refused"]:
            line += f", {stream['refused']:,} refused"
        if stream["trimmed_unread"] != 0:
            many = stream["trimmed_unread"]
            line += f", {'some' if many is None else f'{many:,}'} trimmed before they were read"
        if stream["ends"]:
            line += ", without its end (EXPIRE)"
        say(line)
