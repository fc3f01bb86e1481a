"""What there is beside the log: state, work that is done once, folds and copies of the state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pgmem.models.events import RecordedEvent

S = TypeVar("S")


class StateEntry(NamedTuple):
    """The latest state under a key.

    Attributes:
        key: its name.
        value: the JSON value, or an instance of `model=`.
        version: number of changes; +1 with each, also across delete and create.
        updated_at: when it was last written (the server's clock).
        expires_at: when it will expire; None if never.
        position: the position of the event that was written with it; None when read, and with
            `record=False`.
    """

    key: str
    value: Any
    version: int
    updated_at: datetime
    expires_at: datetime | None = None
    position: int | None = None


class Outcome(NamedTuple):
    """How a piece of work under an idempotency key ended.

    Attributes:
        status: "processed" if this call did the work, "skipped" if it had been done before.
        result: what the work returned, this time or the first time.
    """

    status: Literal["processed", "skipped"]
    result: Any


class Claim(NamedTuple):
    """The answer to `dedupe.claim`.

    Attributes:
        key: the idempotency key.
        acquired: True if the caller now holds the claim; False if the work is already done.
        token: the fencing token: grows with every claim, refused once a newer one exists.
        lease_until: when the claim may be taken over (the server's clock); None if done.
        result: the stored result, if the work is already done.
    """

    key: str
    acquired: bool
    token: int
    lease_until: datetime | None = None
    result: Any = None


@dataclass(frozen=True, slots=True)
class Fold(Generic[S]):
    """How events add up to a value.

    Attributes:
        name: names its snapshots.
        initial: makes the value before any event.
        apply: takes the value and the next event, gives the next value; it may change the value
            that it was given and return it.
        version: raise it with every change of `initial`, `apply` or the filter: snapshots of
            another version are never read.
        stream: fold only this stream; None for the whole log.
        type: fold only events of this type.
    """

    name: str
    initial: Callable[[], S]
    apply: Callable[[S, RecordedEvent], S]
    version: int = 1
    stream: str | None = None
    type: str | None = None


class Folded(NamedTuple, Generic[S]):
    """A fold's value and the position that it holds for: every event up to it is in."""

    value: S
    position: int


class History(NamedTuple):
    """Which history a position belongs to.

    Attributes:
        system_identifier: of the server's cluster.
        timeline: of the cluster's log; it changes when a replica is promoted. None on a standby.
    """

    system_identifier: int
    timeline: int | None


class StateSnapshot(NamedTuple):
    """A copy of the whole state at one position of the log."""

    id: int
    name: str | None
    position: int
    entries: int
    taken_at: datetime
