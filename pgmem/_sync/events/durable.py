# Generated from pgmem/events/durable.py by tools/generate_sync.py. Do not edit.
"""Subscriptions whose position is stored.

::

    standing by ──► holding ── hands out events ──► position ──► committed ──┐
        ▲              ▲                                                     │
        │              └─────────────────────────────────────────────────────┘
        └── another process holds the subscription      lost: LeaseLost, for good

    handled      what was handed out before more is asked for
    committed    automatically, within COMMIT_EVERY and at the end of the block
                 commit(event), at once
                 commit(event, tx), if and only if the transaction commits

With `auto_commit=False` only the last two count.

Decides when to commit. The lease is `pgmem._sync.events.durable_lease`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from pgmem._sync.core.transaction import TransactionExecutor
from pgmem._sync.events.durable_lease import SubscriptionLease, owner_name
from pgmem._sync.events.reader import LogReader
from pgmem._sync.events.subscription import Start, Subscription
from pgmem.core.context import WriteContext
from pgmem.core.op import Row
from pgmem.core.validation import Seconds
from pgmem.errors import InvalidInput, PgmemError, Unavailable
from pgmem.events.durable_ops import OnFailover
from pgmem.events.event_classes import OnInvalid
from pgmem.events.filter import EventFilter
from pgmem.events.page import ALWAYS

T = TypeVar("T")

DEFAULT_LEASE: Seconds = 30.0
COMMIT_EVERY = 1.0
"""Seconds between two commits of an iteration, unless it waits for new events. A killed process
repeats what was handled in them."""
IDLE_COMMIT = 5.0
"""Seconds between two commits of a position that moved only past unselected events."""


class Bound(Protocol):
    """A transaction that `memory.transaction()` or `memory.using()` returned."""

    _executor: TransactionExecutor


def executor_of(transaction: Bound) -> TransactionExecutor:
    """Return the executor of a caller's transaction.

    Raises:
        InvalidInput: it is no transaction of a memory.
    """
    executor = getattr(transaction, "_executor", None)
    if not isinstance(executor, TransactionExecutor):
        raise InvalidInput(
            f"{type(transaction).__name__} is no transaction of this memory: give what "
            f"memory.transaction() or memory.using() returns"
        )
    return executor


class DurableSubscription(Subscription[T]):
    """A subscription that goes on from the position that was committed under its name.

    Made by `memory.events.subscribe(…, durable=name)`. One process at a time holds it. Others that
    subscribe under the name stand by, and take over when it is closed or its lease runs out.
    """

    def __init__(
        self,
        reader: LogReader,
        wanted: EventFilter,
        start: Start,
        decode: Callable[[Row], T],
        *,
        name: str,
        lease: Seconds,
        auto_commit: bool,
        on_failover: OnFailover,
        agent_id: str | None,
        on_invalid: OnInvalid = "raise",
        context: WriteContext | None = None,
    ) -> None:
        super().__init__(reader, wanted, start, decode, on_invalid=on_invalid, context=context)

        def new_lease(position: int) -> SubscriptionLease:
            return SubscriptionLease(
                reader.executor,
                name,
                wanted.to_json(),
                start=position,
                lease=lease,
                owner=owner_name(agent_id),
                on_lost=self._lose,
                on_promotion=reader.follow_history,
                on_failover=on_failover,
            )

        new_lease(0)  # Checks the arguments now. The position to begin at is known later.
        self._new_lease = new_lease
        self._name = name
        self._auto_commit = auto_commit
        self._lease: SubscriptionLease | None = None
        self._committed = 0
        self._commit_due = 0.0
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

    def _begin(self) -> float | None:
        if self._lease is None:
            self._enter()
            self._lease = self._new_lease(self._first_position())
        pause = self._lease.try_acquire()
        if pause is not None:
            return pause
        position, created_at = self._lease.position, self._lease.created_at
        self._since = created_at if position == 0 and created_at is not None else ALWAYS
        self._committed = position
        self._begin_at(position)
        return None

    def __next__(self) -> T:
        if self._auto_commit and self._ready and time.monotonic() >= self._commit_due:
            self._more_asked()
        return super().__next__()

    def _more_asked(self) -> None:
        super()._more_asked()
        if self._auto_commit and self._begun:
            self._commit_quietly(self._asked)

    def _idle(self) -> float | None:
        """Commit, every few seconds, a position that moved only past unselected events."""
        if not self._auto_commit:
            return None
        now = time.monotonic()
        if now - self._idle_since >= IDLE_COMMIT:
            self._idle_since = now
            self._asked = max(self._asked, self._cursor.position)
            self._commit_quietly(self._asked)
        return IDLE_COMMIT

    def _commit_quietly(self, position: int) -> None:
        self._commit_due = time.monotonic() + COMMIT_EVERY
        try:
            self._store(position)
        except Unavailable:
            return  # The next commit stores it, or the next owner gets the events again.

    def _store(self, position: int) -> None:
        if position > self._committed and self._lease is not None:
            self._lease.commit(position)
            self._committed = position
            self._idle_since = time.monotonic()

    def commit(self, event: T, tx: Bound | None = None) -> None:
        """Store that an event is handled, and every one that was handed out before it.

        >>> with memory.events.subscribe(
        ...     "payments", durable="billing", auto_commit=False
        ... ) as events:
        ...     for event in events.receive(timeout=0):
        ...         with memory.transaction() as tx:
        ...             tx.state.put(f"billed:{event.position}", event.payload)
        ...             events.commit(event, tx)

        Args:
            event: an event that this subscription has handed out.
            tx: the result of `memory.transaction()` or `memory.using()`. The position is stored if
                and only if that transaction commits, together with its other effects.

        Raises:
            LeaseLost: another process has taken over: roll back your effects for these events.
            InvalidInput: the event was not handed out by this subscription, or `tx` is no
                transaction.
        """
        position = self._position_after(event)
        if tx is None:
            self._store(position)
        elif self._lease is not None:
            self._lease.commit(position, executor_of(tx))

    def _position_after(self, event: T) -> int:
        """Return the position up to which all is handled if an event is.

        Raises:
            InvalidInput: it was not handed out.
        """
        position = getattr(event, "position", None)
        if type(position) is not int:
            raise InvalidInput(
                f"commit of the subscription {self._name!r} takes an event that it handed out, "
                f"then a transaction: got {type(event).__name__}"
            )
        if not self._begun:
            raise InvalidInput(
                f"commit of the subscription {self._name!r}: it is still standing by; commit "
                f"after the first event was handed out"
            )
        reached = self.position
        if position > reached:
            raise InvalidInput(
                f"commit of the subscription {self._name!r}: position {position} was not handed "
                f"out, the last one was {self._last}; name an event that it handed out"
            )
        # After the last event that was handed out come only events that are not selected.
        return reached if position >= self._last else position

    def close(self) -> None:
        """Stop following, store what is handled, and release the subscription."""
        store = self._auto_commit and self._begun and not self._closed
        super().close()
        try:
            if store and self._cursor.failed is None:
                self._commit_quietly(min(self._asked, self._cursor.position))
        finally:
            if self._lease is not None:
                self._lease.release()
