"""Read stable events from the database.

While the follower follows the log, it knows how far the log is stable, and a read asks nothing.
Otherwise a read finds out by itself: from positions without a gap, or from the open writers (see
`pgmem.events.stable_position`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pgmem.core.concurrency import async_sleep
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.history import History, read_history
from pgmem.core.op import Op, Row
from pgmem.core.validation import MAX_POSITION
from pgmem.errors import NotOpen, PositionTrimmed
from pgmem.events.buffer import AsyncCursor, AsyncEventBuffer
from pgmem.events.filter import EVERYTHING, EventFilter
from pgmem.events.follower import AsyncLogFollower
from pgmem.events.history_check import AsyncHistoryCheck
from pgmem.events.page import NEVER, UNDATED, Page, PageHead, read_page, trimmed_error
from pgmem.events.stable_position import (
    WriterBarrier,
    contiguous_end,
    read_positions,
    read_writers,
)

STABLE_WAIT = 0.25
"""Seconds that a read waits for open writers below the events that it found."""

ANSWER_TIMEOUT = 20.0
"""Seconds in which the server must answer a subscription that catches up. A connection may be lost
without an error, and the subscription would wait for ever."""
TRIM_WAIT = 1.0
WINDOW = 500_000
"""Number of positions that one page looks through for selected events, so that no page takes long
if they are rare."""

PAUSE_FIRST, PAUSE_LAST = 0.001, 0.02


class StableRows(NamedTuple):
    """The result of a read.

    Attributes:
        rows: stable events, in order.
        complete_to: no selected event up to this position is missing or still to come.
    """

    rows: list[Row]
    complete_to: int


class AsyncLogReader:
    """Reads stable events from the database, on connections of the pool.

    Attributes:
        executor: executes the reads.
        buffer: the newest stable events in memory.
    """

    def __init__(
        self,
        executor: AsyncPoolExecutor,
        buffer: AsyncEventBuffer,
        follower: AsyncLogFollower,
        check: AsyncHistoryCheck,
    ) -> None:
        self.executor = executor
        self._check = check
        self._follower = follower
        self._sessions = 0
        self.buffer = buffer

    def start(self) -> None:
        """Start the follower, unless it follows."""
        self._follower.start()

    def check_position(self, position: int) -> None:
        """Raise if a caller's position may belong to a history that this memory has lost.

        Raises:
            HistoryRewritten: it may.
        """
        self.executor.database.check_position(position)

    async def follow_history(self, found: History) -> None:
        """Go on in another history of the log, if it holds what this memory has read.

        Raises:
            HistoryRewritten: it does not hold what the readers of this memory have seen.
        """
        # A pooler may have kept the connections, so that no session has found this history yet.
        await self.executor.execute(read_history())
        await self._check.follow(self.executor.execute, found)

    async def wait(self, cursor: AsyncCursor, timeout: float | None) -> bool:
        """Wait for a call of the cursor's wakeup; see `AsyncLogFollower.wait`.

        Raises:
            NotOpen: the memory is closed, and had not stopped the cursor.
        """
        try:
            return await self._follower.wait(cursor.wakeup, timeout)
        except NotOpen:
            if not cursor.stopped:
                raise
            return True

    async def _execute_page(
        self, op: Op[Page], position: int, *, answer_timeout: float | None = None
    ) -> Page:
        """Read a page of the log.

        Args:
            op: what to read.
            position: the reader's position.
            answer_timeout: seconds in which the server must answer; None for no limit.

        Raises:
            HistoryRewritten: the log does not hold what the readers of this memory have seen.
            PositionTrimmed: retention has removed events that the reader has not read.
        """
        database = self.executor.database
        page = await self.executor.execute(op, answer_timeout=answer_timeout)
        timeline = page.head.timeline
        if database.found is not None:
            await self.follow_history(database.found)
        elif timeline is not None and timeline != database.history.timeline:
            await self.follow_history(History(database.history.system_identifier, timeline))
        self._check.seen.add_read(page.head.lsn, page.rows)
        if page.head.trimmed is not None:
            raise trimmed_error(position, page.head.trimmed)
        return page

    async def page_head(self) -> PageHead:
        """Read where the log is now."""
        op = read_page(EVERYTHING, until=0, limit=1, since=NEVER)
        return (await self._execute_page(op, 0, answer_timeout=ANSWER_TIMEOUT)).head

    async def beginning(self, wanted: EventFilter) -> PageHead:
        """Read where the log is, for a reader that begins with the oldest event that is kept.

        A trim gets its time after its commit, and readers that began before that time get an
        error. A reader that begins between the two would get it for events that it never asked
        for. So it waits until the trim has its time, at most `TRIM_WAIT` seconds in case the
        trimming process has died.
        """
        op = read_page(wanted, until=0, limit=1, since=UNDATED)
        deadline = time.monotonic() + TRIM_WAIT
        while time.monotonic() < deadline:
            try:
                return (await self._execute_page(op, 0, answer_timeout=ANSWER_TIMEOUT)).head
            except PositionTrimmed:
                await async_sleep(PAUSE_LAST)
        return await self.page_head()

    async def read(
        self,
        wanted: EventFilter,
        position: int,
        *,
        until: int = MAX_POSITION,
        limit: int,
        since: datetime | str,
    ) -> StableRows:
        """Read stable events above a position, as far as the follower knows them.

        Args:
            wanted: which events.
            position: the reader's position.
            until: only positions up to this one.
            limit: maximum number of events.
            since: the reader knows what was trimmed up to this moment.

        Raises:
            PositionTrimmed: retention has removed events that the reader has not read.
            HistoryRewritten: the log is not the one that the position belongs to.
        """
        if not self.buffer.live:
            return await self.read_now(
                wanted,
                after=position,
                until=until,
                limit=limit,
                since=since,
                answer_timeout=ANSWER_TIMEOUT,
            )
        until = min(until, self.buffer.end)
        if not wanted.selects_all:
            until = min(until, position + WINDOW)
        if position >= until:
            return StableRows([], position)
        rewinds = self.buffer.rewinds
        op = read_page(wanted, after=position, until=until, limit=limit, since=since)
        rows = (await self._execute_page(op, position, answer_timeout=ANSWER_TIMEOUT)).rows
        if self.buffer.rewinds != rewinds:
            return StableRows([], position)  # The end went back meanwhile: read again.
        return StableRows(rows, rows[-1][0] if len(rows) == limit else until)

    async def read_now(
        self,
        wanted: EventFilter,
        *,
        after: int,
        until: int = MAX_POSITION,
        limit: int,
        since: datetime | str,
        answer_timeout: float | None = None,
    ) -> StableRows:
        """Read what is stable by now, whatever the follower has seen of it.

        Args:
            wanted, until, limit, since: as for `read`.
            after: the reader's position.
            answer_timeout: seconds in which the server must answer; None for no limit.
        """
        op = read_page(wanted, after=after, until=until, limit=limit, since=since)
        known = self._known()
        rows = (await self._execute_page(op, after, answer_timeout=answer_timeout)).rows
        known = min(known, self._known())
        if rows and wanted.selects_all and _follows(after, rows):
            # No position is missing between the caller's and the last one.
            self.buffer.raise_stable(rows[-1][0] if after <= known else 0)
            return StableRows(rows, rows[-1][0])
        if rows and rows[-1][0] > known:
            await self.wait_until_stable(rows[-1][0])
            # What is stable now may have become visible after the first read.
            known = self._known()
            rows = (await self._execute_page(op, after, answer_timeout=answer_timeout)).rows
            known = min(known, self._known())
        full = len(rows) == limit
        if rows and rows[-1][0] > known:
            rows = [row for row in rows if row[0] <= known]
        if full and rows:
            return StableRows(rows, rows[-1][0])
        return StableRows(rows, max(after, min(known, until)))

    def _known(self) -> int:
        """Return the position that is certainly stable."""
        sessions = self.executor.database.sessions
        if sessions != self._sessions:
            # A new connection may lead to a server that has crashed meanwhile.
            self._sessions = sessions
            self.buffer.forget_stable()
        return self.buffer.stable

    async def wait_until_stable(self, target: int | None = None) -> int:
        """Wait until a position is stable, at most `STABLE_WAIT` seconds.

        Args:
            target: the position; None for the highest that is drawn by now.

        Returns:
            The stable position, which may be lower than `target`.
        """
        deadline = time.monotonic() + STABLE_WAIT
        barrier = WriterBarrier()
        pause = PAUSE_FIRST
        while True:
            sessions = self.executor.sessions
            writers = await self.executor.execute(read_writers(), answer_timeout=ANSWER_TIMEOUT)
            if sessions != self.executor.sessions:
                barrier = WriterBarrier()  # A crash may have ended writers whose names come again.
                self._known()
            if target is None:
                target = writers.head
            self.buffer.raise_stable(barrier.observe(writers))
            if self.buffer.stable >= target:
                return self.buffer.stable
            if time.monotonic() > deadline:
                break
            await async_sleep(pause)
            pause = min(pause * 2, PAUSE_LAST)
        # A writer is open for long. Positions without a gap are stable all the same.
        stable = self.buffer.stable
        positions = await self.executor.execute(
            read_positions(stable), answer_timeout=ANSWER_TIMEOUT
        )
        self.buffer.raise_stable(contiguous_end(stable, positions))
        return self.buffer.stable


def _follows(after: int, rows: Sequence[Row]) -> bool:
    return bool(rows[-1][0] - after == len(rows))
