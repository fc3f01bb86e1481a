"""pgmem: shared memory for several agents, in the PostgreSQL that you already run.

>>> from pgmem import Memory, Event
>>> with Memory(url) as memory:
...     memory.events.append("payments", Event(type="received", payload={"amount": 5}))
...     memory.state.put("account:1", {"balance": 5})
Appended(position=1, version=None, duplicate=False)
StateEntry(key='account:1', value={'balance': 5}, version=1, ...)
"""

from pgmem._async.memory import AsyncBoundMemory, AsyncMemory, AsyncTransaction
from pgmem._sync.memory import BoundMemory, Memory, Transaction
from pgmem.embedded import EmbeddedPostgres
from pgmem.models import (
    Appended,
    Claim,
    ConsumerInfo,
    Event,
    Fold,
    Folded,
    Outcome,
    RecordedEvent,
    StateChange,
    StateEntry,
    StateSnapshot,
)

__all__ = [
    "Appended",
    "AsyncBoundMemory",
    "AsyncMemory",
    "AsyncTransaction",
    "BoundMemory",
    "Claim",
    "ConsumerInfo",
    "EmbeddedPostgres",
    "Event",
    "Fold",
    "Folded",
    "Memory",
    "Outcome",
    "RecordedEvent",
    "StateChange",
    "StateEntry",
    "StateSnapshot",
    "Transaction",
]
