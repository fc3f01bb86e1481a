# Generated from pgmem/core/notifications.py by tools/generate_sync.py. Do not edit.
"""Wakes those in this process who wait for something that has a name: a lease, a group's work.

A signal travels like the doorbell, on the same channel or on one that only this process listens to,
but names whom it is for: so of many who wait, only that one asks the server, or none::

    statement ── pg_notify('["!", name, detail]') ──► listener ──► Signals ──► the waiter's wakeup

Like the doorbell it carries no promise: who waits also looks by itself from time to time, and
after a lost connection everybody is woken. Knows no database, and waits for nothing.
"""

from __future__ import annotations

from typing import Any

import orjson

from pgmem.core.concurrency import Lock, Wakeup

MARK = '["!"'
"""How a signal begins; nothing else that rides on the doorbell does."""


class TargetedNotifications:
    """Who waits for what, in one process. One waiter may wait for one name.

    Attributes:
        mark: the number by which the server knows that this process listens: whoever signals may
            rely on it. It is another one in each session; None while nobody listens.
        told: grows with every signal, whoever it was for: who was not waiting when it came sees
            that there may have been one.
    """

    def __init__(self) -> None:
        self.mark: int | None = None
        self.told = 0
        self._lock = Lock()
        self._waiters: dict[str, set[Wakeup]] = {}
        self._details: dict[Wakeup, Any] = {}

    def enter(self, name: str, wakeup: Wakeup) -> None:
        """Wake `wakeup` when `name` is signalled, until `leave`."""
        with self._lock:
            self._waiters.setdefault(name, set()).add(wakeup)

    def leave(self, name: str, wakeup: Wakeup) -> None:
        """Wait no more."""
        with self._lock:
            waiters = self._waiters.get(name)
            if waiters is not None:
                waiters.discard(wakeup)
                if not waiters:
                    del self._waiters[name]
            self._details.pop(wakeup, None)

    def detail(self, wakeup: Wakeup) -> Any:
        """What came with the last signal for this waiter, once; None if none came."""
        with self._lock:
            return self._details.pop(wakeup, None)

    def tell(self, payload: str) -> None:
        """Take in a signal, from any thread. One that cannot be read is nobody's."""
        try:
            content = orjson.loads(payload)
        except ValueError:
            return
        # Anybody who knows the channel can ring with anything.
        if not (isinstance(content, list) and len(content) == 3 and isinstance(content[1], str)):
            return
        with self._lock:
            self.told += 1
            waiters = list(self._waiters.get(content[1], ()))
            for wakeup in waiters:
                self._details[wakeup] = content[2]
        for wakeup in waiters:
            wakeup.set()

    def wake(self, name: str) -> None:
        """Wake those in this process who wait for `name`, without a signal."""
        with self._lock:
            waiters = list(self._waiters.get(name, ()))
        for wakeup in waiters:
            wakeup.set()

    def wake_all(self) -> None:
        """Signals may have been lost: everybody looks for themselves."""
        with self._lock:
            self.told += 1
            waiters = {wakeup for some in self._waiters.values() for wakeup in some}
        for wakeup in waiters:
            wakeup.set()
