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

from pgmem.errors import InvalidInput
from pgmem.redis import ImportPart
from pgmem.redis.errors import ImportConflict
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import Unfit
from pgmem.redis.importing.groups import Groups
from pgmem.redis.importing.keys import Survey, survey
from pgmem.redis.importing.passes import PART, Pass, sweep
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.rules import Rule
from pgmem.redis.importing.streams import StreamImport

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
        groups: the consumer groups, by their names here: how much is open in each.
        removed: entries and records that were removed because they are not in Redis any more.
        refused: entries of streams that were refused so far, what the last pass left out, and
            what groups have pending that is not here.
    """

    survey: Survey = field(default_factory=Survey)
    streams: dict[bytes, ImportPart] = field(default_factory=dict)
    missed: dict[bytes, int | None] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
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
        groups: their groups.
        groups_are_theirs: it was cut over before: members may work in the groups that are here.
        report: what has come of it so far.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.streams: dict[bytes, StreamImport] = {}
        self.groups = Groups(context)
        self.groups_are_theirs = False
        self.report = Report()
        self._unfit: set[bytes] = set()
        self._left_out = 0
        self._pass: Pass | None = None

    def begin(self, phase: Phase = "importing") -> None:
        """Say what the import is at, and look at what there is.

        Raises:
            ImportConflict: it has been cut over.
        """
        part = enter(self.context, phase)
        self.groups_are_theirs = part.detail.get("over", False)
        self.survey()

    def survey(self) -> None:
        """Look at what there is."""
        self.report.survey = survey(self.context.source, self.context.rules)

    def run(self) -> Report:
        """Bring in what there is."""
        self.drain_streams()
        for stream in self.finish_pass(self.new_pass()):
            stream.drain()
        self.bring_in_groups()
        return self.finished()

    def drain_streams(self) -> None:
        """Bring in what the streams have."""
        self.open_streams_found()
        for stream in self.streams.values():
            stream.drain()
        self.context.writer.wait()

    def open_streams_found(self) -> None:
        """Begin with the streams that the survey has found."""
        self.open_streams({key: rule for key, (rule, _) in self.report.survey.streams.items()})

    def open_streams(self, found: dict[bytes, Rule]) -> list[StreamImport]:
        """Begin with the streams that are new; gives those."""
        new = []
        for key, rule in found.items():
            if key in self.streams or key in self._unfit:
                continue
            try:
                stream = StreamImport(self.context, key, rule)
            except (Unfit, InvalidInput) as error:
                self._unfit.add(key)
                self.context.refuse([(Item("key", key), f"{error} (a whole stream)")])
                continue
            self.streams[key] = stream
            new.append(stream)
        return new

    def reopen(self) -> None:
        """Look for the streams anew: they may have been put aside."""
        rules = {key: stream.rule for key, stream in self.streams.items()}
        self.streams.clear()
        self.open_streams(rules)

    def new_pass(self, *, slack: float = 0.0, adopt: bool = False) -> Pass:
        """A pass over the other keys: the one that was broken off, or a new one."""
        context = self.context
        # Opened once. If a second process opens the part, the next step of this one is refused.
        old = self._pass
        part = old.part if old is not None else context.imports.open(context.name, PART)
        self._pass = Pass(context, part, slack=slack, adopt=adopt)
        return self._pass

    def finish_pass(self, one: Pass) -> list[StreamImport]:
        """Go on with a pass to its end, as `end_pass`."""
        one.run()
        return self.end_pass(one)

    def end_pass(self, one: Pass) -> list[StreamImport]:
        """Remove what is not there any more; gives the streams that the pass has met first."""
        self._left_out = one.left_out
        if not one.first:
            self.report.removed += sweep(self.context)
        return self.open_streams(one.streams)

    def bring_in_groups(self) -> None:
        """Bring in the groups of the streams, as they are now."""
        self.context.writer.wait()
        for stream in self.streams.values():
            self.groups.bring_in(stream, only_new=self.groups_are_theirs)

    def finished(self) -> Report:
        """What has come of it, when nothing is under way any more."""
        self.context.writer.wait()
        for key, stream in self.streams.items():
            self.report.streams[key] = stream.part
            self.report.missed[key] = stream.missed
        of_streams = sum(stream.part.refused for stream in self.streams.values())
        left_out = self._left_out + self.groups.left_out
        self.report.refused = of_streams + len(self._unfit) + left_out
        self.report.groups = {
            name: len(group.places) for name, group in self.groups.all.items() if not group.foreign
        }
        return self.report


def phase_of(part: ImportPart | None) -> Phase | None:
    """What an import is at; None before it has begun."""
    found: Phase | None = part.detail.get("phase") if part is not None else None
    return found


_AFTER: dict[Phase, tuple[Phase | None, ...]] = {
    "importing": (None, "importing"),
    "cutting over": (None, "importing", "cutting over", "cut over"),
    "cut over": ("cutting over",),
    "reversing": ("cutting over", "cut over", "reversing"),
}
_HOW_ON: dict[Phase | None, str] = {
    "cutting over": "run it with --cut-over again to end that, or with --reverse to go back",
    "cut over": "pgmem has what there was, and Redis is behind. --reverse goes back to Redis; to "
    "bring in something else, give that another --name",
    "reversing": "run it with --reverse again to end that",
}
_NOT_CUT_OVER = (
    "it has not been cut over, so there is no way to go back: Redis has all that was written to it"
)


def enter(context: Context, phase: Phase) -> ImportPart:
    """Say what the import is at from now on. `over` in its detail: pgmem may have been written to.

    Raises:
        ImportConflict: it is at something else that has to be ended first.
    """
    now = phase_of(context.imports.get(context.name, PHASE_PART))
    if now not in _AFTER[phase]:
        how = _HOW_ON.get(now, _NOT_CUT_OVER)
        raise ImportConflict(f"the import {context.name!r} is {now or 'not begun'}: {how}")
    return set_phase(context, phase)


def set_phase(context: Context, phase: Phase, **more: Any) -> ImportPart:
    """The same, whatever it is at now.

    Args:
        context: what it works with.
        phase: what it is at.
        more: what else is to be known.
    """
    part = context.imports.open(context.name, PHASE_PART)
    detail = {**part.detail, "phase": phase, **more}
    return context.imports.advance(part, cursor=part.cursor, detail=detail)
