"""Define what Redis done right takes and returns: events, entries, claims and errors."""

from __future__ import annotations

from typing import Any, NamedTuple


class Conflict(Exception):
    """Raised if the version is not the expected one.

    Attributes:
        current: the entry that is there instead; None if there is none.
    """

    def __init__(self, key: str, current: Entry | None) -> None:
        super().__init__(f"{key!r} is at version {current.version if current else 0}")
        self.current = current


class ClaimHeld(Exception):
    """Raised if another caller is still doing the work."""


class LeaseLost(Exception):
    """Raised if the lease of the work expired, and another caller has the claim or its result."""


class Event(NamedTuple):
    """Describe an event to append."""

    type: str
    payload: Any
    agent_id: str = ""


class Recorded(NamedTuple):
    """Describe a stored event.

    Attributes:
        key, version: of a change of state; None for other events.
    """

    id: bytes
    type: str
    payload: Any
    agent_id: str
    key: str | None = None
    version: int | None = None


class Entry(NamedTuple):
    """Hold a key's value and the number of its changes."""

    value: Any
    version: int


class Claim(NamedTuple):
    """Hold the answer of `claim`: a token for the right to do the work, or the stored result."""

    key: str
    token: str | None
    result: Any = None


class Outcome(NamedTuple):
    """Hold the result of work that takes effect once, and if this call did it."""

    first: bool
    result: Any


class Reclaimed(NamedTuple):
    """Hold the deliveries that were taken over from idle consumers.

    Attributes:
        cursor: the place to continue from; b"0-0" at the end.
        deleted: entries that were trimmed before they were acknowledged. The group has lost them.
    """

    cursor: bytes
    events: list[Recorded]
    deleted: list[bytes]
