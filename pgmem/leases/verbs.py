"""The verbs of `memory.leases`: named leases, one holder at a time, and waiting for them.

`pgmem.leases.ops` draws the row's states. Waiters are in a queue in the lease's row, first come,
first served. A release grants the lease to the first live waiter in the same statement, and
notifies that one alone::

    acquire ── granted? ──────────────────────────────────────────────────────► lease
       │ no: in the queue                                                        ▲
       ▼                                                                         │
    waiting ── notification: granted, with the token ── certainly still? ────────┤
       ▲ │                                                   │ no                │
       │ ├─ woken by the renewer: ask ──► acquire again ◄────┘ ── granted? ──────┤
       │ │                                      │ no                             │
       │ └─ timeout, or cancelled               │                                │
       │           ▼                            │                                │
       └───────────│────────────────────────────┘                                │
                 leave ── granted in this moment ── timeout ─────────────────────┘
                   │                          └─ cancelled: release
                   └──► LeaseHeld
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import psycopg

from pgmem.core.concurrency import GRACE
from pgmem.core.database import log
from pgmem.core.execution import AsyncExecutor, AsyncPoolExecutor
from pgmem.core.notifications import AsyncTargetedNotifications
from pgmem.core.validation import Seconds, check_seconds, check_unreserved
from pgmem.errors import InvalidInput, LeaseLost, NotOpen, OutcomeUnknown, PgmemError, Unavailable
from pgmem.events.durable_lease import owner_name
from pgmem.leases import ops
from pgmem.leases.lease import AsyncLease
from pgmem.leases.models import LeaseInfo
from pgmem.leases.renewer import AsyncLeaseRenewer
from pgmem.leases.wait_queue import Waiter


class _AsyncLeaseReads:
    """The verbs that read."""

    def __init__(self, executor: AsyncExecutor) -> None:
        self._executor = executor

    async def list(self, prefix: str = "") -> list[LeaseInfo]:
        """List the leases that are held now, ordered by name.

        Args:
            prefix: only leases whose name begins with it; "" for all.
        """
        return await self._executor.execute(ops.list_leases(prefix))

    async def get(self, name: str) -> LeaseInfo | None:
        """Return a lease and its holder, or None if it is not held.

        Args:
            name: its name, 1 to 512 bytes.
        """
        return await self._executor.execute(ops.get(name))


class AsyncLeases(_AsyncLeaseReads):
    """Named leases. Reached as `memory.leases`."""

    _executor: AsyncPoolExecutor

    def __init__(
        self,
        executor: AsyncPoolExecutor,
        notifications: AsyncTargetedNotifications,
        renewer: AsyncLeaseRenewer,
        agent_id: str | None,
    ) -> None:
        super().__init__(executor)
        self._notifications = notifications
        self._renewer = renewer
        self._agent_id = agent_id

    @asynccontextmanager
    async def hold(
        self, name: str, *, ttl: Seconds = 30.0, timeout: Seconds | None = None
    ) -> AsyncIterator[AsyncLease]:
        """Hold a lease for the block, and release it at its end.

        >>> async with memory.leases.hold("nightly-report", ttl=60) as lease:
        ...     print(lease.name, lease.lost)
        nightly-report None

        Args:
            name, ttl, timeout: as for `acquire`.

        Raises:
            LeaseLost: at the end of the block, the lease was no longer held: another process may
                have done the same work. An error of the block itself goes first.
            PgmemError: as `acquire`.
        """
        lease = await self.acquire(name, ttl=ttl, timeout=timeout)
        try:
            yield lease
        except Exception:
            try:
                await lease.release()
            except PgmemError as failure:
                log.warning("the lease %r was not released: %s", name, failure)
            raise
        except BaseException:
            await self._executor.background.run_for(GRACE, lease.release_later)
            raise
        await lease.release()

    async def acquire(
        self, name: str, *, ttl: Seconds = 30.0, timeout: Seconds | None = None
    ) -> AsyncLease:
        """Acquire a lease: no other process has it until it is released or its time is over.

        The lease is renewed in the background every third of `ttl`, until it is released or this
        memory is closed. Waiters are in a queue. A release wakes the first one. If the holder dies,
        the first waiter gets the lease at the end of the holder's `ttl`.

        A process that stands still for longer than `ttl` has lost the lease, even if no other
        process has it: see `lease.lost`. Writes are safe from that if they prove the lease:
        `state.compare_and_set(…, fence=lease)`, `tx.leases.require(lease)`, or elsewhere by its
        `token`.

        Args:
            name: 1 to 512 bytes; names that begin with "pgmem:" are pgmem's own.
            ttl: how long the lease lasts without a renewal, in seconds or as a timedelta; at most
                a day.
            timeout: how long to wait for the lease, in seconds or as a timedelta; 0 tries once;
                None waits for ever, also while the server cannot be reached.

        Returns:
            The lease. `hold` does the same as a context manager.

        Raises:
            LeaseHeld: another holder had it for all of `timeout`.
            InvalidInput: an argument is not allowed.
            Unavailable: the server could not be reached.
            OutcomeUnknown: the connection was lost. If the lease was acquired, it runs out.
            NotOpen: the memory was closed.
        """
        request = ops.LeaseRequest(
            check_unreserved(name, "lease name"),
            secrets.token_hex(8),
            owner_name(self._agent_id),
            ops.check_ttl(ttl),
        )
        seconds = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        if seconds == 0:
            before = time.monotonic()
            answer = await self._executor.execute(
                ops.acquire(request, wait=False, listener_id=None, entry_ttl=0.0)
            )
            if isinstance(answer, ops.LeaseContended):
                raise ops.held_by_another(name, answer, 0.0)
            return self._lease(request, answer, before + answer.remaining)
        waiter = Waiter(request)
        # Before another process can find this waiter in the queue.
        self._notifications.register(request.notification, waiter.wakeup)
        try:
            return await self._acquire(waiter, seconds)
        finally:
            self._renewer.unwatch(waiter)
            self._notifications.unregister(request.notification, waiter.wakeup)

    async def _acquire(self, waiter: Waiter, timeout: float | None) -> AsyncLease:
        """Acquire the lease, waiting if needed. Leave the queue in any case."""
        started = time.monotonic()
        queued = False
        try:
            lease = await self._ask(waiter)
            queued = lease is None
            return lease or await self._wait(waiter, started, timeout)
        except BaseException as error:
            if not isinstance(error, Exception):
                # A cancelled task must not wait for the server.
                await self._executor.background.run_for(GRACE, self._give_up, waiter.request)
            elif isinstance(error, OutcomeUnknown):
                # The call has had its time.
                self._executor.background.run(self._give_up, waiter.request)
            elif queued:
                await self._give_up(waiter.request)
            raise

    async def _ask(self, waiter: Waiter) -> AsyncLease | None:
        """Ask the server for the lease. If it is not granted, the waiter is in the queue."""
        self._renewer.require_open()
        waiter.must_ask = False
        before = time.monotonic()
        listener_id = self._notifications.listener_id
        op = ops.acquire(
            waiter.request,
            wait=True,
            listener_id=listener_id,
            entry_ttl=self._renewer.entry_ttl(),
        )
        answer = await self._executor.execute(op)
        waiter.listener_id = listener_id
        if isinstance(answer, ops.Grant):
            return self._lease(waiter.request, answer, before + answer.remaining)
        self._renewer.watch(waiter, answer, before)
        return None

    async def _wait(self, waiter: Waiter, started: float, timeout: float | None) -> AsyncLease:
        """Wait until the lease is granted.

        Raises:
            LeaseHeld: it was not granted within `timeout`.
        """
        failure: PgmemError | None = None
        while True:
            left = None if timeout is None else started + timeout - time.monotonic()
            if left is not None and left <= 0:
                break
            await waiter.wakeup.wait(left)
            lease = self._notified(waiter)
            if lease is not None:
                return lease
            if waiter.must_ask:
                try:
                    failure, lease = None, await self._ask(waiter)
                except (Unavailable, OutcomeUnknown) as error:
                    failure = error  # The renewer wakes the waiter when another try makes sense.
                if lease is not None:
                    return lease
        if failure is not None:
            raise failure
        before = time.monotonic()
        answer = await self._executor.execute(ops.leave(waiter.request))
        if isinstance(answer, ops.Grant):
            return self._lease(waiter.request, answer, before + answer.remaining)
        raise ops.held_by_another(waiter.request.name, answer, time.monotonic() - started)

    def _notified(self, waiter: Waiter) -> AsyncLease | None:
        """Return the lease that a notification has granted, if it is certainly held.

        A notification may be old, because this process stood still. Then the lease may be over, or
        be an earlier one that was lost before this wait. In doubt the waiter asks the server.
        """
        detail = self._notifications.take_detail(waiter.wakeup)
        if detail is None:
            return None
        request = waiter.request
        found = _parse_grant(detail)
        certain_until = waiter.not_granted_at + request.ttl
        if found is None or found[0] <= waiter.token or time.monotonic() >= certain_until:
            waiter.must_ask = True
            return None
        token, expires_at = found
        held = ops.Held(request.name, request.owner_id, token, request.ttl)
        return self._lease(request, ops.Grant(held, expires_at, request.ttl), certain_until)

    async def _give_up(self, request: ops.LeaseRequest) -> None:
        """Leave the queue, and release the lease if it was granted in this moment."""
        try:
            found = await self._executor.execute(ops.leave(request))
            if isinstance(found, ops.Grant):
                await self._executor.execute(
                    ops.release(request.name, found.held.token, owner_id=request.owner_id)
                )
        except NotOpen:
            return  # The memory was closed: it no longer listens, which the server knows.
        except (PgmemError, psycopg.Error, OSError) as error:
            log.warning(
                "could not leave the queue of the lease %r, the entry expires: %s",
                request.name,
                error,
            )

    def _lease(
        self, request: ops.LeaseRequest, grant: ops.Grant, certain_until: float
    ) -> AsyncLease:
        lease = AsyncLease(
            self._executor,
            grant,
            owner=request.owner,
            certain_until=certain_until,
            on_end=self._renewer.remove,
        )
        self._renewer.add(lease)
        return lease

    async def release(self, name: str, *, token: int) -> None:
        """Take a lease from its holder, and grant it to the first waiter.

        For an administrator. A holder calls `lease.release()`. The holder learns of it with its
        next renewal, and every write that it fences by the lease is refused.

        Args:
            name: its name, 1 to 512 bytes.
            token: the current fencing token, as `get` returns it, so that a later holder's lease is
                never taken by mistake.

        Raises:
            LeaseLost: the token is not the current one, or the lease ran out.
            OutcomeUnknown: the connection was lost. `get` tells.
        """
        await self._executor.execute(ops.release(name, token, owner_id=None))


class AsyncTransactionLeases(_AsyncLeaseReads):
    """Named leases in a transaction. Reached as `tx.leases` or `bound.leases`.

    A lease is acquired, renewed and released outside of transactions: other processes must see it
    at once.
    """

    async def require(self, lease: AsyncLease) -> None:
        """Require that a lease is held until this transaction ends.

        It fences everything that the transaction writes, the caller's own rows included. No other
        process gets the lease before the transaction has committed or rolled back.

        >>> async with memory.leases.hold("billing") as lease, memory.transaction() as tx:
        ...     await tx.leases.require(lease)
        ...     await tx.connection.execute("INSERT INTO invoices (order_id) VALUES (2)")

        Args:
            lease: what `memory.leases.acquire` or `hold` returned.

        Raises:
            LeaseLost: the lease is not held.
            InvalidInput: `lease` is no lease.
        """
        if not isinstance(lease, AsyncLease):
            raise InvalidInput(f"require takes a lease, got {type(lease).__name__}")
        try:
            await self._executor.execute(ops.require(lease.held, "use in a transaction"))
        except LeaseLost as error:
            lease.lose(error)
            raise


def _parse_grant(detail: Any) -> tuple[int, datetime] | None:
    """Return the token and the end of a lease from a notification; None if it is malformed."""
    try:
        token, expires_at = detail
        return int(token), datetime.fromisoformat(expires_at)
    except (TypeError, ValueError):
        return None
