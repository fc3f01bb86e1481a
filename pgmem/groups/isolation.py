"""Let an event that its members lost run alone in this process.

An event that kills its process takes the events beside it with it. After an event was lost twice,
its handler waits until no other handler of any group runs in this process, and none begins while it
runs. If the process dies then, that event did it, and the attempt counts.

There is one `PROCESS` for the runs of all groups, in both forms.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

ISOLATED_AFTER = 2
"""Losses after which an event runs alone. The first may be a deployment that killed all members."""


class Isolation:
    """Count the handlers that run, and let one run alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members = 0
        self._running = 0
        self._alone = False
        self._waiting_alone = 0
        self._wakeups: dict[object, Callable[[], None]] = {}

    @property
    def single(self) -> bool:
        """True if at most one member runs in this process, so that each handler runs alone."""
        return self._members <= 1

    def add_members(self, count: int) -> None:
        """Note that `count` members begin (or, if negative, end)."""
        with self._lock:
            self._members += count

    def wait(self, key: object, wake: Callable[[], None], *, alone: bool) -> None:
        """Call `wake` when `begin` may succeed, until `leave`."""
        with self._lock:
            self._wakeups[key] = wake
            self._waiting_alone += alone

    def leave(self, key: object, *, alone: bool) -> None:
        """Stop waiting."""
        with self._lock:
            if self._wakeups.pop(key, None) is not None:
                self._waiting_alone -= alone
        self._wake()

    def begin(self, *, alone: bool) -> bool:
        """Begin a handler. Return False if it must wait.

        Handlers that begin wait behind one that is to run alone, or it would wait for ever.
        """
        with self._lock:
            if self._alone or (self._running if alone else self._waiting_alone):
                return False
            self._running += 1
            self._alone = alone
            return True

    def end(self) -> None:
        """End a handler."""
        with self._lock:
            self._running -= 1
            self._alone = False
        self._wake()

    def _wake(self) -> None:
        for wake in list(self._wakeups.values()):
            wake()


PROCESS = Isolation()
