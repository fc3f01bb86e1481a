"""An import: what there is, the streams one after the other, then one pass over all the rest.

What it is at, its part `import` says::

                  import, follow               cut over                 reverse
    (nothing) ────► importing ────► cutting over ────► cut over ────► reversing ────► importing
                        ▲                 │                                ▲
                        │                 └────────────────────────────────┘
                        └─ again, as often as one likes: it goes on where it was

This module decides in which order things happen; the parts know how.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pgmem import ImportPart
from pgmem.errors import ImportConflict, InvalidName
from pgmem.importing.context import Context
from pgmem.importing.convert import Unfit
from pgmem.importing.keys import Survey, survey
from pgmem.importing.passes import PART, Pass, sweep
from pgmem.importing.refused import Item
from pgmem.importing.rules import Rule
from pgmem.importing.streams import StreamImport

Phase = Literal["importing", "cutting over", "cut over", "reversing"]

PHASE_PART = "import"


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        survey: what there was.
        streams: the parts of the streams, by their keys.
        missed: how many entries of a stream were trimmed before they were read; None if nobody
            knows how many.
        removed: entries and marks that were removed because they are not in Redis any more.
        refused: lines that were added to the file of what is refused.
    """

    survey: Survey = field(default_factory=Survey)
    streams: dict[bytes, ImportPart] = field(default_factory=dict)
    missed: dict[bytes, int | None] = field(default_factory=dict)
    removed: int = 0
    refused: int = 0

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is in pgmem."""
        return not self.refused and not any(missed != 0 for missed in self.missed.values())


class Import:
    """Brings in what the rules ask for.

    Args:
        context: what it works with.

    Attributes:
        streams: the streams that are brought in.
        report: what has come of it so far.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.streams: dict[bytes, StreamImport] = {}
        self.report = Report()
        self._unfit: set[bytes] = set()

    def begin(self, phase: Phase = "importing") -> None:
        """Say what the import is at, and look at what there is.

        Raises:
            ImportConflict: it has been cut over.
        """
        enter(self.context, phase)
        self.report.survey = survey(self.context.source, self.context.rules)

    def run(self) -> Report:
        """Bring in what there is."""
        self.open_streams({key: rule for key, (rule, _) in self.report.survey.streams.items()})
        for stream in self.streams.values():
            stream.drain()
        self.context.ahead.wait()
        self.finish_pass(self.new_pass())
        return self.finished()

    def open_streams(self, found: dict[bytes, Rule]) -> list[StreamImport]:
        """Begin with the streams that are new; gives those."""
        new = []
        for key, rule in found.items():
            if key in self.streams or key in self._unfit:
                continue
            try:
                stream = StreamImport(self.context, key, rule)
            except (Unfit, InvalidName) as error:
                self._unfit.add(key)
                self.context.refuse([(Item("key", key), f"{error} (a whole stream)")])
                continue
            self.streams[key] = stream
            new.append(stream)
        return new

    def new_pass(self, *, slack: float = 0.0) -> Pass:
        """A pass over the other keys: the one that was broken off, or a new one."""
        context = self.context
        return Pass(context, context.memory.imports.open(context.name, PART), slack=slack)

    def finish_pass(self, one: Pass) -> None:
        """Go on with a pass to its end, and remove what is not there any more."""
        one.run()
        self.open_streams(one.streams)
        self.report.removed += sweep(self.context)

    def finished(self) -> Report:
        """What has come of it, when nothing is under way any more."""
        self.context.ahead.wait()
        for key, stream in self.streams.items():
            self.report.streams[key] = stream.part
            self.report.missed[key] = stream.missed
        self.report.refused = self.context.refused.count
        return self.report


def phase_of(part: ImportPart | None) -> Phase | None:
    """What an import is at; None before it has begun."""
    found: Phase | None = part.detail.get("phase") if part is not None else None
    return found


def enter(context: Context, phase: Phase, **more: Any) -> ImportPart:
    """Say what the import is at from now on.

    Raises:
        ImportConflict: it is at something else that has to be ended first.
    """
    imports = context.memory.imports
    now = phase_of(imports.get(context.name, PHASE_PART))
    if phase == "importing" and now in ("cutting over", "cut over", "reversing"):
        ends = {"cutting over": "--cut-over", "reversing": "--reverse"}.get(now)
        raise ImportConflict(
            f"the import {context.name!r} is {now}: "
            + (
                f"run it with {ends} again to end that, or with --reverse to go back to Redis"
                if ends
                else "pgmem has what there was, and Redis is behind. --reverse goes back to Redis; "
                "to bring in something else, give that another --name"
            )
        )
    if phase == "reversing" and now not in ("cutting over", "cut over", "reversing"):
        raise ImportConflict(
            f"the import {context.name!r} has not been cut over, so there is no way to go back: "
            f"Redis has all that was written to it, and its writers go on writing to it"
        )
    part = imports.open(context.name, PHASE_PART)
    detail: dict[str, Any] = {"start": _head(context), **part.detail, "phase": phase, **more}
    return imports.advance(part, cursor=part.cursor, detail=detail)


def _head(context: Context) -> int:
    """The last position of the log."""
    newest = context.memory.events.read(limit=1, reverse=True)
    return newest[0].position if newest else 0
