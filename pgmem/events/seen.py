"""Remember what the readers of a process have seen of the log.

After a promotion or a crash it is compared with the log; see `pgmem.core.history`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter

from pgmem.core.concurrency import Lock
from pgmem.core.history import Given, parse_lsn
from pgmem.core.op import Row
from pgmem.events.columns import POSITION, RECORDED_AT

VERIFIED_EVENTS = 5_000
"""Number of the latest events that are compared with the log. It is more than a server commits in
the time that a crash can undo."""

_GIVEN: Callable[[Row], Given] = itemgetter(POSITION, RECORDED_AT)


class SeenEvents:
    """The newest events that were given out, and a WAL position that covers what was read.

    Attributes:
        lsn: the server's WAL position at the newest poll or read; 0 for none. Everything that they
            showed was committed before it.
        inlined: the number of events that notifications have brought.
        covered: how many of those the newest poll has covered.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._followed: deque[Given] = deque(maxlen=VERIFIED_EVENTS)
        self._read: deque[Given] = deque(maxlen=VERIFIED_EVENTS)
        self.lsn = 0
        self.inlined = 0
        self.covered = 0

    @property
    def complete(self) -> bool:
        """True if `lsn` covers everything that was given out."""
        return self.inlined == self.covered

    @property
    def last(self) -> int | None:
        """The position of the last event that was given out."""
        ends = [events[-1][0] for events in (self._followed, self._read) if events]
        return max(ends, default=None)

    def followed(self) -> list[Given]:
        """Return the newest events of the log that were followed: all of them, in order."""
        with self._lock:
            return list(self._followed)

    def read(self) -> list[Given]:
        """Return events that were read, in order; there may be others between them."""
        with self._lock:
            return sorted(set(self._read))

    def add_followed(self, rows: Sequence[Row]) -> None:
        """Note stable events, in order."""
        with self._lock:
            self._followed.extend(map(_GIVEN, rows[-VERIFIED_EVENTS:]))

    def begin(self, newest: Sequence[Given]) -> None:
        """Follow from a position on, with the newest events up to it."""
        with self._lock:
            self._followed.clear()
            self._followed.extend(newest)

    def add_read(self, lsn: str | None, rows: Sequence[Row]) -> None:
        """Note what a page has shown."""
        with self._lock:
            self._read.extend(map(_GIVEN, rows[-VERIFIED_EVENTS:]))
            if lsn is not None:
                self.lsn = max(self.lsn, parse_lsn(lsn))

    def polled(self, lsn: str | None, inlined: int) -> None:
        """Note that a poll was answered, which was sent after `inlined` events."""
        self.covered = inlined
        if lsn is not None:
            with self._lock:
                self.lsn = max(self.lsn, parse_lsn(lsn))

    def forget(self) -> None:
        """Forget everything: it is of another history."""
        with self._lock:
            self._followed.clear()
            self._read.clear()
            self.lsn = 0
            self.covered = self.inlined
