"""Run an import: list the keys, import one stream after the other, then all other keys in a pass.

The part `import` stores the phase::

                  import, follow               cut over                 reverse
    (nothing) ────► importing ────► cutting over ────► cut over ────► reversing ────► importing
                        ▲                 │                                ▲
                        │                 └────────────────────────────────┘
                        └─ repeatable: it continues where it was

This module has the order of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pgmem.errors import InvalidInput
from pgmem.redis import ImportPart
from pgmem.redis.errors import ImportConflict
from pgmem.redis.importing.collisions import Collision
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import Unfit, text
from pgmem.redis.importing.groups import Groups
from pgmem.redis.importing.keys import Survey, survey
from pgmem.redis.importing.mixed import Mixture
from pgmem.redis.importing.passes import PART, Pass
from pgmem.redis.importing.refused import Item, place_words
from pgmem.redis.importing.rights import Purpose, check_rights
from pgmem.redis.importing.rules import UNDECIDED, Rule
from pgmem.redis.importing.source import KeyFault
from pgmem.redis.importing.stale import sweep
from pgmem.redis.importing.streams import StreamImport

Phase = Literal["importing", "cutting over", "cut over", "reversing"]

PHASE_PART = "import"


@dataclass(slots=True)
class Report:
    """The result of an import.

    Attributes:
        survey: the keys that were found.
        streams: the parts of the streams, by their keys.
        missed: numbers of entries that were trimmed before they were read, by stream; None if
            unknown.
        groups: numbers of open events, by the names of the groups in pgmem.
        removed: entries and records that were removed because they are not in Redis any more.
        refused: number of entries that were refused so far, of items that the last pass left out,
            of pending entries that are not in the log, and of streams whose end was left out.
        collisions: places of Redis that have one name in pgmem.
        mixtures: places whose values got several types.
        claims: number of strings that are claims in progress by their value, and stay in Redis.
        ending: keys of streams that end by themselves in Redis.
    """

    survey: Survey = field(default_factory=Survey)
    streams: dict[bytes, ImportPart] = field(default_factory=dict)
    missed: dict[bytes, int | None] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    removed: int = 0
    refused: int = 0
    collisions: list[Collision] = field(default_factory=list)
    mixtures: list[Mixture] = field(default_factory=list)
    claims: int = 0
    ending: set[bytes] = field(default_factory=set)

    @property
    def undecided(self) -> int:
        """The number of strings of which no rule says whether they are finished work."""
        return self.survey.left.get(UNDECIDED, (0, []))[0]

    @property
    def complete(self) -> bool:
        """True if every item that the rules match is in pgmem."""
        trimmed = any(missed != 0 for missed in self.missed.values())
        return not (self.refused or self.undecided or trimmed)


class Import:
    """One import.

    Args:
        context: the objects of the import.

    Attributes:
        context: the objects of the import.
        streams: the streams that are imported.
        groups: their groups.
        groups_in_use: it was cut over before, so members in pgmem may use the groups.
        report: the result so far.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.streams: dict[bytes, StreamImport] = {}
        self.groups = Groups(context)
        self.groups_in_use = False
        self.report = Report()
        self._unfit: set[bytes] = set()
        self._targets: dict[str, bytes] = {}
        self._collisions: list[Collision] = []
        self._left_out = 0
        self._pass: Pass | None = None

    def begin(self, phase: Phase = "importing", *, purpose: Purpose = "import") -> None:
        """Check the rights, store the phase, and count the keys.

        Raises:
            ImportConflict: it has been cut over.
            SourceError: the server does not let this user do it.
        """
        self.check_rights(purpose)
        part = enter(self.context, phase)
        self.groups_in_use = part.detail.get("over", False)
        self.survey()

    def check_rights(self, purpose: Purpose) -> None:
        """Check that the server lets this user do all of it.

        Raises:
            SourceError: it does not.
        """
        context = self.context
        check_rights(context.source, context.rules.kinds, purpose, name=context.name)

    def survey(self) -> None:
        """Count the keys and their items."""
        self.report.survey = survey(self.context.source, self.context.rules)

    def run(self) -> Report:
        """Import everything once."""
        self.drain_streams()
        for stream in self.finish_pass(self.new_pass()):
            self.drain(stream)
        self.import_groups()
        return self.finished()

    def drain_streams(self) -> None:
        """Import the entries of the streams."""
        self.open_streams_found()
        for stream in list(self.streams.values()):
            self.drain(stream)
        self.context.writer.wait()

    def drain(self, stream: StreamImport, *, most: int | None = None) -> None:
        """Import the entries of a stream. List it if it cannot be read; the others can.

        Args:
            stream: the stream.
            most: stop after about this many entries; None for all.
        """
        try:
            stream.drain(most=most)
        except KeyFault as error:
            self.leave_out(stream.key, str(error))

    def leave_out(self, key: bytes, why: str) -> None:
        """List a stream that cannot be imported, and leave it out from now on."""
        self.streams.pop(key, None)
        self._unfit.add(key)
        self.context.refuse([(Item("key", key), f"{why} (a whole stream)")])

    def open_streams_found(self) -> None:
        """Open the streams that the survey has found."""
        self.open_streams({key: rule for key, (rule, _) in self.report.survey.streams.items()})

    def open_streams(self, found: dict[bytes, Rule]) -> list[StreamImport]:
        """Open the streams that are not open yet. Return those."""
        new = []
        for key, rule in found.items():
            if key in self.streams or key in self._unfit:
                continue
            try:
                self._claim_target(key, rule)
                stream = StreamImport(self.context, key, rule)
            except (Unfit, InvalidInput) as error:
                self.leave_out(key, str(error))
                continue
            self.streams[key] = stream
            new.append(stream)
        return new

    def _claim_target(self, key: bytes, rule: Rule) -> None:
        """Take the name of a stream in pgmem.

        Raises:
            Unfit: another key has the name.
        """
        name = rule.name(text(key, "the key"))
        other = self._targets.setdefault(name, key)
        if other != key:
            places = (place_words("stream", one.decode(), "") for one in (other, key))
            found = Collision("the stream", name, *places)
            self._collisions.append(found)
            raise Unfit(str(found))

    def reopen(self) -> None:
        """Open the streams again, because a fence may have renamed their keys."""
        rules = {key: stream.rule for key, stream in self.streams.items()}
        self.streams.clear()
        self.open_streams(rules)

    def new_pass(self, *, slack: float = 0.0, adopt: bool = False) -> Pass:
        """Return a pass over the other keys. It continues one that was interrupted."""
        context = self.context
        # Opened once. If a second process opens the part, the next step of this one is refused.
        old = self._pass
        part = old.part if old is not None else context.imports.open(context.name, PART)
        self._pass = Pass(context, part, slack=slack, adopt=adopt)
        return self._pass

    def finish_pass(self, one: Pass) -> list[StreamImport]:
        """Run a pass to its end. Return what `end_pass` returns."""
        one.run()
        return self.end_pass(one)

    def end_pass(self, one: Pass) -> list[StreamImport]:
        """Remove what is no longer in Redis. Return the streams that the pass found first."""
        self._left_out = one.left_out
        self.report.mixtures = one.types.mixtures()
        self.report.claims = one.claims
        if not one.first:
            self.report.removed += sweep(self.context)
        return self.open_streams(one.streams)

    def import_groups(self) -> None:
        """Import the groups of the streams as they are now."""
        self.context.writer.wait()
        for stream in list(self.streams.values()):
            try:
                self.groups.import_groups(stream, only_new=self.groups_in_use)
            except KeyFault as error:
                self.leave_out(stream.key, str(error))

    def finished(self) -> Report:
        """Wait for the last write. Return the report."""
        self.context.writer.wait()
        for key, stream in self.streams.items():
            self.report.streams[key] = stream.part
            self.report.missed[key] = stream.missed
        self.report.ending = {key for key, stream in self.streams.items() if stream.ends}
        of_pass = self._pass.collisions if self._pass is not None else []
        self.report.collisions = [*self._collisions, *self.groups.collisions, *of_pass]
        of_streams = sum(stream.part.refused for stream in self.streams.values())
        left_out = self._left_out + self.groups.left_out
        self.report.refused = of_streams + len(self._unfit) + left_out + len(self.report.ending)
        self.report.groups = {
            name: len(group.places) for name, group in self.groups.all.items() if not group.foreign
        }
        return self.report


