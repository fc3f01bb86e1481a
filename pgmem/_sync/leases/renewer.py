# Generated from pgmem/leases/renewer.py by tools/generate_sync.py. Do not edit.
"""Renews the leases that a memory holds, and looks after those who wait for one.

One worker for all of them. It takes no lease and gives none: it tells a waiter to ask, and the
waiter asks. What to run is `pgmem.leases.ops`; waiters are woken by the doorbell
(`pgmem._sync.core.notifications`), and this is what is left to do where that is not enough::

    renew    every third of a lease's time, one statement for all that are due; a lease that is
             not ours any more is told so
    look     every safety poll, one statement for all who wait. A waiter is to ask if it
               has been given the lease and the signal was lost,
               does not stand in the queue any more,
               or has an entry that is about to count no more, or is of a session that is gone
    ask      when a holder's time is over: one waiter of each lease, the sooner the nearer it is to
             the front of the queue, so that of fifty processes one asks and the others find it done

It begins with the first lease and ends with the memory.
"""

from __future__ import annotations

import math
import time

import psycopg

from pgmem._sync.core.database import log
from pgmem._sync.core.execution import PoolExecutor
from pgmem._sync.core.notifications import TargetedNotifications
from pgmem._sync.events.follower import LogFollower
from pgmem._sync.leases.lease import Lease
from pgmem.core.concurrency import Lock, Wakeup, Worker
from pgmem.errors import NotOpen, PgmemError
from pgmem.leases import ops

STAGGER = 0.02
"""Seconds between two places in a queue, when the holder's time is over."""
STAGGER_MOST = 1.0

STAY = 60.0
"""Seconds that an entry counts which is not renewed, while its process listens: the server knows
when that one dies. The entry of one that does not listen counts for `STAY_POLLS` polls."""
STAY_POLLS = 4

POLL_SOON = 0.05
"""Seconds between two looks while some stand in a queue with an entry from before we listened."""

PAUSE_LEAST = 0.001
"""Seconds: whatever is overdue, others get their turn."""

PATIENCE = 0.5
"""Seconds, at least, in which the server must answer: later, another connection is tried."""


class Waiter:
    """One who waits for a lease.

    Attributes:
        asker: who it is.
        wakeup: wakes it.
        asks: whether it is to ask the server.
        since: when (by the monotonic clock) it certainly had not been given the lease yet.
        token: the newest one then.
        place: in the queue then.
        mark: the mark in its entry there; None if nobody can signal to it.
    """

    mark: int | None = None

    def __init__(self, request: ops.LeaseRequest) -> None:
        self.request = request
        self.wakeup = Wakeup()
        self.asks = False
        self.since = 0.0
        self.token = 0
        self.place = 0

    def stands(self, token: int, place: int, before: float) -> None:
        """Take in how it stands in the queue.

        Args:
            token: the newest one.
            place: from 0.
            before: when (by the monotonic clock) the server was asked.
        """
        self.since, self.token = max(self.since, before), max(self.token, token)
        self.place = place

    def ask(self) -> None:
        """See that it asks the server."""
        self.asks = True
        self.wakeup.set()


class WaitQueue:
    """Those of this process who wait for one lease.

    Attributes:
        waiters: who they are.
        ends: when (by the monotonic clock) the holder's time is over, as far as is known.
    """

    def __init__(self) -> None:
        self.waiters: set[Waiter] = set()
        self.ends = math.inf
        self._pause = STAGGER

    def asked(self, remaining: float) -> None:
        """Take in what one of them was told: seconds until the holder's time is over.

        It may be over already, and nobody get the lease: a transaction with a write that is fenced
        by it is still open. Then they ask again, less and less often.
        """
        now = time.monotonic()
        if remaining > 0:
            self.ends, self._pause = now + remaining, STAGGER
        else:
            self.ends = now + self._pause
            self._pause = min(self._pause * 2, STAGGER_MOST)

    @property
    def first(self) -> Waiter:
        """The one that is nearest to the front of the queue."""
        return min(self.waiters, key=lambda waiter: waiter.place)

    @property
    def asks_at(self) -> float:
        """When the first of them is to ask, if nobody else does; never, while it is asking."""
        if self.first.asks:
            return math.inf
        return self.ends + min(STAGGER_MOST, self.first.place * STAGGER)


