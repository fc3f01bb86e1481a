"""What is told of those who share work: consumers, groups and their members, leases, limits."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from pgmem.events.models import RecordedEvent


class GroupInfo(NamedTuple):
    """A consumer group, and how much is open in it.

    Attributes:
        name: its name.
        selection: what it follows, as a JSON object.
        ordered_by: what its events are kept in order by, or None.
        max_attempts: how often an event is handed out before it is a dead letter.
        position: every event of the selection up to it has been handed out.
        created_at: when it was made.
        updated_at: when it last handed something out.
        held: events that members hold.
        parked: events that wait to be handed out again.
        dead_letters: events that it has given up.
    """

    name: str
    selection: dict[str, Any]
    ordered_by: str | None
    max_attempts: int
    position: int
    created_at: datetime
    updated_at: datetime
    held: int
    parked: int
    dead_letters: int


class Pending(NamedTuple):
    """An event of a group that was handed out, or is to be handed out again, and is not done.

    Attributes:
        position: the event's.
        consumer: who holds it; None if it is parked.
        attempts: how often it was handed out.
        until: when its lease ends, or, parked, when it is due (the server's clock).
        error: why it was given back, if somebody said so.
        parked: whether it waits to be handed out.
        handed_at: when it was handed out; None if it is parked.
    """

    position: int
    consumer: str | None
    attempts: int
    until: datetime
    error: str | None
    parked: bool
    handed_at: datetime | None


class DeadLetter(NamedTuple):
    """An event that a group has given up.

    Attributes:
        position: the event's.
        event: the event; None if a forced trim has removed it.
        attempts: how often it was handed out.
        consumer: who had it last.
        error: the last error.
        buried_at: when it was given up (the server's clock).
    """

    position: int
    event: RecordedEvent | None
    attempts: int
    consumer: str | None
    error: str | None
    buried_at: datetime


class Ran(NamedTuple):
    """What the members of a `group.run` did.

    Attributes:
        handled: events that were handled and acknowledged.
        failed: times that the handler raised.
        lost: events that were handled and were not theirs any more in the end.
    """

    handled: int
    failed: int
    lost: int
