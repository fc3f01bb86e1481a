"""Share memory between agents in the PostgreSQL that you already run.

>>> from pgmem import Memory, Event
>>> with Memory(url) as memory:
...     memory.events.append("payments", Event(type="received", payload={"amount": 5}))
...     memory.state.put("account:1", {"balance": 5})
Appended(position=1, version=None, duplicate=False)
StateEntry(key='account:1', value={'balance': 5}, version=1, ...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgmem.errors import (
    AlreadyExists,
    CallbackFailed,
    Conflict,
    DatabaseFault,
    HistoryRewritten,
    IdempotencyMismatch,
    InvalidEvent,
    InvalidInput,
    InvalidValue,
    LeaseHeld,
    LeaseLost,
    NotFound,
    NotOpen,
    OutcomeUnknown,
    PermissionDenied,
    PgmemError,
    PositionTrimmed,
    SchemaError,
    StaleRead,
    TransactionConflict,
    Unavailable,
    VersionConflict,
)

if TYPE_CHECKING:
    from pgmem._sync.events.durable import DurableSubscription
    from pgmem._sync.events.subscription import Subscription
    from pgmem._sync.groups.delivery import Delivery
    from pgmem._sync.groups.group import Group
    from pgmem._sync.leases.lease import Lease
    from pgmem._sync.memory import Memory
    from pgmem._sync.optimistic.transaction import Optimistic
    from pgmem._sync.transaction import BoundMemory, Transaction
    from pgmem.admin import migrate
    from pgmem.dedupe.models import Claim, Outcome
    from pgmem.embedded.postgres import EmbeddedPostgres
    from pgmem.events.durable import AsyncDurableSubscription
    from pgmem.events.filter import EventFilter
    from pgmem.events.models import Append, Appended, Event, RecordedEvent, StateChange
    from pgmem.events.subscription import AsyncSubscription
    from pgmem.folds.models import Fold
    from pgmem.groups.delivery import AsyncDelivery
    from pgmem.groups.group import AsyncGroup
    from pgmem.groups.retry import Discard, RetryLater, RetryPolicy
    from pgmem.leases.lease import AsyncLease
    from pgmem.memory import AsyncMemory
    from pgmem.optimistic.transaction import AsyncOptimistic
    from pgmem.retention.models import Policy
    from pgmem.state.models import KEEP, StateEntry
    from pgmem.transaction import AsyncBoundMemory, AsyncTransaction

__all__ = [
    "KEEP",
    "AlreadyExists",
    "Append",
    "Appended",
    "AsyncBoundMemory",
    "AsyncDelivery",
    "AsyncDurableSubscription",
    "AsyncGroup",
    "AsyncLease",
    "AsyncMemory",
    "AsyncOptimistic",
    "AsyncSubscription",
    "AsyncTransaction",
    "BoundMemory",
    "CallbackFailed",
    "Claim",
    "Conflict",
    "DatabaseFault",
    "Delivery",
    "Discard",
    "DurableSubscription",
    "EmbeddedPostgres",
    "Event",
    "EventFilter",
    "Fold",
    "Group",
    "HistoryRewritten",
    "IdempotencyMismatch",
    "InvalidEvent",
    "InvalidInput",
    "InvalidValue",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "Memory",
    "NotFound",
    "NotOpen",
    "Optimistic",
    "Outcome",
    "OutcomeUnknown",
    "PermissionDenied",
    "PgmemError",
    "Policy",
    "PositionTrimmed",
    "RecordedEvent",
    "RetryLater",
    "RetryPolicy",
    "SchemaError",
    "StaleRead",
    "StateChange",
    "StateEntry",
    "Subscription",
    "Transaction",
    "TransactionConflict",
    "Unavailable",
    "VersionConflict",
    "migrate",
]

_HOME = {
    "KEEP": "pgmem.state.models",
    "Append": "pgmem.events.models",
    "Appended": "pgmem.events.models",
    "AsyncBoundMemory": "pgmem.transaction",
    "AsyncDelivery": "pgmem.groups.delivery",
    "AsyncDurableSubscription": "pgmem.events.durable",
    "AsyncGroup": "pgmem.groups.group",
    "AsyncLease": "pgmem.leases.lease",
    "AsyncMemory": "pgmem.memory",
    "AsyncOptimistic": "pgmem.optimistic.transaction",
    "AsyncSubscription": "pgmem.events.subscription",
    "AsyncTransaction": "pgmem.transaction",
    "BoundMemory": "pgmem._sync.transaction",
    "Claim": "pgmem.dedupe.models",
    "Delivery": "pgmem._sync.groups.delivery",
    "Discard": "pgmem.groups.retry",
    "DurableSubscription": "pgmem._sync.events.durable",
    "EmbeddedPostgres": "pgmem.embedded.postgres",
    "Event": "pgmem.events.models",
    "EventFilter": "pgmem.events.filter",
    "Fold": "pgmem.folds.models",
    "Group": "pgmem._sync.groups.group",
    "Lease": "pgmem._sync.leases.lease",
    "Memory": "pgmem._sync.memory",
    "Optimistic": "pgmem._sync.optimistic.transaction",
    "Outcome": "pgmem.dedupe.models",
    "Policy": "pgmem.retention.models",
    "RecordedEvent": "pgmem.events.models",
    "RetryLater": "pgmem.groups.retry",
    "RetryPolicy": "pgmem.groups.retry",
    "StateChange": "pgmem.events.models",
    "StateEntry": "pgmem.state.models",
    "Subscription": "pgmem._sync.events.subscription",
    "Transaction": "pgmem._sync.transaction",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that one form loads without the other."""
    from importlib import import_module  # noqa: PLC0415

    if name == "migrate":
        return import_module("pgmem.admin.migrate")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