class LeaseRenewer:
    """The worker of a memory's leases.

    Args:
        runner: runs the statements.
        signals: tell whether we listen.
        tailer: is to follow while somebody waits: so we listen.
        safety_poll: seconds between two looks after those who wait.
    """

    def __init__(
        self,
        executor: PoolExecutor,
        notifications: TargetedNotifications,
        follower: LogFollower,
        *,
        safety_poll: float,
    ) -> None:
        self._executor = executor
        self._notifications = notifications
        self._follower = follower
        self._safety_poll = safety_poll
        self._lock = Lock()
        self._wakeup = Wakeup()
        self._worker: Worker | None = None
        self._closing = False
        self._leases: set[Lease] = set()
        self._lines: dict[str, WaitQueue] = {}
        self._looked_at = -math.inf
        self._looked_with: int | None = None
        self._wakes_at = math.inf

    def hold(self, lease: Lease) -> None:
        """Renew a lease from now on.

        Raises:
            NotOpen: the memory was closed.
        """
        with self._lock:
            self._leases.add(lease)
            if lease.name in self._lines:
                self._lines[lease.name].ends = lease.over_at
        self._wake(lease.due)

    def drop(self, lease: Lease) -> None:
        """Renew it no more."""
        with self._lock:
            self._leases.discard(lease)

    def enter(self, waiter: Waiter, busy: ops.LeaseContended, before: float) -> None:
        """Look after a waiter from now on, or go on to: it has asked, and stands in the queue.

        Args:
            waiter: who it is.
            busy: what the server said.
            before: when (by the monotonic clock) it was asked.

        Raises:
            NotOpen: the memory was closed.
            HistoryRewritten: the log is another one than the memory was opened on.
        """
        self._follower.start()
        with self._lock:
            line = self._lines.setdefault(waiter.request.name, WaitQueue())
            # Who comes anew is the last one; where it stands later, the next look tells.
            place = waiter.place if waiter in line.waiters else max(0, busy.queue - 1)
            waiter.stands(busy.token, place, before)
            line.waiters.add(waiter)
            line.asked(busy.remaining)
            due = min(line.asks_at, time.monotonic() + self._poll())
        self._wake(due)

    def leave(self, waiter: Waiter) -> None:
        """Look after it no more."""
        with self._lock:
            line = self._lines.get(waiter.request.name)
            if line is not None:
                line.waiters.discard(waiter)
                if not line.waiters:
                    del self._lines[waiter.request.name]

    def close(self) -> None:
        """End, and with it all waiting. What is held runs out, for its user may not have ended."""
        with self._lock:
            self._closing = True
            worker = self._worker
            for line in self._lines.values():
                for waiter in line.waiters:
                    waiter.ask()
        if worker is not None:
            self._wakeup.set()
            worker.join(2.0)

    def stay(self) -> float:
        """How many seconds an entry in a queue is to count."""
        polls = STAY_POLLS * self._safety_poll
        return polls if self._notifications.listener_id is None else max(STAY, polls)

    def _poll(self) -> float:
        """Seconds between two looks: also soon enough to learn of a lease while it is ours."""
        waiters = [waiter for line in self._lines.values() for waiter in line.waiters]
        ttls = min((waiter.request.ttl for waiter in waiters), default=math.inf)
        mark = self._notifications.listener_id
        if mark is not None and any(waiter.mark != mark for waiter in waiters):
            # We began to listen just now: whom a lease was given before that was not told.
            return min(POLL_SOON, ttls / 3)
        return min(self._safety_poll, ttls / 3)

    def require_open(self) -> None:
        """Refuse what would come too late.

        Raises:
            NotOpen: the memory was closed.
        """
        if self._closing:
            raise NotOpen("acquire a lease: this memory was closed")

    def _wake(self, due: float) -> None:
        """See that the worker runs, and wakes up no later than this."""
        with self._lock:
            self.require_open()
            if self._worker is None or not self._worker.alive:
                self._notifications.register("leases", self._wakeup)  # after a lost connection
                self._worker = Worker(self._run, "pgmem-leases")
            elif due < self._wakes_at:
                self._wakeup.set()

    def _run(self) -> None:
        while not self._closing:
            due = self._next()
            pause = None if due == math.inf else max(PAUSE_LEAST, due - time.monotonic())
            self._wakeup.wait(pause)
            if self._closing:
                return
            try:
                self._renew()
                self._look()
            except NotOpen:
                return  # The memory was closed: nobody can use a lease, they run out.

    def _next(self) -> float:
        """When there is something to do next."""
        with self._lock:
            times = [lease.due for lease in self._leases]
            if self._lines:
                times += [line.asks_at for line in self._lines.values()]
                times.append(self._looked_at + self._poll())
            self._wakes_at = min(times, default=math.inf)
            return self._wakes_at

    def _renew(self) -> None:
        """Renew what is due, and with it what soon will be."""
        now = time.monotonic()
        with self._lock:
            if not any(lease.due <= now for lease in self._leases):
                return
            due = [lease for lease in self._leases if lease.due <= now + lease.interval / 10]
        patience = max(PATIENCE, min(lease.interval for lease in due) / 3)
        try:
            op = ops.renew([lease.held for lease in due])
            answers = self._executor.execute(op, answer_timeout=patience)
        except NotOpen:
            raise
        except (PgmemError, psycopg.Error, OSError) as error:
            for lease in due:
                lease.renewal_failed(str(error))
            return
        for lease in due:
            lease.take(answers[lease.held.owner], now)

    def _look(self) -> None:
        """Look after those who wait, if it is time or if we listen anew; then see who is to ask."""
        now = time.monotonic()
        mark = self._notifications.listener_id
        with self._lock:
            if not self._lines:
                return
            if now >= self._looked_at + self._poll() or mark != self._looked_with:
                waiters = [waiter for line in self._lines.values() for waiter in line.waiters]
            else:
                waiters = []
        if waiters:
            self._looked_at, self._looked_with = now, mark
            self._look_after(waiters, now)
        now = time.monotonic()
        with self._lock:
            for line in self._lines.values():
                if line.asks_at <= now:
                    line.first.ask()

    def _look_after(self, waiters: list[Waiter], before: float) -> None:
        try:
            op = ops.look([waiter.request for waiter in waiters])
            found = self._executor.execute(op, answer_timeout=max(PATIENCE, self._safety_poll))
        except NotOpen:
            raise
        except (PgmemError, psycopg.Error, OSError) as error:
            log.debug("could not look after those who wait for leases: %s", error)
            return
        now = time.monotonic()
        with self._lock:
            for waiter in waiters:
                self._take_in(waiter, found[waiter.request.owner], before, now)

    def _take_in(self, waiter: Waiter, standing: ops.Standing, before: float, now: float) -> None:
        line = self._lines.get(waiter.request.name)
        if line is None or waiter not in line.waiters:
            return  # It waits no more.
        if standing.mine or standing.place is None:
            waiter.ask()
            return
        waiter.stands(standing.token, standing.place, before)
        line.ends = now + standing.remaining if standing.remaining > 0 else min(line.ends, now)
        if standing.mark != self._notifications.listener_id or standing.stays < self.stay() / 2:
            waiter.ask()
