"""pgmem: shared memory for several agents, in the PostgreSQL that you already run.

>>> from pgmem import Memory, Event
>>> with Memory(url) as memory:
...     memory.events.append("payments", Event(type="received", payload={"amount": 5}))
...     memory.state.put("account:1", {"balance": 5})
Appended(position=1, version=None, duplicate=False)
StateEntry(key='account:1', value={'balance': 5}, version=1, ...)
"""

from pgmem._async.consuming import AsyncConsumerSubscription
from pgmem._async.memory import AsyncBoundMemory, AsyncMemory, AsyncTransaction
from pgmem._async.subscription import AsyncSubscription
from pgmem._sync.consuming import ConsumerSubscription
from pgmem._sync.memory import BoundMemory, Memory, Transaction
from pgmem._sync.subscription import Subscription
from pgmem.embedded import EmbeddedPostgres
from pgmem.models import (
    Appended,
    Claim,
    ConsumerInfo,
    Event,
    Fold,
    Folded,
    History,
    ImportedEntry,
    ImportedEvent,
    ImportedMark,
    ImportPart,
    KnownEntry,
    KnownMark,
    Outcome,
    RecordedEvent,
    Refusal,
    StateChange,
    StateEntry,
    StateSnapshot,
)

__all__ = [
    "Appended",
    "AsyncBoundMemory",
    "AsyncConsumerSubscription",
    "AsyncMemory",
    "AsyncSubscription",
    "AsyncTransaction",
    "BoundMemory",
    "Claim",
    "ConsumerInfo",
    "ConsumerSubscription",
    "EmbeddedPostgres",
    "Event",
    "Fold",
    "Folded",
    "History",
    "ImportPart",
    "ImportedEntry",
    "ImportedEvent",
    "ImportedMark",
    "KnownEntry",
    "KnownMark",
    "Memory",
    "Outcome",
    "RecordedEvent",
    "Refusal",
    "StateChange",
    "StateEntry",
    "StateSnapshot",
    "Subscription",
    "Transaction",
]
