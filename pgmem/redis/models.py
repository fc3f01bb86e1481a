"""The values that `Imports` takes and returns."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple


class ImportPart(NamedTuple):
    """A part of an import, with its progress.

    Attributes:
        source: the name of the import.
        part: the name of the part.
        target: the stream that it fills; None if it fills none.
        cursor: how far the source has been read, in a format of the caller; "" at the beginning.
        done: number of imported items.
        refused: number of items that were left out.
        detail: a JSON object of the caller.
        created_at: when it was opened first (the server's clock).
        updated_at: when it made its last step.
        token: identifies the process that opened it last.
        step: number of steps that it has made.
    """

    source: str
    part: str
    target: str | None
    cursor: str
    done: int
    refused: int
    detail: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    token: str
    step: int


class ImportedEvent(NamedTuple):
    """An event from another store. Payload and metadata are JSON texts and are kept as such."""

    type: str
    payload: bytes
    agent_id: str | None = None
    metadata: bytes | None = None


class ImportedEntry(NamedTuple):
    """A state entry from another store.

    Attributes:
        key: the key.
        value: a JSON text.
        origin: a JSON object that says where it came from, the metadata of the event of the change.
            Only an import of the same origin changes the entry again.
        ttl: seconds until it expires; None if never.
    """

    key: str
    value: bytes
    origin: bytes
    ttl: float | None = None


class ImportedRecord(NamedTuple):
    """A dedupe record from another store, of work that is done.

    Attributes:
        key: the idempotency key.
        origin: where it came from. Only an import of the same origin changes the record again.
        result: the result of the work, as a JSON text; None if unknown.
        ttl: seconds until it expires; None if never.
    """

    key: str
    origin: str
    result: bytes | None = None
    ttl: float | None = None


class ImportedDelivery(NamedTuple):
    """An event that a group of another store has delivered, and that is not acknowledged.

    Attributes:
        position: the position of the event in this log.
        attempts: number of deliveries in the other store.
        note: a text that is shown with the event, for example its last consumer.
    """

    position: int
    attempts: int
    note: str | None = None


class KnownDelivery(NamedTuple):
    """An event that a group of this memory has delivered, and that is not acknowledged.

    Attributes:
        position: the position of the event.
        attempts: number of deliveries.
        delayed: True if it waits to be delivered again; False if a member holds it.
    """

    position: int
    attempts: int
    delayed: bool


class Refusal(NamedTuple):
    """An item that cannot be imported: its index in the list, and the reason."""

    place: int
    reason: str


class KnownEntry(NamedTuple):
    """A state entry, and the origin of its latest change.

    Attributes:
        key, value, version: as of a `StateEntry`.
        ttl: seconds until it expires; None if never.
        origin: where its latest change came from; None if an import did not make it.
    """

    key: str
    value: Any
    version: int
    ttl: float | None
    origin: dict[str, Any] | None


class KnownRecord(NamedTuple):
    """A dedupe record of work that is done.

    Attributes:
        key: the idempotency key.
        result: the stored result.
        ttl: seconds until it expires; None if never.
        origin: where it came from; None if the work was done here.
    """

    key: str
    result: Any
    ttl: float | None
    origin: str | None
