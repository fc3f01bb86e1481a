"""Remove events that exceed limits: oldest first, in small transactions.

::

    stable position ──► low-water mark ──► cutoff ──► find ──► (archive) ──► remove ──► commit
                                                        ▲                                 │
                                                        └── pause ◄── set the trim time ◄─┘

The statements decide which events exceed the limits and which are protected: see
`pgmem.retention.ops`. A process that dies leaves whole transactions. At worst a trim has no time
yet, which the next trim sets.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from dataclasses import dataclass, field

from pgmem.core.concurrency import async_sleep
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.errors import OutcomeUnknown, PgmemError, TransactionConflict
from pgmem.events.reader import AsyncLogReader
from pgmem.retention import ops
from pgmem.retention.archive import AsyncArchiver
from pgmem.retention.archive_ops import Archive
from pgmem.retention.models import LaggingReader, StreamTrim

MIN_PAUSE, MAX_PAUSE = 0.002, 0.1
"""Seconds. After a transaction the trim pauses for as long as it took, within these bounds."""

BATCHES_BELOW = 4
"""How many batches below the low-water mark one trim looks at. The next trim goes on from there."""

TRIES = 5
"""How often a transaction is repeated that another trim or a reader conflicts with."""


@dataclass(slots=True)
class Counted:
    """The number of events in a part of the log, so that the next trim need not count them again.

    Attributes:
        after, to: the part.
        number: the number of events in it.
        removed: how many events retention had ever removed. If it has grown otherwise, another
            process has trimmed, and the count is not used.
    """

    after: int
    to: int
    number: int
    removed: int


@dataclass(slots=True)
class Tally:
    """The result of a trim so far."""

    removed: int = 0
    first: int | None = None
    last: int | None = None
    kept: int = 0
    held_back_by: LaggingReader | None = None
    files: list[str] = field(default_factory=list)

    def add(self, number: int, first: int | None, last: int | None) -> None:
        """Add removed events."""
        if first is None or last is None:
            return
        self.removed += number
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)

    def report(self, stream: str) -> StreamTrim:
        """Return the result for the caller."""
        return StreamTrim(
            stream or None,
            self.removed,
            self.first,
            self.last,
            self.kept,
            self.held_back_by,
            tuple(self.files),
        )


class AsyncTrimmer:
    """Apply limits to streams, and remember what saves work in the next trim."""

    def __init__(self, executor: AsyncPoolExecutor, reader: AsyncLogReader) -> None:
        self._executor = executor
        self._reader = reader
        self._counted: dict[str, Counted] = {}
        self._resume_below: dict[str, int] = {}

    async def trim(
        self,
        stream: str,
        limits: ops.Limits,
        *,
        force: bool = False,
        dry_run: bool = False,
        archiver: AsyncArchiver | None = None,
    ) -> StreamTrim:
        """Apply limits once.

        Args:
            stream: the stream; '' for the whole log.
            limits: how much is kept.
            force: also remove events that stored readers have not read.
            dry_run: remove nothing.
            archiver: writes the events to files before they are removed.

        Raises:
            PermissionDenied: the role lacks the right.
            ArchiveFailed: a file could not be written.
            OutcomeUnknown: the connection was lost during a commit. Trim again.
        """
        stable = await self._reader.wait_until_stable()
        before = await self._executor.execute(ops.read_low_water(stream))
        cutoff = 0
        if limits.max_count is not None:
            cutoff = await self._cutoff(stream, limits.max_count, before, stable)
        removal = Removal(
            self._executor,
            stream,
            cutoff,
            limits.max_age,
            force=force,
            dry_run=dry_run,
            archiver=archiver,
        )
        if cutoff or limits.max_age is not None:
            await self._trim_below(removal, before.position)
            after: int | None = before.position
            while after is not None:
                after = await removal.next_batch(after, stable)
        counted = self._counted.get(stream)
        if counted is not None and not dry_run:
            counted.removed += removal.tally.removed
            counted.number -= removal.removed_above
        return removal.tally.report(stream)

    async def _cutoff(self, stream: str, keep: int, before: ops.LowWater, stable: int) -> int:
        """Return the highest position not among the newest `keep` events; 0 if there is none.

        Only events that are new since the last trim are counted, unless another process trimmed.
        """
        known = self._counted.pop(stream, None)
        cutoff, number = -1, 0
        if known is not None and known.removed == before.removed and known.to <= stable:
            number = known.number + await self._executor.execute(
                ops.count(stream, known.to, stable)
            )
            if number > keep:
                op = ops.nth(stream, known.after, stable, number - keep)
                cutoff, number = await self._executor.execute(op), keep
            elif number == keep or known.after == 0:
                # With fewer, events before that part may be among the newest.
                cutoff = known.after
        if cutoff < 0:
            cutoff, number = await self._executor.execute(ops.newest(stream, keep, stable))
        self._counted[stream] = Counted(cutoff, stable, number, before.removed)
        return cutoff

    async def _trim_below(self, removal: Removal, low_water: int) -> None:
        """Remove events that earlier trims kept below the low-water mark, a few batches a trim."""
        if low_water == 0:
            return
        # A random start: a process that trims only once must not always look at the same events.
        start = self._resume_below.get(removal.stream)
        if start is None or start > low_water:
            start = random.randrange(low_water + 1)  # noqa: S311  # no secret
        batches = BATCHES_BELOW
        for after, to in ((start, low_water), (0, start)):
            at: int | None = after
            while at is not None and at < to:
                if batches == 0:
                    self._resume_below[removal.stream] = at
                    return
                batches -= 1
                at = await removal.next_batch(at, to, anywhere=True)
        self._resume_below[removal.stream] = 0


class Removal:
    """One trim of one stream with fixed limits.

    Attributes:
        stream: the stream, '' for the whole log.
        tally: the result so far.
        removed_above: the number of removed events above the cutoff, which were too old.
    """

    def __init__(
        self,
        executor: AsyncPoolExecutor,
        stream: str,
        cutoff: int,
        max_age: float | None,
        *,
        force: bool,
        dry_run: bool,
        archiver: AsyncArchiver | None,
    ) -> None:
        self.stream = stream
        self.tally = Tally()
        self.removed_above = 0
        self._executor = executor
        self._cutoff = cutoff
        self._max_age = max_age
        self._force = force
        self._dry_run = dry_run
        self._archiver = archiver

    async def next_batch(self, after: int, until: int, *, anywhere: bool = False) -> int | None:
        """Remove what is due among the next events. Return where to go on, or None at the end."""
        for _ in range(TRIES):
            began = time.monotonic()
            found = await self._executor.execute(
                ops.find(
                    self.stream,
                    after=after,
                    until=until,
                    cutoff=self._cutoff,
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
            if await self._archive_and_remove(found.positions):
                await async_sleep(min(MAX_PAUSE, max(MIN_PAUSE, time.monotonic() - began)))
                break
        else:
            raise TransactionConflict(
                f"trim: another trim or a reader conflicted {TRIES} times in a row. What was "
                f"removed so far is recorded. Try again later"
            )
        self.tally.kept += found.kept
        self.tally.held_back_by = self.tally.held_back_by or found.held_back_by
        return found.last if found.more else None

    async def _archive_and_remove(self, positions: list[int]) -> bool:
        """Write events to a file if asked to, and remove them. Return False to find them again."""
        written = None
        if self._archiver is not None:
            written = await self._archiver.write(self.stream, positions)
            if written is None:
                return False
        try:
            removed = await self._remove(positions, None if written is None else written[0])
        except OutcomeUnknown:
            raise  # The file is right in both cases.
        except PgmemError as error:
            if self._archiver is not None and written is not None:
                await self._archiver.discard(written[1])
            if isinstance(error, TransactionConflict):
                return False
            raise
        if removed.number:
            await self._executor.execute(ops.set_trim_times())
        if written is not None:
            self.tally.files.append(str(written[1]))
        self.tally.add(removed.number, removed.first, removed.last)
        self.removed_above += len(positions) - bisect_right(positions, self._cutoff)
        return True

    async def _remove(self, positions: list[int], archive: Archive | None) -> ops.Removed:
        """Remove events in one transaction.

        Raises:
            TransactionConflict: another transaction conflicted, or the removed events are not
                exactly those in the file. Nothing was removed.
        """
        async with self._executor.transaction("trim", read_committed=True) as tx:
            removed = await tx.execute(ops.remove(self.stream, positions, force=self._force))
            if archive is not None:
                expected = archive.origin.low_water or (None, None)
                before = (removed.position_before, removed.removed_before)
                if removed.number != len(positions) or before != expected:
                    raise TransactionConflict("trim: the file holds other events")
        return removed
