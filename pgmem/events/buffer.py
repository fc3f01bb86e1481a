"""The end of the log in memory: how far it is stable, its newest events, and the readers.

::

        ┌ start                          end ┐
    …   │ 91  92  93  94  95  96  97  98  99 │     the follower adds at the end, old events drop out
              ▲           ▲               ▲
              B           A               C        the place of each reader
    D is below `start`. It reads from the database and joins again.

The follower brings what it reads. The buffer's `GapTracker` says which of it is stable, and that
much is added. Other reads of the process tell how far they found the log to be stable
(`raise_stable`), and the tracker learns of it. So the stable position stands here and nowhere else.

One lock guards all of it. No reader holds it while it waits, so no reader can delay another one or
the follower. The buffer knows no database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgmem.core.concurrency import AsyncWakeup, Lock
from pgmem.core.op import Row
from pgmem.events.gap_tracker import GapTracker, PollResult
from pgmem.events.page import Page, PollRequest, row_bytes

KEPT_EVENTS = 10_000
KEPT_BYTES = 32 * 1024 * 1024
"""The buffer keeps at least so much, and at most twice that. It drops the older half at once, which
is cheaper than one event at a time."""


class AsyncCursor:
    """A reader's place in the buffer.

    Attributes:
        test: returns True for the events that it wants; None for all.
        position: it has taken everything that it wants up to here.
        place: index of its next event, counted from the buffer's first event ever; -1 if unknown.
        floor: events up to here are not for it: it began above the buffer's end.
        handed: position of the last event that it took, or where it began.
        waiting: it waits for `wakeup`, because the buffer has nothing for it.
        failed: the error that ends it.
        stopped: it must end.
    """

    def __init__(self, test: Callable[[Row], bool] | None, position: int) -> None:
        self.test = test
        self.position = position
        self.place = -1
        self.floor = 0
        self.handed = position
        self.waiting = False
        self.wakeup = AsyncWakeup()
        self.failed: Exception | None = None
        self.stopped = False

    def wanted(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the events that it wants."""
        if rows and rows[0][0] <= self.floor:
            rows = [row for row in rows if row[0] > self.floor]
        return rows if self.test is None else list(filter(self.test, rows))

    def wants_any(self, rows: Sequence[Row]) -> bool:
        """Return True if it wants one of the events."""
        if self.test is None:
            return bool(rows) and rows[-1][0] > self.floor
        return bool(self.wanted(rows)) if self.floor else any(map(self.test, rows))


