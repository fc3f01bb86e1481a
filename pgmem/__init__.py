"""pgmem: shared memory for several agents, in the PostgreSQL that you already run.

>>> from pgmem import Memory, Event
>>> with Memory(url) as memory:
...     memory.events.append("payments", Event(type="received", payload={"amount": 5}))
...     memory.state.put("account:1", {"balance": 5})
Appended(position=1, version=None, duplicate=False)
StateEntry(key='account:1', value={'balance': 5}, version=1, ...)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgmem._sync.events.durable import ConsumerSubscription
    from pgmem._sync.events.subscription import Subscription
    from pgmem._sync.groups.group import Delivery, Group
    from pgmem._sync.leases.lease import Lease
    from pgmem._sync.memory import BoundMemory, Memory, Transaction
    from pgmem.admin import migrate
    from pgmem.admin.stats_models import Stats
    from pgmem.core.history import History
    from pgmem.dedupe.models import Claim, Outcome
    from pgmem.embedded.postgres import EmbeddedPostgres
    from pgmem.events.durable import AsyncConsumerSubscription
    from pgmem.events.models import Appended, ConsumerInfo, Event, RecordedEvent, StateChange
    from pgmem.events.subscription import AsyncSubscription
    from pgmem.folds.models import Fold, Folded
    from pgmem.groups.group import AsyncDelivery, AsyncGroup
    from pgmem.groups.models import DeadLetter, GroupInfo, Pending, RunResult
    from pgmem.leases.lease import AsyncLease
    from pgmem.leases.models import LeaseInfo, Permit
    from pgmem.memory import AsyncBoundMemory, AsyncMemory, AsyncTransaction
    from pgmem.redis.models import (
        ImportedDelivery,
        ImportedEntry,
        ImportedEvent,
        ImportedMark,
        ImportPart,
        KnownDelivery,
        KnownEntry,
        KnownMark,
        Refusal,
    )
    from pgmem.retention.models import (
        Holder,
        MaintenanceReport,
        Policy,
        RestoreReport,
        StreamTrim,
        SweepReport,
        TrimReport,
    )
    from pgmem.state.models import StateEntry, StateSnapshot

__all__ = [
    "Appended",
    "AsyncBoundMemory",
    "AsyncConsumerSubscription",
    "AsyncDelivery",
    "AsyncGroup",
    "AsyncLease",
    "AsyncMemory",
    "AsyncSubscription",
    "AsyncTransaction",
    "BoundMemory",
    "Claim",
    "ConsumerInfo",
    "ConsumerSubscription",
    "DeadLetter",
    "Delivery",
    "EmbeddedPostgres",
    "Event",
    "Fold",
    "Folded",
    "Group",
    "GroupInfo",
    "History",
    "Holder",
    "ImportPart",
    "ImportedDelivery",
    "ImportedEntry",
    "ImportedEvent",
    "ImportedMark",
    "KnownDelivery",
    "KnownEntry",
    "KnownMark",
    "Lease",
    "LeaseInfo",
    "MaintenanceReport",
    "Memory",
    "Outcome",
    "Pending",
    "Permit",
    "Policy",
    "RecordedEvent",
    "Refusal",
    "RestoreReport",
    "RunResult",
    "StateChange",
    "StateEntry",
    "StateSnapshot",
    "Stats",
    "StreamTrim",
    "Subscription",
    "SweepReport",
    "Transaction",
    "TrimReport",
    "migrate",
]

_MODULES = {
    "pgmem._sync.events.durable": ("ConsumerSubscription",),
    "pgmem._sync.events.subscription": ("Subscription",),
    "pgmem._sync.groups.group": (
        "Delivery",
        "Group",
    ),
    "pgmem._sync.leases.lease": ("Lease",),
    "pgmem._sync.memory": (
        "BoundMemory",
        "Memory",
        "Transaction",
    ),
    "pgmem.admin.stats_models": ("Stats",),
    "pgmem.core.history": ("History",),
    "pgmem.dedupe.models": (
        "Claim",
        "Outcome",
    ),
    "pgmem.embedded.postgres": ("EmbeddedPostgres",),
    "pgmem.events.durable": ("AsyncConsumerSubscription",),
    "pgmem.events.models": (
        "Appended",
        "ConsumerInfo",
        "Event",
        "RecordedEvent",
        "StateChange",
    ),
    "pgmem.events.subscription": ("AsyncSubscription",),
    "pgmem.folds.models": (
        "Fold",
        "Folded",
    ),
    "pgmem.groups.group": (
        "AsyncDelivery",
        "AsyncGroup",
    ),
    "pgmem.groups.models": (
        "DeadLetter",
        "GroupInfo",
        "Pending",
        "RunResult",
    ),
    "pgmem.leases.lease": ("AsyncLease",),
    "pgmem.leases.models": (
        "LeaseInfo",
        "Permit",
    ),
    "pgmem.memory": (
        "AsyncBoundMemory",
        "AsyncMemory",
        "AsyncTransaction",
    ),
    "pgmem.redis.models": (
        "ImportPart",
        "ImportedDelivery",
        "ImportedEntry",
        "ImportedEvent",
        "ImportedMark",
        "KnownDelivery",
        "KnownEntry",
        "KnownMark",
        "Refusal",
    ),
    "pgmem.retention.models": (
        "Holder",
        "MaintenanceReport",
        "Policy",
        "RestoreReport",
        "StreamTrim",
        "SweepReport",
        "TrimReport",
    ),
    "pgmem.state.models": (
        "StateEntry",
        "StateSnapshot",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


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
