"""The waiters of one process for leases, as far as it knows them from the server's answers.

No I/O: `pgmem.leases.renewer` asks the server, and each waiter acquires for itself.
"""

from __future__ import annotations

import math
import time
from typing import Final

from pgmem.core.concurrency import AsyncWakeup
from pgmem.leases import ops

STAGGER: Final = 0.02
"""Seconds between the tries of two neighbours in a queue, after the holder's time is over."""
STAGGER_MAX: Final = 1.0


class Waiter:
    """A call that waits for a lease.

    Attributes:
        request: its acquisition.
        wakeup: wakes it.
        must_ask: True if it is to ask the server.
        not_granted_at: when (by the monotonic clock) it certainly did not have the lease.
        token: the newest token at that time.
        place: its place in the queue at that time.
        listener_id: the listener id in its entry; None if it cannot be notified.
    """

    listener_id: int | None = None

    def __init__(self, request: ops.LeaseRequest) -> None:
        self.request = request
        self.wakeup = AsyncWakeup()
        self.must_ask = False
        self.not_granted_at = 0.0
        self.token = 0
        self.place = 0

    def waits(self, token: int, place: int, asked_at: float) -> None:
        """Take over an answer that says that it is in the queue.

        Args:
            token: the newest token.
            place: its place, from 0.
            asked_at: when (by the monotonic clock) the server was asked.
        """
        self.not_granted_at = max(self.not_granted_at, asked_at)
        self.token = max(self.token, token)
        self.place = place

    def ask(self) -> None:
        """Wake it, so that it asks the server."""
        self.must_ask = True
        self.wakeup.set()


class WaitQueue:
    """The waiters of this process for one lease.

    After the holder's time is over, one of them asks, the sooner the nearer it is to the front of
    the queue. So of fifty processes one asks, and the others find the lease granted.

    Attributes:
        waiters: the waiters.
        over_at: when (by the monotonic clock) the holder's time is over, as far as known.
    """

    def __init__(self) -> None:
        self.waiters: set[Waiter] = set()
        self.over_at = math.inf
        self._pause = STAGGER

    def answered(self, remaining: float) -> None:
        """Take over the seconds until the holder's time is over, from the answer to an acquisition.

        The time may be over already without a new holder, while a transaction with a fenced write
        is open. Then the waiters ask again in growing intervals.
        """
        now = time.monotonic()
        if remaining > 0:
            self.over_at, self._pause = now + remaining, STAGGER
        else:
            self.over_at = now + self._pause
            self._pause = min(self._pause * 2, STAGGER_MAX)

    @property
    def first(self) -> Waiter:
        """The waiter nearest to the front of the queue."""
        return min(self.waiters, key=lambda waiter: waiter.place)

    @property
    def ask_at(self) -> float:
        """When the first waiter is to ask; never, while it is asking."""
        if self.first.must_ask:
            return math.inf
        return self.over_at + min(STAGGER_MAX, self.first.place * STAGGER)
