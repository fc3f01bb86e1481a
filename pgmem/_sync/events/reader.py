# Generated from pgmem/events/reader.py by tools/generate_sync.py. Do not edit.
"""Reads final events: those below which nothing can still appear.

Where the memory's tailer follows the log, it knows how far that is, and nothing has to be asked.
Elsewhere a read finds out by itself: from positions without a gap, or from who is writing (see
`pgmem.events.stable_position`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pgmem._sync.core.execution import PoolExecutor
from pgmem._sync.events.buffer import EventBuffer
from pgmem._sync.events.follower import LogFollower
from pgmem.core.concurrency import sleep
from pgmem.core.op import Op, Row
from pgmem.core.validation import MAX_POSITION
from pgmem.errors import PositionTrimmed
from pgmem.events.filter import EVERYTHING, EventFilter
from pgmem.events.page import NEVER, UNDATED, Page, PageHead, read_page, trimmed_error
from pgmem.events.stable_position import StablePosition, WriterBarrier, read_positions, read_writers

SETTLE_WAIT = 0.25
"""How long a read waits for writers that keep what it found from being final."""

ANSWER_TIMEOUT = 20.0
"""Seconds that a page may take while catching up: a connection may die without a word, and a
subscription must not wait on it for ever."""
TRIM_WAIT = 1.0
WINDOW = 500_000
"""Positions that a page looks through for events of a selection, so that none takes long however
rare they are."""

PAUSE_FIRST, PAUSE_LAST = 0.001, 0.02


class FinalRows(NamedTuple):
    """What a read found.

    Attributes:
        rows: final events, in order.
        complete_to: no event of the selection up to this position is missing or still to come.
    """

    rows: list[Row]
    complete_to: int


class LogReader:
    """Reads final events from the database, on the connections of the pool.

    Attributes:
        runner: what it reads with.
        feed: the final events that are in memory.
    """

    def __init__(
        self,
        executor: PoolExecutor,
        stable: StablePosition,
        buffer: EventBuffer,
        follower: LogFollower,
    ) -> None:
        self.executor = executor
        self._stable = stable
        self._follower = follower
        self._sessions = 0
        self.buffer = buffer

    def start(self) -> None:
        """See that the tailer follows the log."""
        self._follower.start()

    def _execute_page(
        self, op: Op[Page], position: int, *, answer_timeout: float | None = None
    ) -> Page:
        """Read a page of the log.

        Args:
            op: what to read.
            position: the reader's position.
            answer_timeout: seconds in which the server must answer; None for no limit.

        Raises:
            HistoryRewritten: the log is not the one that the position belongs to.
            PositionTrimmed: retention has removed events that the reader has not read.
        """
        database = self.executor.database
        database.check_history(position)
        page = self.executor.execute(op, answer_timeout=answer_timeout)
        database.check_timeline(page.head.timeline, position)
        if page.head.trimmed is not None:
            raise trimmed_error(position, page.head.trimmed)
        return page

    def page_head(self) -> PageHead:
        """Where the log stands now."""
        op = read_page(EVERYTHING, until=0, limit=1, since=NEVER)
        return (self._execute_page(op, 0, answer_timeout=ANSWER_TIMEOUT)).head

    def beginning(self, wanted: EventFilter) -> PageHead:
        """Where the log stands, for who begins at whatever there is and is strict from there.

        A trim gets its time only after its commit, and is told to who began before that. Who
        begins between the two would be told of what he never asked for, so he waits: a moment,
        or `TRIM_WAIT` seconds where a janitor has died there.
        """
        op = read_page(wanted, until=0, limit=1, since=UNDATED)
        deadline = time.monotonic() + TRIM_WAIT
        while time.monotonic() < deadline:
            try:
                return (self._execute_page(op, 0, answer_timeout=ANSWER_TIMEOUT)).head
            except PositionTrimmed:
                sleep(PAUSE_LAST)
        return self.page_head()

    def read(
        self,
        wanted: EventFilter,
        position: int,
        *,
        until: int = MAX_POSITION,
        limit: int,
        since: datetime | str,
    ) -> FinalRows:
        """Read final events behind a position.

        Args:
            wanted: which events.
            position: where the reader stands.
            until: only positions up to this one.
            limit: at most so many events.
            since: the reader knows what was trimmed up to this moment.

        Raises:
            PositionTrimmed, HistoryRewritten: as `PoolRunner.run_page`.
        """
        if not self.buffer.live:
            return self._settled(
                wanted, position, until, limit=limit, since=since, answer_timeout=ANSWER_TIMEOUT
            )
        until = min(until, self.buffer.end)
        if not wanted.selects_all:
            until = min(until, position + WINDOW)
        if position >= until:
            return FinalRows([], position)
        rewinds = self.buffer.rewinds
        op = read_page(wanted, after=position, until=until, limit=limit, since=since)
        rows = (self._execute_page(op, position, answer_timeout=ANSWER_TIMEOUT)).rows
        if self.buffer.rewinds != rewinds:
            return FinalRows([], position)  # The end was taken back meanwhile: read again.
        return FinalRows(rows, rows[-1][0] if len(rows) == limit else until)

    def read_now(
        self,
        wanted: EventFilter,
        *,
        after: int,
        until: int = MAX_POSITION,
        limit: int,
        since: datetime | str,
    ) -> FinalRows:
        """Read what is final by now, whatever the tailer has seen of it."""
        return self._settled(wanted, after, until, limit=limit, since=since)

    def _settled(
        self,
        wanted: EventFilter,
        after: int,
        until: int,
        *,
        limit: int,
        since: datetime | str,
        answer_timeout: float | None = None,
    ) -> FinalRows:
        op = read_page(wanted, after=after, until=until, limit=limit, since=since)
        known = self._known()
        rows = (self._execute_page(op, after, answer_timeout=answer_timeout)).rows
        known = min(known, self._known())
        if rows and wanted.selects_all and _follows(after, rows):
            # Nothing is missing between the caller's position and the last one.
            self._stable.raise_to(rows[-1][0] if after <= known else 0)
            return FinalRows(rows, rows[-1][0])
        if rows and rows[-1][0] > known:
            self.settle(rows[-1][0])
            # What is final now may have become visible only after the first read.
            known = self._known()
            rows = (self._execute_page(op, after, answer_timeout=answer_timeout)).rows
            known = min(known, self._known())
        full = len(rows) == limit
        rows = [row for row in rows if row[0] <= known]
        if full and rows:
            return FinalRows(rows, rows[-1][0])
        return FinalRows(rows, max(after, min(known, until)))

    def _known(self) -> int:
        """How far the log is final, as far as that is still certain."""
        sessions = self.executor.sessions
        if sessions != self._sessions:
            # A new connection may lead to a server that has crashed.
            self._sessions = sessions
            self._stable.forget()
        return self._stable.position

    def settle(self, target: int | None = None) -> int:
        """Wait until the positions up to `target`, or drawn by now, are final; at most
        `SETTLE_WAIT` seconds. Tells how far the log is final."""
        deadline = time.monotonic() + SETTLE_WAIT
        watch = WriterBarrier()
        pause = PAUSE_FIRST
        while True:
            sessions = self.executor.sessions
            writers = self.executor.execute(read_writers(), answer_timeout=ANSWER_TIMEOUT)
            if sessions != self.executor.sessions:
                watch = WriterBarrier()  # Whom it waits for may be gone by a crash, and come again.
                self._known()
            if target is None:
                target = writers.head
            self._stable.raise_to(watch.observe(writers))
            if self._stable.position >= target:
                return self._stable.position
            if time.monotonic() > deadline:
                break
            sleep(pause)
            pause = min(pause * 2, PAUSE_LAST)
        # Somebody writes for long. What follows without a gap is final all the same.
        positions = self.executor.execute(
            read_positions(self._stable.position), answer_timeout=ANSWER_TIMEOUT
        )
        self._stable.follow(positions)
        return self._stable.position


def _follows(after: int, rows: Sequence[Row]) -> bool:
    return bool(rows[-1][0] - after == len(rows))
