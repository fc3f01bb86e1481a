"""A named lease that this process holds.

A lease knows by its own clock when it has certainly run out. Everything else it asks the server.
`AsyncLeaseRenewer` renews all leases of a memory. `pgmem.leases.ops` draws the row's states.

::

        held ────────── release ─────────► released
         ▲ │             │
         └─┘ renewed     │ refused, or the time is over
                         ▼
                        lost: release, renew and the end of the block raise LeaseLost

    server's clock        granted ······································ expires_at
    own clock        sent ─┴─ answered                    certain_until ─┴─ over_at
                                              held until here            lost from here on
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import psycopg

from pgmem.core.concurrency import GRACE, Lock, async_sleep
from pgmem.core.database import log
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.errors import LeaseLost, NotOpen, OutcomeUnknown, PgmemError
from pgmem.leases import ops

RETRY = 1.0
"""Seconds, at most, until a failed renewal is repeated."""

LOCKED_PAUSE = 0.02
"""Seconds until a renewal that found the row locked is repeated. Such locks are short."""

RELEASE_PAUSES = (0.0, 0.005, 0.05)
"""Seconds before each further try to release a lease that an open transaction needs."""


class AsyncLease:
    """A named lease that this process holds. Made by `memory.leases.acquire` and `hold`.

    Attributes:
        name: the lease's name.
        token: the fencing token. It grows with every holder, so a system that is given it can
            refuse older ones.
        owner: the holder as others see it: host, process id and, if there is one, agent id.
        expires_at: when the lease ends if it is not renewed, by the server's clock.
    """

    def __init__(
        self,
        executor: AsyncPoolExecutor,
        grant: ops.Grant,
        *,
        owner: str,
        certain_until: float,
        on_end: Callable[[AsyncLease], None],
    ) -> None:
        """Take over a granted lease.

        Args:
            executor: executes renewals and the release.
            grant: the server's answer.
            owner: the holder, for people.
            certain_until: until when (by the monotonic clock) the lease is certainly held.
            on_end: is called when the lease is released or lost.
        """
        self._executor = executor
        self._on_end = on_end
        self._losing = Lock()
        self._lost: LeaseLost | None = None
        self._released = False
        self._tried = False
        self._warned = False
        self.held = grant.held
        self.name = grant.held.name
        self.token = grant.held.token
        self.owner = owner
        self.interval = grant.held.ttl / 3
        self.extend(grant, certain_until=certain_until)

    def __repr__(self) -> str:
        state = "released" if self._released else "lost" if self._lost else "held"
        return f"<{type(self).__name__} {self.name!r} {state}, token {self.token}>"

    def extend(self, grant: ops.Grant, *, certain_until: float) -> None:
        """Take over the times of a grant or a renewal.

        Args:
            grant: the server's answer.
            certain_until: until when (by the monotonic clock) the lease is certainly held.
        """
        now = time.monotonic()
        self.expires_at: datetime = grant.expires_at
        self.certain_until = certain_until
        self.over_at = now + grant.remaining
        # Early enough even if the answer took long.
        self.renew_at = min(now + self.interval, max(now, certain_until - self.interval))
        self._warned = False

    @property
    def lost(self) -> LeaseLost | None:
        """Why the lease is no longer held, or None as far as this process knows.

        The lease's own clock tells, too, so a process that stood still learns it here without a
        statement. Only the server knows everything: pass the lease to your writes as `fence=`.
        """
        if self._lost is None and not self._released and time.monotonic() > self.over_at:
            self.lose(ops.lost("use", self.name, self.token, "it ran out before it was renewed"))
        return self._lost

    def lose(self, error: LeaseLost) -> None:
        """Record that the lease is lost."""
        with self._losing:
            if self._lost is not None or self._released:
                return
            self._lost = error
        self._on_end(self)
        log.warning("the lease %r was lost: %s", self.name, error)

    def renewal_failed(self, reason: str) -> None:
        """Plan another renewal soon, as long as the lease may be held."""
        now = time.monotonic()
        self.renew_at = now + min(self.interval / 4, RETRY)
        if now > self.certain_until and self.lost is None and not self._warned:
            self._warned = True
            log.warning("the lease %r could not be renewed in time: %s", self.name, reason)

    async def release_later(self) -> None:
        """Release the lease after a call that does it was cancelled."""
        try:
            await self.release()
        except (PgmemError, psycopg.Error, OSError) as error:
            log.warning("the lease %r was not released, it runs out: %s", self.name, error)

    async def renew(self) -> None:
        """Renew the lease for its `ttl` from now. The memory does it every third of that.

        Raises:
            LeaseLost: the lease is no longer held.
            NotOpen: the lease was released.
            Unavailable: the server could not be reached.
        """
        if self._released:
            raise NotOpen(f"renew the lease {self.name!r}: it was released. Acquire it again")
        while True:
            if self._lost is not None:
                raise self._lost
            before = time.monotonic()
            answer = (await self._executor.execute(ops.renew([self.held])))[self.held.owner_id]
            self.renewed(answer, before)
            if isinstance(answer, ops.Grant):
                return
            await async_sleep(LOCKED_PAUSE)

    def renewed(self, answer: ops.Grant | LeaseLost | None, before: float) -> None:
        """Take over the server's answer to a renewal.

        Args:
            answer: as `ops.renew` returns it.
            before: when (by the monotonic clock) the server was asked.
        """
        if isinstance(answer, ops.Grant):
            self.extend(answer, certain_until=before + answer.remaining)
        elif answer is None:
            self.renew_at = time.monotonic() + LOCKED_PAUSE
        else:
            self.lose(answer)

    async def release(self) -> None:
        """Release the lease. The first waiter gets it at once. A second call does nothing.

        If a transaction with a write that the lease fences is still open, the next holder gets the
        lease after that transaction's end.

        Raises:
            LeaseLost: the lease was no longer held: another process may have done the same work.
            OutcomeUnknown: the connection was lost: the lease was released, or lost before.
            Unavailable: the server could not be reached: the lease runs out.
        """
        if self._released:
            return
        self._on_end(self)
        if self.lost is not None and not self._tried:
            raise self.lost
        held = time.monotonic() < self.certain_until
        op = ops.release(self.name, self.token, owner_id=self.held.owner_id)
        try:
            done = await self._executor.execute(op)
        except LeaseLost as error:
            if not self._tried:
                self.lose(error)
                raise
            done = True  # An earlier try, whose answer did not arrive, has released it.
        except OutcomeUnknown:
            self._tried |= held
            raise
        except Exception:
            raise
        except BaseException:
            self._tried |= held
            await self._executor.background.run_for(GRACE, self.release_later)
            raise
        self._released = True
        for pause in RELEASE_PAUSES:
            if done:
                return
            # Released, but not granted to the next waiter: the row was locked.
            await async_sleep(pause)
            try:
                done = await self._executor.execute(op)
            except LeaseLost:
                return  # A waiter has taken it meanwhile.
