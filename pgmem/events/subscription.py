"""Subscriptions: catch up with the log, then follow it, across lost connections.

::

    behind ── reads pages from the database ──► joined ── takes from the buffer ──┐
       ▲                                           ▲                              │
       └──── too slow: the buffer has moved on ────┴─────── waits ◄───────────────┘

    durable:   standing by ──► holding the lease ──► (lost: LeaseLost)

Everything up to `position` has been handed out, once and in order. What a subscription reads by
itself ends at the follower's stable position, so both ways return the same events. What was handed
out counts as handled when more is asked for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from pgmem.core.context import LoopCause, WriteContext
from pgmem.core.op import Row
from pgmem.core.validation import (
    MAX_POSITION,
    Seconds,
    check_count,
    check_position,
    check_seconds,
)
from pgmem.errors import InvalidEvent, InvalidInput, NotOpen, Unavailable
from pgmem.events.buffer import AsyncCursor
from pgmem.events.event_classes import OnInvalid, log_skipped, skips_invalid
from pgmem.events.filter import EventFilter
from pgmem.events.page import ALWAYS, PageSize, standby_error
from pgmem.events.reader import AsyncLogReader

T = TypeVar("T")

Start = int | Literal["now"]

BATCH = 500
"""Number of events that an iteration fetches at a time."""
RETRY = 0.1
"""Seconds until it reads again from the database, where no wake-up comes."""


class AsyncSubscription(Generic[T]):
    """Hands out the selected events, one after the other, until it is closed.

    Made by `memory.events.subscribe` and `memory.state.watch`. Use it as a context manager, from
    one task at a time; only `stop` may be called from elsewhere.
    """

    def __init__(
        self,
        reader: AsyncLogReader,
        wanted: EventFilter,
        start: Start,
        decode: Callable[[Row], T],
        *,
        until: int = MAX_POSITION,
        on_invalid: OnInvalid = "raise",
        context: WriteContext | None = None,
    ) -> None:
        self._cursor = AsyncCursor(wanted.test(), 0)
        self._skips = skips_invalid(on_invalid)
        if start != "now":
            check_position(start, "after")
        self._reader = reader
        self._wanted = wanted
        self._until = until
        self._start = start
        self._decode = decode
        self._since: datetime | str = ALWAYS
        self._begun = False
        self._closed = False
        self._ready: deque[Row] = deque()
        self._size = PageSize()
        self._position = 0
        self._last = 0
        self._asked = 0
        self._cause = None if context is None else LoopCause(context)

    @property
    def position(self) -> int:
        """Every selected event up to this position has been handed out."""
        if self._ready:
            return self._position
        # It goes back after a crash of the server: void positions above the last event may be drawn
        # again.
        return min(self._position, self._cursor.position)

    async def __aenter__(self) -> Self:
        if not self._begun:
            try:
                await self._begin()
            except BaseException:
                await self.close()  # __aexit__ does not run.
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        ready = self._ready
        while True:
            self._asked = self._position
            if not ready:
                await self._more_asked()
                await self._fill(BATCH, None)
            if not ready or self._cursor.stopped:
                self._end_cause()
                raise StopAsyncIteration
            # As `_take` does, without another call for each event.
            row = ready.popleft()
            self._last = row[0]
            self._position = row[0] if ready else self._cursor.position
            try:
                item = self._decode(row)
            except InvalidEvent as error:
                self._skip(error)
                continue
            if self._cause is not None:
                self._cause.begin(row[0])
            return item

    async def receive(self, limit: int = 100, *, timeout: Seconds | None = None) -> list[T]:
        """Return the next events: those that are there, or else the first that comes.

        What was handed out before counts as handled.

        Args:
            limit: maximum number of events, 1 to 10,000, 100 by default.
            timeout: maximum wait for the first event, in seconds or as a timedelta; None, the
                default, waits for ever, 0 does not wait.

        Returns:
            Events in order. The list is empty if the timeout is over or `stop` was called.

        Raises:
            PositionTrimmed: retention has removed events that were not read yet.
            HistoryRewritten: the log is another one after a failover or a restore.
            InvalidEvent: with `on_invalid="raise"`, the next event does not fit its class or
                `model`. It is handed out as `event` of the error; the next call goes on after it.
        """
        check_count(limit, "limit", minimum=1, maximum=10_000)
        wait = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        deadline = None if wait is None else time.monotonic() + wait
        self._end_cause()
        while True:
            await self._more_asked()
            if not self._ready:
                await self._fill(limit, deadline)
            if not self._ready or self._cursor.stopped:
                return []
            if items := self._decode_ready(limit):
                return items

    def _decode_ready(self, limit: int) -> list[T]:
        """Hand out events that are ready. The list is empty if all of them were skipped."""
        items: list[T] = []
        while self._ready and len(items) < limit and not self._cursor.stopped:
            try:
                item = self._decode(self._ready[0])
            except InvalidEvent as error:
                if items and not self._skips:
                    break  # The next call begins with it.
                self._take()
                self._skip(error)
                continue
            self._take()
            items.append(item)
        return items

    def _skip(self, error: InvalidEvent) -> None:
        """Log an event that does not fit, or raise its error."""
        if not self._skips:
            raise error
        log_skipped(error)

    def _end_cause(self) -> None:
        if self._cause is not None:
            self._cause.end()

    def _take(self) -> Row:
        row = self._ready.popleft()
        self._last = row[0]
        self._position = row[0] if self._ready else self._cursor.position
        return row

    def stop(self) -> None:
        """End the subscription, from any thread or task: no more events are handed out."""
        self._cursor.stopped = True
        self._cursor.wakeup.set()

    async def close(self) -> None:
        """Stop following."""
        self._closed = True
        self.stop()
        self._end_cause()
        self._reader.buffer.leave(self._cursor)

    def __del__(self) -> None:
        # It was not closed. Take no lock: the thread that collects garbage may hold it.
        self._cursor.stopped = True

    async def _enter(self) -> None:
        """Start the follower and add the cursor to its buffer."""
        if self._closed:
            raise InvalidInput("this subscription was closed: make another one")
        self._reader.start()
        self._reader.buffer.enter(self._cursor)

    async def _begin(self) -> float | None:
        """Find the position to begin at. Return the seconds to wait if that is not possible yet."""
        await self._enter()
        self._begin_at(await self._first_position())
        return None

    def _begin_at(self, position: int) -> None:
        self._position = self._asked = position
        self._cursor.position = self._cursor.handed = position
        self._begun = True

    async def _more_asked(self) -> None:
        """Note that more is asked for, so what was handed out is handled."""
        self._asked = self.position

    async def _idle(self) -> float | None:
        """Use the time without events, in a subclass. Return the longest wait, or None."""
        return None

    async def _first_position(self) -> int:
        start, buffer = self._start, self._reader.buffer
        if start != "now":
            self._reader.check_position(start)
        if start != "now" and start > 0 and buffer.live and start <= buffer.end:
            return start
        if start == 0:
            head = await self._reader.beginning(self._wanted)
            self._since = head.now
        else:
            head = await self._reader.page_head()
        if head.timeline is None:
            raise standby_error()
        if start == "now":
            return head.head
        return start

    async def _fill(self, most: int, deadline: float | None) -> None:
        """Get events ready, unless the deadline is over or `stop` was called."""
        cursor = self._cursor
        while not cursor.stopped:
            if cursor.failed is not None:
                raise cursor.failed
            pause: float | None = None
            rows = self._reader.buffer.take(cursor, most) if self._begun else None
            if rows is None:
                rows, pause = await self._catch_up(most) if self._begun else await self._try_begin()
            elif not rows:
                pause = await self._idle()
            if rows:
                self._position = min(self._position, rows[0][0] - 1)
                self._ready.extend(rows)
                return
            if pause == 0.0:
                continue
            if cursor.position >= self._until:
                break
            over = False
            if deadline is not None:
                remaining = deadline - time.monotonic()
                over = remaining <= 0
                pause = max(0.0, remaining if pause is None else min(pause, remaining))
            # Without time left, too, it takes in what has arrived.
            if not await self._reader.wait(cursor, pause) and over:
                break
        if self._begun:
            self._position = cursor.position

    async def _try_begin(self) -> tuple[list[Row], float | None]:
        """Begin. Return no events, and the seconds to wait if that is not possible yet."""
        return [], await self._begin() or 0.0

    async def _catch_up(self, most: int) -> tuple[list[Row], float | None]:
        """Read from the database. Return events, and the seconds to wait if there are none."""
        cursor = self._cursor
        limit = min(self._size.limit, max(most, BATCH))
        try:
            if not self._reader.buffer.live:
                self._reader.start()  # The follower may have been ending when this one began.
            found = await self._reader.read(
                self._wanted, cursor.position, until=self._until, limit=limit, since=self._since
            )
        except Unavailable:
            # The executor has tried for long, and the follower logs the reason.
            return [], RETRY
        except NotOpen:
            if not cursor.stopped:
                raise
            return [], 0.0
        if cursor.failed is not None:
            raise cursor.failed  # What was read may be of another history.
        if found.rows:
            cursor.handed = found.rows[-1][0]
        moved = found.complete_to > cursor.position
        cursor.position = max(cursor.position, found.complete_to)
        self._size.learn(found.rows)
        return found.rows, 0.0 if moved else RETRY
