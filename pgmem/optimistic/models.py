"""The receipt of an optimistic transaction, and what its `StaleRead` reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pgmem.events.models import RecordedEvent
from pgmem.state.models import StateEntry


class Committed(NamedTuple):
    """The receipt of an optimistic transaction.

    Attributes:
        position: the highest position of its events, or None if it appended none.
        versions: the new version of each entry that it wrote; 0 for a deleted one.
        duplicate: True if the idempotency key was used before. Then the rest is the first receipt.
    """

    position: int | None
    versions: dict[str, int]
    duplicate: bool = False


class Stale(NamedTuple):
    """Something that was read and is not the same any more.

    Attributes:
        kind: "state" for an entry, "stream" for the version of a stream.
        name: the key or the stream.
        expected: the version that was read; 0 if there was no entry.
        actual: the version that was found; 0 if there is no entry.
        current: the entry as it is now, or None. None for a stream.
        events: the events since the version that was read, oldest first, at most 100. They tell
            who changed it (`agent_id`), in which run and why (`metadata`).
    """

    kind: Literal["state", "stream"]
    name: str
    expected: int
    actual: int
    current: StateEntry | None = None
    events: Sequence[RecordedEvent] = ()
