"""Subscriptions whose position is stored.

::

    standing by ──► holding ── hands out events ──► position ──► committed ──┐
        ▲              ▲                                                     │
        │              └─────────────────────────────────────────────────────┘
        └── another process holds the subscription      lost: LeaseLost, for good

    committed    automatically: what was handed out before, when more is asked for, and all of it
                 when the block ends without an error
                 explicitly: what was handed out so far
                 in the caller's transaction: the same, if and only if the transaction commits

Decides when to commit. The lease is `pgmem.events.durable_lease`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeVar

from pgmem.core.execution import AsyncTransactionExecutor
from pgmem.core.op import Row
from pgmem.core.validation import Seconds
from pgmem.errors import InvalidInput, PgmemError, Unavailable
from pgmem.events.durable_lease import AsyncSubscriptionLease, owner_name
from pgmem.events.filter import EventFilter
from pgmem.events.page import ALWAYS
from pgmem.events.reader import AsyncLogReader
from pgmem.events.subscription import AsyncSubscription, Start

T = TypeVar("T")

DEFAULT_LEASE: Seconds = 30.0
IDLE_COMMIT = 5.0
"""Seconds between two commits of a position that moved only past unselected events."""


class AsyncBound(Protocol):
    """A transaction that `memory.transaction()` or `memory.using()` returned."""

    _executor: AsyncTransactionExecutor


def executor_of(transaction: AsyncBound) -> AsyncTransactionExecutor:
    """Return the executor of a caller's transaction.

    Raises:
        InvalidInput: it is no transaction of a memory.
    """
    executor = getattr(transaction, "_executor", None)
    if not isinstance(executor, AsyncTransactionExecutor):
        raise InvalidInput(
            f"{type(transaction).__name__} is no transaction of this memory: give what "
            f"memory.transaction() or memory.using() returns"
        )
    return executor


class AsyncDurableSubscription(AsyncSubscription[T]):
    """A subscription that goes on from the position that was committed under its name.

    Made by `memory.events.subscribe(…, durable=name)`. One process at a time holds it. Others that
    subscribe under the name stand by, and take over when it is closed or its lease runs out.
    """

    def __init__(
        self,
        reader: AsyncLogReader,
        wanted: EventFilter,
        start: Start,
        decode: Callable[[Row], T],
        *,
        name: str,
        lease: Seconds,
        auto_commit: bool,
        agent_id: str | None,
    ) -> None:
        super().__init__(reader, wanted, start, decode)

        def new_lease(position: int) -> AsyncSubscriptionLease:
            return AsyncSubscriptionLease(
                reader.executor,
                name,
                wanted.to_json(),
                start=position,
                lease=lease,
                owner=owner_name(agent_id),
                on_lost=self._lose,
            )

        new_lease(0)  # Checks the arguments now. The position to begin at is known later.
        self._new_lease = new_lease
        self._name = name
        self._auto_commit = auto_commit
        self._lease: AsyncSubscriptionLease | None = None
        self._committed = 0
        self._handled = 0
        self._idle_since = time.monotonic()

    @property
    def committed(self) -> int:
        """The position that was stored last, leaving out commits in a caller's transaction."""
        return self._committed

    @property
    def holding(self) -> bool:
        """True if this process holds the subscription; False while it stands by."""
        return self._begun and self._cursor.failed is None

    def _lose(self, error: PgmemError) -> None:
        self._cursor.failed = error
        self._cursor.wakeup.set()

    async def _begin(self) -> float | None:
        if self._lease is None:
            await self._enter()
            self._lease = self._new_lease(await self._first_position())
        pause = await self._lease.try_acquire()
        if pause is not None:
            return pause
        position, created_at = self._lease.position, self._lease.created_at
        self._since = created_at if position == 0 and created_at is not None else ALWAYS
        self._committed = self._handled = position
        self._begin_at(position)
        return None

    async def _prepare(self) -> None:
        """Commit what was handed out: a caller that asks for more has handled it."""
        self._handled = self.position
        if self._auto_commit and self._begun:
            await self._commit_quietly(self._handled)

    async def _idle(self) -> float | None:
        """Commit, every few seconds, a position that moved only past unselected events."""
        if not self._auto_commit:
            return None
        now = time.monotonic()
        if now - self._idle_since >= IDLE_COMMIT:
            self._idle_since = now
            self._handled = max(self._handled, self._cursor.position)
            await self._commit_quietly(self._handled)
        return IDLE_COMMIT

    async def _commit_quietly(self, position: int) -> None:
        try:
            await self._store(position)
        except Unavailable:
            return  # The next commit stores it, or the next owner gets the events again.

    async def _store(self, position: int) -> None:
        if position > self._committed and self._lease is not None:
            await self._lease.commit(position)
            self._committed = position
            self._idle_since = time.monotonic()

    async def commit(self, transaction: AsyncBound | None = None) -> None:
        """Store that everything that was handed out so far is handled.

        >>> async with memory.events.subscribe(
        ...     "payments", durable="billing", auto_commit=False
        ... ) as events:
        ...     for event in await events.receive(timeout=0):
        ...         async with memory.transaction() as tx:
        ...             await tx.state.put(f"billed:{event.position}", event.payload)
        ...             await events.commit(tx)

        Args:
            transaction: the result of `memory.transaction()` or `memory.using()`. The position is
                stored if and only if that transaction commits, together with its other effects.

        Raises:
            LeaseLost: another process has taken over: roll back your effects for these events.
            InvalidInput: the subscription is not held yet.
        """
        if not self._begun or self._lease is None:
            raise InvalidInput(
                f"commit of the subscription {self._name!r}: it is still standing by; commit "
                f"after the first event was handed out"
            )
        if transaction is None:
            await self._store(self.position)
        else:
            await self._lease.commit(self.position, executor_of(transaction))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            usable = self._begun and not self._closed and self._cursor.failed is None
            if self._auto_commit and usable:
                await self._commit_quietly(self.position if error is None else self._handled)
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop following, and release the subscription for other processes."""
        await super().close()
        if self._lease is not None:
            await self._lease.release()