def phase_of(part: ImportPart | None) -> Phase | None:
    """Return the phase of an import; None before it has begun."""
    found: Phase | None = part.detail.get("phase") if part is not None else None
    return found


_AFTER: dict[Phase, tuple[Phase | None, ...]] = {
    "importing": (None, "importing"),
    "cutting over": (None, "importing", "cutting over", "cut over"),
    "cut over": ("cutting over",),
    "reversing": ("cutting over", "cut over", "reversing"),
}
_HOW_ON: dict[Phase | None, str] = {
    "cutting over": "Run it with --cut-over again to finish, or with --reverse to go back",
    "cut over": "Redis is behind pgmem now. Run it with --reverse to go back to Redis. To import "
    "something else, give another --name",
    "reversing": "Run it with --reverse again to finish",
}
_NOT_CUT_OVER = "It has not been cut over, so there is nothing to reverse. Redis has everything"


def enter(context: Context, phase: Phase) -> ImportPart:
    """Enter a phase. `over` in the detail of the part means that pgmem may have been written to.

    Args:
        context: the objects of the import.
        phase: the new phase.

    Raises:
        ImportConflict: another phase must end first.
    """
    now = phase_of(context.imports.get(context.name, PHASE_PART))
    if now not in _AFTER[phase]:
        how = _HOW_ON.get(now, _NOT_CUT_OVER)
        raise ImportConflict(f"the import {context.name!r} is {now or 'not begun'}. {how}")
    return set_phase(context, phase)


def set_phase(context: Context, phase: Phase, **more: Any) -> ImportPart:
    """Enter a phase, whatever the present one is.

    Args:
        context: the objects of the import.
        phase: the new phase.
        more: other values of the detail.
    """
    part = context.imports.open(context.name, PHASE_PART)
    detail = {**part.detail, "phase": phase, **more}
    return context.imports.advance(part, cursor=part.cursor, detail=detail)
