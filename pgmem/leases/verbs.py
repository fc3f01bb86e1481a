"""`memory.leases`: named leases, one holder at a time, and the waiting for them.

What to run is `pgmem.leases.ops`, which draws the row's states. Who waits stands in a queue in the
lease's row, first come, first served; whoever releases the lease gives it to the first of them in
the same statement, and wakes that one alone::

    acquire ── ours? ─────────────────────────────────────────────────────► lease
       │ no: in the queue                                                    ▲
       ▼                                                                     │
    waiting ── signal: it is yours, with the token ── certainly still? ──────┤
       ▲ │                                                │ no               │
       │ ├─ the keeper says: ask ──► acquire again ◄──────┘ ── ours? ────────┤
       │ │                                 │ no                              │
       │ └─ time is over, or cancelled     │                                 │
       │           ▼                       │                                 │
       └───────────│───────────────────────┘                                 │
                 leave ── given to us in this moment ── time is over ────────┘
                   │                                 └─ cancelled: release
                   └──► LeaseHeld
"""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from typing import Any

import psycopg

from pgmem.core.database import log
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.notifications import AsyncTargetedNotifications
from pgmem.core.validation import Seconds, check_seconds
from pgmem.errors import NotOpen, OutcomeUnknown, PgmemError, Unavailable
from pgmem.events.durable_lease import owner_name
from pgmem.leases import ops
from pgmem.leases.lease import AsyncLease
from pgmem.leases.models import LeaseInfo
from pgmem.leases.renewer import AsyncLeaseRenewer, Waiter


