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


class Follower:
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


class Feed:
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
        self._followers: set[Follower] = set()

    def begin(self, position: int) -> None:
        """Start anew at a position: who is elsewhere reads by itself."""
        with self._lock:
            self._first += len(self._rows)
            self._rows, self._bytes = [], 0
            self._start = self.end = position
            self.live = True
            for follower in self._followers:
                follower.place = -1
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
            for follower in self._followers:
                follower.position = max(min(follower.position, self.end), follower.handed)

    def enter(self, follower: Follower) -> None:
        """Follow from now on."""
        with self._lock:
            # Some were forgotten and never left.
            self._followers = {other for other in self._followers if not other.stopped}
            self._followers.add(follower)

    def leave(self, follower: Follower) -> None:
        """Follow no more."""
        with self._lock:
            self._followers.discard(follower)

    def wake(self) -> None:
        """Wake everybody."""
        with self._lock:
            followers = list(self._followers)
        for follower in followers:
            follower.wakeup.set()

    def stop(self) -> None:
        """End every follower."""
        with self._lock:
            for follower in self._followers:
                follower.stopped = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come: every follower gets the error."""
        with self._lock:
            self.live = False
            for follower in self._followers:
                follower.failed = error
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
            for follower in self._followers:
                if not follower.waiting or follower.place != known:
                    wanted = True
                    continue
                if follower.wants_any(rows):
                    wanted = True
                    follower.waiting = False
                    woken.append(follower)
                else:
                    # Nothing for it: take it along, so that it does not fall behind sleep.
                    follower.place = known + len(rows)
                    follower.position = max(follower.position, end)
        for follower in woken:
            follower.wakeup.set()
        return wanted

    def _drop(self) -> None:
        """Let go of the older half."""
        drop = len(self._rows) // 2 or 1
        self._start = self._rows[drop - 1][0]
        self._bytes -= sum(map(row_bytes, self._rows[:drop]))
        del self._rows[:drop]
        self._first += drop

    def take(self, follower: Follower, most: int) -> list[Row] | None:
        """Up to `most` events for a follower that it has not had; None if it must read by itself.

        If there are none it is marked as waiting: `wakeup` will tell when one comes.
        """
        with self._lock:
            if not self.live or not self._join(follower):
                return None
            offset = follower.place - self._first
            rows = self._rows
            taken: list[Row] = []
            while offset < len(rows) and len(taken) < most:
                chunk = rows[offset : offset + most - len(taken)]
                offset += len(chunk)
                taken += follower.wanted(chunk)
            follower.place = self._first + offset
            reached = self.end if offset == len(rows) else rows[offset - 1][0]
            follower.position = max(follower.position, reached)
            follower.waiting = not taken
            if taken:
                follower.handed = taken[-1][0]
            return taken

    def _join(self, follower: Follower) -> bool:
        """Find a follower's place; tells whether it is in the window."""
        if follower.place >= self._first:
            return True
        if follower.position < self._start:
            return False
        follower.floor = follower.position if follower.position > self.end else 0
        low, high = 0, len(self._rows)
        while low < high:
            middle = (low + high) // 2
            if self._rows[middle][0] <= follower.position:
                low = middle + 1
            else:
                high = middle
        follower.place = self._first + low
        return True
