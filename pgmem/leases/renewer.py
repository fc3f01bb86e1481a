"""Renew the leases that a memory holds, and watch over its calls that wait for one.

One worker for all of them. It neither takes nor grants a lease: it wakes a waiter, and the waiter
asks. Waiters are woken by notifications; this worker does what is left to do where those are lost::

    renew    Every third of a lease's time, one statement for all leases that are due.
    poll     At every safety poll, one statement for all waiters. A waiter asks if it missed
             its notification, has left the queue, or has an entry that expires soon.
    ask      When a holder's time is over: see `WaitQueue`.

The worker starts with the first lease and ends with the memory.
"""

from __future__ import annotations

import math
import time

import psycopg

from pgmem.core.concurrency import AsyncWakeup, AsyncWorker, Lock
from pgmem.core.database import log
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.notifications import AsyncTargetedNotifications
from pgmem.errors import NotOpen, PgmemError
from pgmem.events.follower import AsyncLogFollower
from pgmem.leases import ops
from pgmem.leases.lease import AsyncLease
from pgmem.leases.wait_queue import Waiter, WaitQueue

ENTRY_TTL = 60.0
"""Seconds until the queue entry of a listening process expires: the server knows when it dies. The
entry of a process that does not listen expires after `ENTRY_POLLS` polls."""
ENTRY_POLLS = 4

EARLY_POLL = 0.05
"""Seconds between polls while a waiter's entry is older than the listening session."""

MIN_PAUSE = 0.001
"""Seconds: other tasks and threads run, however much is overdue."""

MIN_ANSWER_TIMEOUT = 0.5
"""Seconds, at least, in which the server must answer, if the lease leaves time for a second try.
After that another connection is tried."""


