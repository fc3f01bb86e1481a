"""What Redis done right takes and gives: events, entries, claims, and what can go wrong."""

from __future__ import annotations

from typing import Any, NamedTuple


class Conflict(Exception):
    """The version is not the expected one.

    Attributes:
        current: what is there instead; None if nothing.
    """

    def __init__(self, key: str, current: Entry | None) -> None:
        super().__init__(f"{key!r} is at version {current.version if current else 0}")
        self.current = current


class ClaimHeld(Exception):
    """Another caller is still at work."""


class LeaseLost(Exception):
    """The work took longer than its lease, and somebody else has the claim or its result."""


class Event(NamedTuple):
    """An event to append."""

    type: str
    payload: Any
    agent_id: str = ""


class Recorded(NamedTuple):
    """An event as it is stored.

    Attributes:
        key, version: of a state's change; None for other events.
    """

    id: bytes
    type: str
    payload: Any
    agent_id: str
    key: str | None = None
    version: int | None = None


class Entry(NamedTuple):
    """A key's value and the number of its changes."""

    value: Any
    version: int


class Claim(NamedTuple):
    """An answer to `claim`: the right to do the work (a token), or what came of it."""

    key: str
    token: str | None
    result: Any = None


class Outcome(NamedTuple):
    """What came of work that takes effect once, and whether it was this call that did it."""

    first: bool
    result: Any


class Payment(NamedTuple):
    """What came of a payment, whether by this call, and whether the sender had the money."""

    first: bool
    funds: bool
    result: Any


class Reclaimed(NamedTuple):
    """What was taken over from consumers that gave no sign.

    Attributes:
        cursor: where to go on; b"0-0" at the end.
        deleted: entries that were trimmed before anybody acknowledged them: lost to the group.
    """

    cursor: bytes
    events: list[Recorded]
    deleted: list[bytes]