class AsyncLeases:
    """Named leases. Reached as `memory.leases`."""

    def __init__(
        self,
        executor: AsyncPoolExecutor,
        notifications: AsyncTargetedNotifications,
        renewer: AsyncLeaseRenewer,
        agent_id: str | None,
    ) -> None:
        self._executor = executor
        self._notifications = notifications
        self._renewer = renewer
        self._agent_id = agent_id

    async def acquire(
        self, name: str, *, ttl: Seconds = 30.0, timeout: Seconds | None = None
    ) -> AsyncLease:
        """Acquire a lease: nobody else has it until it is released or its time is over.

        >>> async with await memory.leases.acquire("nightly-report", ttl=60) as lease:
        ...     print(lease.name, lease.lost)
        nightly-report None

        It is renewed in the background every third of `ttl`, until it is released or this memory
        is closed. Who waits stands in a queue, and is woken by the release; whose holder has died
        gets it at the end of that one's `ttl`.

        A process that stands still for longer than `ttl` has lost it, also if nobody took it yet:
        `lease.lost` tells. Writes are safe from that where they prove the lease:
        `state.compare_and_set(…, fence=lease)`, or elsewhere by its `fencing_token`.

        Args:
            name: 1 to 512 bytes.
            ttl: how long it lasts without a renewal, in seconds or as a timedelta, at most a day.
            timeout: how long to wait for it, in seconds or as a timedelta; 0 tries once; None
                waits for ever, also while the server cannot be reached.

        Returns:
            The lease: a context manager that releases it.

        Raises:
            LeaseHeld: somebody else had it for all that time.
            InvalidInput: an argument that is not allowed.
            Unavailable: the server could not be reached.
            OutcomeUnknown: the connection was lost under way; if it was acquired, it runs out.
            NotOpen: the memory is closed, or was closed while this waited.
        """
        request = ops.LeaseRequest(
            ops.check_lease_name(name),
            secrets.token_hex(8),
            owner_name(self._agent_id),
            ops.check_ttl(ttl),
        )
        patience = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        if patience == 0:
            before = time.monotonic()
            answer = await self._executor.execute(
                ops.acquire(request, wait=False, mark=None, stay=0.0)
            )
            if isinstance(answer, ops.LeaseContended):
                raise ops.held_by_another(name, answer, 0.0)
            return self._lease(answer, before + answer.remaining)
        waiter = Waiter(request)
        self._notifications.register(
            request.signal, waiter.wakeup
        )  # Before anybody can find us in the queue.
        try:
            return await self._acquire(waiter, patience)
        finally:
            self._renewer.leave(waiter)
            self._notifications.unregister(request.signal, waiter.wakeup)

    async def _acquire(self, waiter: Waiter, patience: float | None) -> AsyncLease:
        """Take the lease, or wait for it; whatever happens, stay in no queue behind."""
        started = time.monotonic()
        queued = False
        try:
            lease = await self._ask(waiter)
            queued = lease is None
            return lease or await self._wait(waiter, started, patience)
        except BaseException as error:
            unknown = isinstance(error, OutcomeUnknown) or not isinstance(error, Exception)
            if queued or unknown:
                await self._give_up(waiter.request)
            raise

    async def _ask(self, waiter: Waiter) -> AsyncLease | None:
        """Ask the server for the lease; from then on we stand in the queue, if it is not ours."""
        self._renewer.require_open()
        waiter.asks = False
        before = time.monotonic()
        mark, stay = self._notifications.listener_id, self._renewer.stay()
        answer = await self._executor.execute(
            ops.acquire(waiter.request, wait=True, mark=mark, stay=stay)
        )
        waiter.mark = mark
        if isinstance(answer, ops.Grant):
            return self._lease(answer, before + answer.remaining)
        self._renewer.enter(waiter, answer, before)
        return None

    async def _wait(self, waiter: Waiter, started: float, patience: float | None) -> AsyncLease:
        """Wait until the lease is given to us.

        Raises:
            LeaseHeld: it was not, for as long as we had patience.
        """
        trouble: PgmemError | None = None
        while True:
            left = None if patience is None else started + patience - time.monotonic()
            if left is not None and left <= 0:
                break
            await waiter.wakeup.wait(left)
            lease = self._given(waiter)
            if lease is not None:
                return lease
            if waiter.asks:
                try:
                    trouble, lease = None, await self._ask(waiter)
                except (Unavailable, OutcomeUnknown) as error:
                    trouble = error  # The keeper tells when it is worth while again.
                if lease is not None:
                    return lease
        if trouble is not None:
            raise trouble
        before = time.monotonic()
        answer = await self._executor.execute(ops.leave(waiter.request))
        if isinstance(answer, ops.Grant):
            return self._lease(answer, before + answer.remaining)
        raise ops.held_by_another(waiter.request.name, answer, time.monotonic() - started)

    def _given(self, waiter: Waiter) -> AsyncLease | None:
        """The lease that a signal has brought, if that is beyond doubt; else it is to ask."""
        detail = self._notifications.take_detail(waiter.wakeup)
        if detail is None:
            return None
        request = waiter.request
        found = _open(detail)
        # A signal may have lain here while we stood still: then the lease may be over, or be an
        # earlier one, which we had lost before we came into the queue again.
        sure_until = waiter.since + request.ttl
        if found is None or found[0] <= waiter.token or time.monotonic() >= sure_until:
            waiter.asks = True
            return None
        token, expires_at = found
        held = ops.Held(request.name, request.owner, token, request.ttl)
        return self._lease(ops.Grant(held, expires_at, request.ttl), sure_until)

    async def _give_up(self, request: ops.LeaseRequest) -> None:
        """Leave the queue, and give back what was given to us in this moment."""
        try:
            found = await self._executor.execute(ops.leave(request))
            if isinstance(found, ops.Grant):
                await self._executor.execute(
                    ops.release(request.name, found.held.token, owner=request.owner)
                )
        except NotOpen:
            return  # The memory was closed: it listens no more, and the server knows.
        except (PgmemError, psycopg.Error, OSError) as error:
            log.warning(
                "could not leave the queue of the lease %r, our place there runs out: %s",
                request.name,
                error,
            )

    def _lease(self, grant: ops.Grant, sure_until: float) -> AsyncLease:
        lease = AsyncLease(self._executor, grant, sure_until=sure_until, on_end=self._renewer.drop)
        self._renewer.hold(lease)
        return lease

    async def list(self, prefix: str = "") -> list[LeaseInfo]:
        """The leases that are held now, in the order of their names.

        Args:
            prefix: only those whose name begins with it; "" for all.
        """
        return await self._executor.execute(ops.list_leases(prefix))

    async def get(self, name: str) -> LeaseInfo | None:
        """Who holds a lease; None if nobody does.

        Args:
            name: its name, 1 to 512 bytes.
        """
        return await self._executor.execute(ops.get(name))

    async def release(self, name: str, *, fencing_token: int) -> None:
        """Take a lease from its holder, and give it to the first who waits for it.

        For one who looks after things: whoever holds a lease calls `lease.release()`. The holder
        learns it with its next renewal, and every write that it fences by the lease is refused.

        Args:
            name: its name, 1 to 512 bytes.
            fencing_token: the current one, as `get` tells: so nobody else's lease is taken by
                mistake.

        Raises:
            LeaseLost: the token is not the current one, or the lease ran out.
            OutcomeUnknown: the connection was lost under way; `get` tells.
        """
        await self._executor.execute(ops.release(name, fencing_token, owner=None))


def _open(detail: Any) -> tuple[int, datetime] | None:
    """What a signal says: the token, and when the lease ends; None if it cannot be read."""
    try:
        token, expires_at = detail
        return int(token), datetime.fromisoformat(expires_at)
    except (TypeError, ValueError):
        return None