class AsyncLeaseRenewer:
    """The worker for a memory's leases.

    Args:
        executor: executes the statements.
        notifications: has the listener id, if the process listens.
        follower: is started when a call waits, because it listens.
        safety_poll: seconds between two polls for the waiters.
    """

    def __init__(
        self,
        executor: AsyncPoolExecutor,
        notifications: AsyncTargetedNotifications,
        follower: AsyncLogFollower,
        *,
        safety_poll: float,
    ) -> None:
        self._executor = executor
        self._notifications = notifications
        self._follower = follower
        self._safety_poll = safety_poll
        self._lock = Lock()
        self._wakeup = AsyncWakeup()
        self._worker: AsyncWorker | None = None
        self._closing = False
        self._leases: set[AsyncLease] = set()
        self._queues: dict[str, WaitQueue] = {}
        self._polled_at = -math.inf
        self._polled_as: int | None = None
        self._wakes_at = math.inf

    def reopen(self) -> None:
        """Allow work again after `close`."""
        self._closing = False

    def add(self, lease: AsyncLease) -> None:
        """Renew a lease from now on.

        Raises:
            NotOpen: the memory was closed.
        """
        with self._lock:
            self._leases.add(lease)
            if lease.name in self._queues:
                self._queues[lease.name].over_at = lease.over_at
        self._wake(lease.renew_at)

    def remove(self, lease: AsyncLease) -> None:
        """Stop renewing a lease."""
        with self._lock:
            self._leases.discard(lease)

    def watch(self, waiter: Waiter, found: ops.LeaseContended, asked_at: float) -> None:
        """Watch over a waiter that has asked and is in the queue.

        Args:
            waiter: the waiter.
            found: the server's answer.
            asked_at: when (by the monotonic clock) the server was asked.

        Raises:
            NotOpen: the memory was closed.
        """
        self._follower.start()
        with self._lock:
            queue = self._queues.setdefault(waiter.request.name, WaitQueue())
            # A new waiter is the last one. The next poll reads its later places.
            place = waiter.place if waiter in queue.waiters else max(0, found.queue - 1)
            waiter.waits(found.token, place, asked_at)
            queue.waiters.add(waiter)
            queue.answered(found.remaining)
            due = min(queue.ask_at, time.monotonic() + self._poll_interval())
        self._wake(due)

    def unwatch(self, waiter: Waiter) -> None:
        """Stop watching over a waiter."""
        with self._lock:
            queue = self._queues.get(waiter.request.name)
            if queue is not None:
                queue.waiters.discard(waiter)
                if not queue.waiters:
                    del self._queues[waiter.request.name]

    async def close(self) -> None:
        """Stop the worker and wake all waiters. Held leases run out: their work may go on."""
        with self._lock:
            self._closing = True
            worker = self._worker
            for queue in self._queues.values():
                for waiter in queue.waiters:
                    waiter.ask()
        if worker is not None:
            self._wakeup.set()
            await worker.join(1.0)
        with self._lock:
            self._leases.clear()

    def entry_ttl(self) -> float:
        """Return the seconds until a new entry in a queue expires."""
        polls = ENTRY_POLLS * self._safety_poll
        return polls if self._notifications.listener_id is None else max(ENTRY_TTL, polls)

    def _poll_interval(self) -> float:
        """Return the seconds between two polls, short enough to learn of a lease while it lasts."""
        waiters = [waiter for queue in self._queues.values() for waiter in queue.waiters]
        ttls = min((waiter.request.ttl for waiter in waiters), default=math.inf)
        listener_id = self._notifications.listener_id
        if listener_id is not None and any(w.listener_id != listener_id for w in waiters):
            # The process has just begun to listen: it was not told of leases granted before.
            return min(EARLY_POLL, ttls / 3)
        return min(self._safety_poll, ttls / 3)

    def require_open(self) -> None:
        """Refuse a call on a closed memory.

        Raises:
            NotOpen: the memory was closed.
        """
        if self._closing:
            raise NotOpen("acquire a lease: this memory was closed")

    def _wake(self, due: float) -> None:
        """Start the worker if it does not run, and wake it no later than `due`."""
        with self._lock:
            self.require_open()
            if self._worker is None or not self._worker.alive:
                self._notifications.register("leases", self._wakeup)  # after a lost connection
                self._worker = AsyncWorker(self._run, "pgmem-leases")
            elif due < self._wakes_at:
                self._wakeup.set()

    async def _run(self) -> None:
        while not self._closing:
            due = self._next()
            pause = None if due == math.inf else max(MIN_PAUSE, due - time.monotonic())
            await self._wakeup.wait(pause)
            if self._closing:
                return
            try:
                await self._renew()
                await self._poll()
            except NotOpen:
                return  # The memory was closed: the leases run out.

    def _next(self) -> float:
        """Return when the next work is due."""
        with self._lock:
            times = [lease.renew_at for lease in self._leases]
            if self._queues:
                times += [queue.ask_at for queue in self._queues.values()]
                times.append(self._polled_at + self._poll_interval())
            self._wakes_at = min(times, default=math.inf)
            return self._wakes_at

    async def _renew(self) -> None:
        """Renew the leases that are due or soon will be."""
        now = time.monotonic()
        with self._lock:
            if not any(lease.renew_at <= now for lease in self._leases):
                return
            due = [lease for lease in self._leases if lease.renew_at <= now + lease.interval / 10]
        # A renewal begins two intervals before the end: a second try has one.
        interval = min(lease.interval for lease in due)
        timeout = max(interval / 3, min(MIN_ANSWER_TIMEOUT, interval))
        try:
            op = ops.renew([lease.held for lease in due])
            answers = await self._executor.execute(op, answer_timeout=timeout)
        except NotOpen:
            raise
        except (PgmemError, psycopg.Error, OSError) as error:
            for lease in due:
                lease.renewal_failed(str(error))
            return
        for lease in due:
            lease.renewed(answers[lease.held.owner_id], now)

    async def _poll(self) -> None:
        """Poll for the waiters if it is time or the listening session is new. Then wake askers."""
        now = time.monotonic()
        listener_id = self._notifications.listener_id
        waiters: list[Waiter] = []
        with self._lock:
            if not self._queues:
                return
            if now >= self._polled_at + self._poll_interval() or listener_id != self._polled_as:
                waiters = [waiter for queue in self._queues.values() for waiter in queue.waiters]
        if waiters:
            self._polled_at, self._polled_as = now, listener_id
            await self._read_status(waiters, now)
        now = time.monotonic()
        with self._lock:
            for queue in self._queues.values():
                if queue.ask_at <= now:
                    queue.first.ask()

    async def _read_status(self, waiters: list[Waiter], asked_at: float) -> None:
        try:
            op = ops.queue_status([waiter.request for waiter in waiters])
            found = await self._executor.execute(
                op, answer_timeout=max(MIN_ANSWER_TIMEOUT, self._safety_poll)
            )
        except NotOpen:
            raise
        except (PgmemError, psycopg.Error, OSError) as error:
            log.debug("could not read the state of the waiters for leases: %s", error)
            return
        now = time.monotonic()
        with self._lock:
            for waiter in waiters:
                self._take_over(waiter, found[waiter.request.owner_id], asked_at, now)

    def _take_over(
        self, waiter: Waiter, status: ops.QueueStatus, asked_at: float, now: float
    ) -> None:
        queue = self._queues.get(waiter.request.name)
        if queue is None or waiter not in queue.waiters:
            return  # It no longer waits.
        if status.granted or status.place is None:
            waiter.ask()
            return
        waiter.waits(status.token, status.place, asked_at)
        if status.remaining > 0:
            queue.over_at = now + status.remaining
        else:
            queue.over_at = min(queue.over_at, now)
        of_this_session = status.listener_id == self._notifications.listener_id
        if not of_this_session or status.entry_ttl < self.entry_ttl() / 2:
            waiter.ask()
