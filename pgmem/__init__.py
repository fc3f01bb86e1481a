"""pgmem: shared memory for several agents, in the PostgreSQL that you already run.

>>> from pgmem import Memory, Event
>>> with Memory(url) as memory:
...     memory.events.append("payments", Event(type="received", payload={"amount": 5}))
...     memory.state.put("account:1", {"balance": 5})
Appended(position=1, version=None, duplicate=False)
StateEntry(key='account:1', value={'balance': 5}, version=1, ...)
"""

from pgmem._async.consuming import AsyncConsumerSubscription
from pgmem._async.group import AsyncDelivery, AsyncGroup
from pgmem._async.lease import AsyncLease
from pgmem._async.memory import AsyncBoundMemory, AsyncMemory, AsyncTransaction
from pgmem._async.subscription import AsyncSubscription
from pgmem._sync.consuming import ConsumerSubscription
from pgmem._sync.group import Delivery, Group
from pgmem._sync.lease import Lease
from pgmem._sync.memory import BoundMemory, Memory, Transaction
from pgmem._sync.subscription import Subscription
from pgmem.embedded import EmbeddedPostgres
from pgmem.imported import (
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
from pgmem.models import (
    Appended,
    Claim,
    ConsumerInfo,
    DeadLetter,
    Event,
    Fold,
    Folded,
    GroupInfo,
    History,
    Holder,
    LeaseInfo,
    MaintenanceReport,
    Outcome,
    Pending,
    Permit,
    Policy,
    Ran,
    RecordedEvent,
    RestoreReport,
    StateChange,
    StateEntry,
    StateSnapshot,
    StreamTrim,
    SweepReport,
    TrimReport,
)
from pgmem.stats import Stats

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
    "Ran",
    "RecordedEvent",
    "Refusal",
    "RestoreReport",
    "StateChange",
    "StateEntry",
    "StateSnapshot",
    "Stats",
    "StreamTrim",
    "Subscription",
    "SweepReport",
    "Transaction",
    "TrimReport",
]
