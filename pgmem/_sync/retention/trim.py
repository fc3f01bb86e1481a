# Generated from pgmem/retention/trim.py by tools/generate_sync.py. Do not edit.
"""Removes events by a rule: oldest first, in small transactions, and no more than is due.

::

    settle ──► marks ──► cut ──► find ──► (archive) ──► remove, commit ──► date
                                  ▲                                         │
                                  └──────── pause ◄─────────────────────────┘

What is due, and what is protected, the statements decide (`pgmem.retention.ops`). A process that
dies leaves whole transactions behind it, at worst a mark without its time, which the next trim
sets.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from dataclasses import dataclass, field

from pgmem._sync.core.execution import PoolExecutor
from pgmem._sync.events.reader import LogReader
from pgmem._sync.retention.archive import Archiver
from pgmem.core.concurrency import sleep
from pgmem.errors import OutcomeUnknown, PgmemError, TransactionConflict
from pgmem.retention import ops
from pgmem.retention.archive_ops import Archive
from pgmem.retention.models import Holder, StreamTrim

PAUSE_FIRST, PAUSE_LAST = 0.002, 0.1
"""Between two transactions it leaves the server alone for as long as the last one took, within
these bounds."""

LOOKS_BEHIND = 4
"""So many batches of the events that stayed behind the mark are looked at in one trim. The next one
goes on from there."""

TRIES = 5
"""Of a transaction that the server undoes because another trim was in its way."""


@dataclass(slots=True)
class Counted:
    """How many events there were in a part of the log: it saves counting them again.

    Attributes:
        after, to: the part.
        number: how many events are in it.
        removed: how many had ever been removed then: if more, somebody else has removed some.
    """

    after: int
    to: int
    number: int
    removed: int


@dataclass(slots=True)
class Tally:
    """What a trim has come to."""

    removed: int = 0
    first: int | None = None
    last: int | None = None
    kept: int = 0
    holder: Holder | None = None
    files: list[str] = field(default_factory=list)

    def add(self, number: int, first: int | None, last: int | None) -> None:
        """So many more, in this range."""
        if first is None or last is None:
            return
        self.removed += number
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)

    def told(self, stream: str) -> StreamTrim:
        """As the user gets it."""
        return StreamTrim(
            stream or None,
            self.removed,
            self.first,
            self.last,
            self.kept,
            self.holder,
            tuple(self.files),
        )


class Trimmer:
    """Applies rules to streams, and remembers what saves it work the next time."""

    def __init__(self, executor: PoolExecutor, reader: LogReader) -> None:
        self._executor = executor
        self._reader = reader
        self._counted: dict[str, Counted] = {}
        self._looked_behind: dict[str, int] = {}

    def repair(self) -> None:
        """Finish what a trim that died has left."""
        self._executor.execute(ops.date())

    def trim(
        self,
        stream: str,
        rule: ops.Rule,
        *,
        force: bool = False,
        dry_run: bool = False,
        archiver: Archiver | None = None,
    ) -> StreamTrim:
        """Apply a rule once.

        Args:
            stream: to this stream; '' to the whole log.
            rule: what is kept.
            force: remove also what stored readers have not read.
            dry_run: only find out.
            archiver: writes the events to files before they are removed.

        Raises:
            PermissionDenied: the role may not.
            ArchiveFailed: a file could not be written.
            OutcomeUnknown: the connection was lost during a commit. Trim again.
        """
        final = self._reader.settle()
        marks = self._executor.execute(ops.read_marks(stream))
        cut = 0
        if rule.max_count is not None:
            cut = self._cut(stream, rule.max_count, marks, final)
        work = Work(
            self._executor,
            stream,
            cut,
            rule.max_age,
            force=force,
            dry_run=dry_run,
            archiver=archiver,
        )
        if cut or rule.max_age is not None:
            self._behind(work, marks.position)
            work.walk(marks.position, final)
        counted = self._counted.get(stream)
        if counted is not None and not dry_run:
            counted.removed += work.tally.removed
            counted.number -= work.beyond
        return work.tally.told(stream)

    def _cut(self, stream: str, keep: int, marks: ops.Marks, final: int) -> int:
        """The highest position that is not among the newest `keep` events; 0 if all are.

        Counts only what is new since the last time, where nobody else has removed anything.
        """
        known = self._counted.pop(stream, None)
        cut, number = -1, 0
        if known is not None and known.removed == marks.removed and known.to <= final:
            number = known.number + self._executor.execute(ops.count(stream, known.to, final))
            if number > keep:
                cut = self._executor.execute(ops.nth(stream, known.after, final, number - keep))
                number = keep
            elif number == keep or known.after == 0:
                # With fewer, some in front of that part may be among the newest.
                cut = known.after
        if cut < 0:
            cut, number = self._executor.execute(ops.newest_cut(stream, keep, final))
        self._counted[stream] = Counted(cut, final, number, marks.removed)
        return cut

    def _behind(self, work: Work, mark: int) -> None:
        """Look again at events that stayed behind the mark, going on where the last look ended."""
        if mark == 0:
            return
        # Anywhere at first: who looks only once must not always look at the same ones.
        start = self._looked_behind.get(work.stream)
        if start is None or start > mark:
            start = random.randrange(mark + 1)  # noqa: S311  # no secret
        looks = LOOKS_BEHIND
        for after, to in ((start, mark), (0, start)):
            at: int | None = after
            while at is not None and at < to:
                if looks == 0:
                    self._looked_behind[work.stream] = at
                    return
                looks -= 1
                at = work.look(at, to, anywhere=True)
        self._looked_behind[work.stream] = 0


class Work:
    """One trim of one stream, with a rule that is settled.

    Attributes:
        stream: the stream, '' for the whole log.
        tally: what it has come to.
        beyond: how many of the removed events were above the cut: by their age.
    """

    def __init__(
        self,
        executor: PoolExecutor,
        stream: str,
        cut: int,
        max_age: float | None,
        *,
        force: bool,
        dry_run: bool,
        archiver: Archiver | None,
    ) -> None:
        self.stream = stream
        self.tally = Tally()
        self.beyond = 0
        self._executor = executor
        self._cut = cut
        self._max_age = max_age
        self._force = force
        self._dry_run = dry_run
        self._archiver = archiver

    def walk(self, after: int, final: int) -> None:
        """Remove what is due from a position on."""
        at: int | None = after
        while at is not None:
            at = self.look(at, final)

    def look(self, after: int, final: int, *, anywhere: bool = False) -> int | None:
        """Remove what is due among the next events; gives where to go on, or None at the end."""
        for _ in range(TRIES):
            began = time.monotonic()
            found = self._executor.execute(
                ops.find(
                    self.stream,
                    after=after,
                    final=final,
                    cut=self._cut,
                    max_age=self._max_age,
                    force=self._force,
                    limit=ops.BATCH if self._archiver is None else ops.ARCHIVED_BATCH,
                    anywhere=anywhere,
                )
            )
            if not found.positions:
                break
            if self._dry_run:
                self.tally.add(len(found.positions), found.positions[0], found.positions[-1])
                break
            if self._let_go(found.positions):
                sleep(min(PAUSE_LAST, max(PAUSE_FIRST, time.monotonic() - began)))
                break
        else:
            raise TransactionConflict(
                f"trim: another trim, or a reader, was in the way {TRIES} times in a row. What was "
                f"removed so far is recorded; try again later"
            )
        self.tally.kept += found.kept
        self.tally.holder = self.tally.holder or found.holder
        return found.last if found.more else None

    def _let_go(self, positions: list[int]) -> bool:
        """Remove events; False if that has to be found out anew."""
        written = None
        if self._archiver is not None:
            written = self._archiver.write(self.stream, positions)
            if written is None:
                return False
        try:
            removed = self._remove(positions, None if written is None else written[0])
        except OutcomeUnknown:
            raise  # The file is right, whether they are gone or not.
        except PgmemError as error:
            if self._archiver is not None and written is not None:
                self._archiver.discard(written[1])
            if isinstance(error, TransactionConflict):
                return False
            raise
        if removed.number:
            self._executor.execute(ops.date())
        if written is not None:
            self.tally.files.append(str(written[1]))
        self.tally.add(removed.number, removed.first, removed.last)
        self.beyond += len(positions) - bisect_right(positions, self._cut)
        return True

    def _remove(self, positions: list[int], archive: Archive | None) -> ops.Removed:
        """Remove events in one transaction.

        Raises:
            TransactionConflict: something was in the way, and nothing was removed. That is also
                so if a file would not tell exactly what is gone.
        """
        with self._executor.transaction("trim", read_committed=True) as tx:
            tx.execute(ops.allow())
            removed = tx.execute(ops.remove(self.stream, positions, force=self._force))
            if archive is not None:
                mark = archive.place.mark or (None, None)
                before = (removed.position_before, removed.removed_before)
                if removed.number != len(positions) or before != mark:
                    raise TransactionConflict("trim: not what the file tells")
        return removed