class AsyncEventBuffer:
    """A bounded window on the end of the log.

    Attributes:
        tracker: the tracker of the end of the log; None if nothing is certain.
        live: True while the follower adds events.
        rewinds: how often `end` went back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self.tracker: GapTracker | None = None
        self._stable = 0
        self._doubtful = False
        self._rows: list[Row] = []
        self._first = 0  # index of _rows[0], counted from the beginning
        self._bytes = 0
        self._start = 0
        self.rewinds = 0
        self.live = False
        self._cursors: set[AsyncCursor] = set()

    @property
    def end(self) -> int:
        """Everything up to it has been added: stable, and in order."""
        tracker = self.tracker
        return 0 if tracker is None else tracker.position

    @property
    def stable(self) -> int:
        """The position up to which this process knows the log to be stable."""
        return self._stable if self._doubtful else max(self._stable, self.end)

    def raise_stable(self, position: int) -> None:
        """Record that everything up to `position` is visible to a statement that begins now."""
        with self._lock:
            self._stable = max(self._stable, position)
            if self.tracker is not None:
                self.tracker.note_stable(position)

    def forget_stable(self) -> None:
        """Trust nothing until the follower has polled: the server may have crashed."""
        with self._lock:
            self._stable, self._doubtful = 0, True

    def begin(self, position: int) -> None:
        """Begin anew at a stable position. A cursor elsewhere reads from the database."""
        with self._lock:
            self._first += len(self._rows)
            self._rows, self._bytes = [], 0
            self._start = position
            self.tracker = GapTracker(position)
            self._stable, self._doubtful = max(self._stable, position), False
            self.live = True
            for cursor in self._cursors:
                cursor.place = -1
        self.wake()

    def rewind(self, *, certain: bool = True) -> None:
        """Go back to the position of the last event, because the server may have crashed.

        Void positions above it may become events.

        Args:
            certain: False if not even that event is certain. Then cursors read from the database
                until `begin`.
        """
        with self._lock:
            self.rewinds += 1
            self.tracker = self.tracker.rewound() if self.tracker and certain else None
            self._stable = min(self._stable, self.end)
            self.live = self.live and self.tracker is not None
            for cursor in self._cursors:
                cursor.position = max(min(cursor.position, self.end), cursor.handed)

    def leave_off(self) -> None:
        """Let cursors read from the database until `begin`."""
        with self._lock:
            self.tracker, self.live = None, False

    def enter(self, cursor: AsyncCursor) -> None:
        """Add a cursor."""
        with self._lock:
            # Subscriptions that were never closed.
            self._cursors = {other for other in self._cursors if not other.stopped}
            self._cursors.add(cursor)

    def leave(self, cursor: AsyncCursor) -> None:
        """Remove a cursor."""
        with self._lock:
            self._cursors.discard(cursor)

    def wake(self) -> None:
        """Wake all cursors."""
        with self._lock:
            cursors = list(self._cursors)
        for cursor in cursors:
            cursor.wakeup.set()

    def stop(self) -> None:
        """Stop all cursors."""
        with self._lock:
            for cursor in self._cursors:
                cursor.stopped = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """End all cursors with an error."""
        with self._lock:
            self.live = False
            for cursor in self._cursors:
                cursor.failed = error
        self.wake()

    def take_page(self, page: Page, request: PollRequest) -> PollResult:
        """Take in what a poll has read, and wake the cursors that wait for some of it."""
        with self._lock:
            if self.tracker is None:
                return PollResult((), ())
            taken = self.tracker.take(page, request)
            self._doubtful = False
            woken = self._add(taken.stable, self.tracker.position)
        for cursor in woken:
            cursor.wakeup.set()
        return taken

    def accept(self, rows: Sequence[Row]) -> tuple[PollResult, bool]:
        """Take in inlined events, and wake cursors.

        Returns:
            What came of them, and True if some are left to a poll.
        """
        seen: list[Row] = []
        stable: list[Row] = []
        woken: Sequence[AsyncCursor] = ()
        left = False
        with self._lock:
            tracker = self.tracker
            for row in rows:
                taken = None if tracker is None else tracker.accept(row)
                if taken is None:
                    left = True
                else:
                    seen += taken.seen
                    stable += taken.stable
            if tracker is not None and stable:
                woken = self._add(stable, tracker.position)
        for cursor in woken:
            cursor.wakeup.set()
        return PollResult(seen, stable), left

    def wants_any(self, rows: Sequence[Row]) -> bool:
        """Return True if a cursor wants one of the events."""
        with self._lock:
            return any(cursor.wants_any(rows) for cursor in self._cursors if not cursor.stopped)

    def _add(self, rows: Sequence[Row], end: int) -> Sequence[AsyncCursor]:
        """Add stable events. Return the cursors to wake.

        Args:
            rows: the events, in order.
            end: everything up to it is stable and added with them.
        """
        known = self._first + len(self._rows)
        self._rows.extend(rows)
        self._bytes += sum(map(row_bytes, rows))
        if len(self._rows) > 2 * KEPT_EVENTS or self._bytes > 2 * KEPT_BYTES:
            self._drop()
        woken = []
        for cursor in self._cursors:
            if not cursor.waiting or cursor.place != known:
                continue
            if cursor.wants_any(rows):
                cursor.waiting = False
                woken.append(cursor)
            else:
                # Advance it, so that it does not fall behind while it waits.
                cursor.place = known + len(rows)
                cursor.position = max(cursor.position, end)
        return woken

    def _drop(self) -> None:
        """Drop the older half."""
        drop = len(self._rows) // 2 or 1
        self._start = self._rows[drop - 1][0]
        self._bytes -= sum(map(row_bytes, self._rows[:drop]))
        del self._rows[:drop]
        self._first += drop

    def take(self, cursor: AsyncCursor, most: int) -> list[Row] | None:
        """Take up to `most` next events for a cursor. Return None if it must read the database.

        If there are none, the cursor waits: `wakeup` is set when one comes.
        """
        with self._lock:
            if not self.live or not self._join(cursor):
                return None
            offset = cursor.place - self._first
            rows = self._rows
            taken: list[Row] = []
            while offset < len(rows) and len(taken) < most:
                chunk = rows[offset : offset + most - len(taken)]
                offset += len(chunk)
                taken += cursor.wanted(chunk)
            cursor.place = self._first + offset
            reached = self.end if offset == len(rows) else rows[offset - 1][0]
            cursor.position = max(cursor.position, reached)
            cursor.waiting = not taken
            if taken:
                cursor.handed = taken[-1][0]
            return taken

    def _join(self, cursor: AsyncCursor) -> bool:
        """Find a cursor's place. Return True if it is in the buffer."""
        if cursor.place >= self._first:
            return True
        if cursor.position < self._start:
            return False
        cursor.floor = cursor.position if cursor.position > self.end else 0
        low, high = 0, len(self._rows)
        while low < high:
            middle = (low + high) // 2
            if self._rows[middle][0] <= cursor.position:
                low = middle + 1
            else:
                high = middle
        cursor.place = self._first + low
        return True
