"""What `Imports` takes and gives: what another store holds, and how far it was brought in.

Plain values, as those of `pgmem.models`; this module knows neither SQL nor connections.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple


class ImportPart(NamedTuple):
    """A part of an import, and how far it has come.

    Attributes:
        source: the name of the import.
        part: what of the source it is.
        target: the stream that it fills; None if it fills none.
        cursor: how far the source has been read, in the source's own words; "" at the beginning.
        done: how many items of the source were brought in.
        refused: how many could not be.
        detail: what else the importer wants to know.
        created_at: when it was first opened (the server's clock).
        updated_at: when it made its last step.
        token: proves who opened it last.
        step: how many steps it has made.
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
    """An event from another store; payload and metadata are JSON texts and are kept as such."""

    type: str
    payload: bytes
    agent_id: str | None = None
    metadata: bytes | None = None


class ImportedEntry(NamedTuple):
    """A state entry from another store.

    Attributes:
        key: its name.
        value: a JSON text.
        origin: where it came from: a JSON object, the metadata of the event of the change. Only
            an import of the same origin changes the entry again.
        ttl: seconds until it expires; None if never.
    """

    key: str
    value: bytes
    origin: bytes
    ttl: float | None = None


class ImportedRecord(NamedTuple):
    """Work that was done before, by the word of another store.

    Attributes:
        key: the idempotency key.
        origin: where it came from. Only an import of the same origin changes the mark again.
        result: what came of the work, as a JSON text; None if nobody knows.
        ttl: seconds until it is forgotten; None if never.
    """

    key: str
    origin: str
    result: bytes | None = None
    ttl: float | None = None


class ImportedDelivery(NamedTuple):
    """An event that a group of another store has handed out, and that is not done.

    Attributes:
        position: the event's, here.
        attempts: how often it was handed out there.
        note: what is to be known of it, as of who has had it.
    """

    position: int
    attempts: int
    note: str | None = None


class KnownDelivery(NamedTuple):
    """An event that a group has handed out here, and that is not done.

    Attributes:
        position: the event's.
        attempts: how often it was handed out.
        delayed: True if it waits to be delivered again; False if a member holds it.
    """

    position: int
    attempts: int
    delayed: bool


class Refusal(NamedTuple):
    """An item that cannot be brought in: its place in what was given, and why."""

    place: int
    reason: str


class KnownEntry(NamedTuple):
    """A state entry, and where its latest change came from.

    Attributes:
        key, value, version: as of a `StateEntry`.
        ttl: seconds until it expires; None if never.
        origin: where it came from; None if no import brought its latest change.
    """

    key: str
    value: Any
    version: int
    ttl: float | None
    origin: dict[str, Any] | None


class KnownRecord(NamedTuple):
    """Work that is marked as done.

    Attributes:
        key: the idempotency key.
        result: the stored result.
        ttl: seconds until it is forgotten; None if never.
        origin: where it came from; None if it was done here.
    """

    key: str
    result: Any
    ttl: float | None
    origin: str | None
