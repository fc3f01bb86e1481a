"""What users give to pgmem and get back from it.

`Event` is a pydantic model, because users subclass it and its fields are checked where the
mistake is made. What comes back is made of named tuples: a read of 10,000 events makes 10,000
of them, and a named tuple costs a third of a model.

These modules know nothing of SQL or connections.
"""

from pgmem.models.events import (
    Appended,
    Event,
    RecordedEvent,
    StateChange,
)
from pgmem.models.memory import (
    Claim,
    Fold,
    Folded,
    History,
    Outcome,
    StateEntry,
    StateSnapshot,
)
from pgmem.models.retention import (
    Holder,
    MaintenanceReport,
    Policy,
    PolicyKind,
    RestoreReport,
    StreamTrim,
    SweepReport,
    TrimReport,
)
from pgmem.models.sharing import (
    ConsumerInfo,
    DeadLetter,
    GroupInfo,
    LeaseInfo,
    Pending,
    Permit,
    Ran,
)

__all__ = [
    "Appended",
    "Claim",
    "ConsumerInfo",
    "DeadLetter",
    "Event",
    "Fold",
    "Folded",
    "GroupInfo",
    "History",
    "Holder",
    "LeaseInfo",
    "MaintenanceReport",
    "Outcome",
    "Pending",
    "Permit",
    "Policy",
    "PolicyKind",
    "Ran",
    "RecordedEvent",
    "RestoreReport",
    "StateChange",
    "StateEntry",
    "StateSnapshot",
    "StreamTrim",
    "SweepReport",
    "TrimReport",
]
