"""Wake waiters of this process that wait for something with a name: a lease, a group's work.

A targeted notification travels on the channel of event notifications, or on the channel of one
process, and names what it is for. So of many waiters only the named one asks the server::

    statement ── pg_notify('["!", name, detail]') ──► listener ──► deliver ──► the waiter's wakeup

A notification carries no promise: a waiter also polls at intervals, and all waiters are woken after
a lost connection.
"""

from __future__ import annotations

from typing import Any

import orjson

from pgmem.core.concurrency import AsyncWakeup, Lock

TARGETED_PREFIX = '["!"'
"""How the payload of a targeted notification begins. An inline event begins otherwise."""


class AsyncTargetedNotifications:
    """Deliver targeted notifications to the waiters of one process.

    A waiter waits for one name.

    Attributes:
        listener_id: the number by which the server knows that this process listens, or None while
            it does not. Each session has a new one.
        received: how many notifications have come, for any name. A waiter that was not registered
            meanwhile compares it to see that it may have missed one.
    """

    def __init__(self) -> None:
        self.listener_id: int | None = None
        self.arrive = False
        self.received = 0
        self._lock = Lock()
        self._waiters: dict[str, set[AsyncWakeup]] = {}
        self._details: dict[AsyncWakeup, Any] = {}

    @property
    def awaited(self) -> bool:
        """True if a waiter is registered."""
        return bool(self._waiters)

    def register(self, name: str, wakeup: AsyncWakeup) -> None:
        """Wake `wakeup` at each notification for `name`, until `unregister`."""
        with self._lock:
            self._waiters.setdefault(name, set()).add(wakeup)

    def unregister(self, name: str, wakeup: AsyncWakeup) -> None:
        """Stop waking `wakeup`."""
        with self._lock:
            waiters = self._waiters.get(name)
            if waiters is not None:
                waiters.discard(wakeup)
                if not waiters:
                    del self._waiters[name]
            self._details.pop(wakeup, None)

    def take_detail(self, wakeup: AsyncWakeup) -> Any:
        """Return the detail of the last notification for this waiter, once; else None."""
        with self._lock:
            return self._details.pop(wakeup, None)

    def deliver(self, payload: str) -> None:
        """Wake the waiters that a payload names, from any thread. Ignore one that is malformed."""
        try:
            content = orjson.loads(payload)
        except ValueError:
            return
        # Every role that knows the channel can send any payload.
        if not (isinstance(content, list) and len(content) == 3 and isinstance(content[1], str)):
            return
        with self._lock:
            self.received += 1
            waiters = list(self._waiters.get(content[1], ()))
            for wakeup in waiters:
                self._details[wakeup] = content[2]
        for wakeup in waiters:
            wakeup.set()

    def wake(self, name: str) -> None:
        """Wake the waiters of this process for `name`, without a notification."""
        with self._lock:
            waiters = list(self._waiters.get(name, ()))
        for wakeup in waiters:
            wakeup.set()

    def wake_all(self) -> None:
        """Wake all waiters, because notifications may have been lost."""
        with self._lock:
            self.received += 1
            waiters = {wakeup for some in self._waiters.values() for wakeup in some}
        for wakeup in waiters:
            wakeup.set()
