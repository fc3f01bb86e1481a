# Generated from pgmem/events/buffer.py by tools/generate_sync.py. Do not edit.
"""The newest final events in memory, and the subscriptions that follow them.

::

        ┌ start                          end ┐
    …   │ 91  92  93  94  95  96  97  98  99 │      the tailer adds at the end, old ones drop out
              ▲           ▲               ▲
              B           A               C         followers: each has its own place
    D is behind `start`: it reads from the database, and joins again.

One lock guards all of it; nobody holds it while waiting, so no follower can hold up another one
or the tailer. Knows no database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgmem.core.concurrency import Lock, Wakeup
from pgmem.core.op import Row
from pgmem.events.page import row_bytes

KEPT_EVENTS = 10_000
KEPT_BYTES = 32 * 1024 * 1024
"""So much is kept at least, where there was so much, and twice that at most: the older half goes at
once, which is cheaper than one by one."""


class Cursor:
    """A subscription's place in the feed.

    Attributes:
        test: which events it wants; None for all.
        position: it has taken everything that it wants up to here.
        waiting: nothing is there for it, and it waits for `wakeup`.
        failed: why it cannot go on.
        stopped: it is to end.
    """

    def __init__(self, test: Callable[[Row], bool] | None, position: int) -> None:
        self.test = test
        self.position = position
        self.place = -1  # index of the next event in the feed, counted from its beginning
        self.floor = 0  # events up to here are not for it: it began above the feed's end
        self.handed = position  # the last event that it took, or where it began
        self.waiting = False
        self.wakeup = Wakeup()
        self.failed: Exception | None = None
        self.stopped = False

    def wanted(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The events that are for it."""
        if rows and rows[0][0] <= self.floor:
            rows = [row for row in rows if row[0] > self.floor]
        return rows if self.test is None else list(filter(self.test, rows))

    def wants_any(self, rows: Sequence[Row]) -> bool:
        """Whether one of the events is for it."""
        if self.test is None:
            return bool(rows) and rows[-1][0] > self.floor
        return bool(self.wanted(rows)) if self.floor else any(map(self.test, rows))


class EventBuffer:
    """A bounded window on the end of the log.

    Attributes:
        live: whether a tailer feeds it.
        end: everything up to it has been added: final, and in order.
        rewinds: how often `end` was taken back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: list[Row] = []
        self._first = 0  # index of _rows[0], counted from the beginning
        self._bytes = 0
        self._start = 0
        self.end = 0
        self.rewinds = 0
        self.live = False
        self._cursors: set[Cursor] = set()

    def begin(self, position: int) -> None:
        """Start anew at a position: who is elsewhere reads by itself."""
        with self._lock:
            self._first += len(self._rows)
            self._rows, self._bytes = [], 0
            self._start = self.end = position
            self.live = True
            for cursor in self._cursors:
                cursor.place = -1
        self.wake()

    def rewind(self, position: int | None) -> None:
        """The server may have crashed: certain are the events, and `position` of the last one.

        What lies behind it was void, and may become events. None: nothing is certain, and who
        follows reads by itself until `begin`.
        """
        with self._lock:
            self.rewinds += 1
            self.end = min(self.end, position or 0)
            self.live = self.live and position is not None
            for cursor in self._cursors:
                cursor.position = max(min(cursor.position, self.end), cursor.handed)

    def enter(self, cursor: Cursor) -> None:
        """Follow from now on."""
        with self._lock:
            # Some were forgotten and never left.
            self._cursors = {other for other in self._cursors if not other.stopped}
            self._cursors.add(cursor)

    def leave(self, cursor: Cursor) -> None:
        """Follow no more."""
        with self._lock:
            self._cursors.discard(cursor)

    def wake(self) -> None:
        """Wake everybody."""
        with self._lock:
            cursors = list(self._cursors)
        for cursor in cursors:
            cursor.wakeup.set()

    def stop(self) -> None:
        """End every follower."""
        with self._lock:
            for cursor in self._cursors:
                cursor.stopped = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come: every follower gets the error."""
        with self._lock:
            self.live = False
            for cursor in self._cursors:
                cursor.failed = error
        self.wake()

    def add(self, rows: Sequence[Row], end: int) -> bool:
        """Add final events, and everything up to `end` with them; wakes those who want one.

        Returns:
            Whether somebody may want one: who does not wait now has not said so.
        """
        with self._lock:
            known = self._first + len(self._rows)
            self._rows.extend(rows)
            self._bytes += sum(map(row_bytes, rows))
            self.end = end
            if len(self._rows) > 2 * KEPT_EVENTS or self._bytes > 2 * KEPT_BYTES:
                self._drop()
            woken = []
            wanted = False
            for cursor in self._cursors:
                if not cursor.waiting or cursor.place != known:
                    wanted = True
                    continue
                if cursor.wants_any(rows):
                    wanted = True
                    cursor.waiting = False
                    woken.append(cursor)
                else:
                    # Nothing for it: take it along, so that it does not fall behind sleep.
                    cursor.place = known + len(rows)
                    cursor.position = max(cursor.position, end)
        for cursor in woken:
            cursor.wakeup.set()
        return wanted

    def _drop(self) -> None:
        """Let go of the older half."""
        drop = len(self._rows) // 2 or 1
        self._start = self._rows[drop - 1][0]
        self._bytes -= sum(map(row_bytes, self._rows[:drop]))
        del self._rows[:drop]
        self._first += drop

    def take(self, cursor: Cursor, most: int) -> list[Row] | None:
        """Up to `most` events for a follower that it has not had; None if it must read by itself.

        If there are none it is marked as waiting: `wakeup` will tell when one comes.
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

    def _join(self, cursor: Cursor) -> bool:
        """Find a follower's place; tells whether it is in the window."""
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
