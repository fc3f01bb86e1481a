"""The values that consumer groups give back: state, pending events, dead letters, run results."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from pgmem.events.models import RecordedEvent
from pgmem.groups.retry import RetryPolicy


class GroupInfo(NamedTuple):
    """Describe a consumer group.

    Attributes:
        name: the group's name.
        selection: the events that it follows, as a JSON object.
        ordered_by: the key that its events are ordered by; None if they are not.
        max_attempts: attempts of an event before it becomes a dead letter.
        retry: how failed events are delivered again.
        position: every selected event up to it was claimed.
        created_at: when the group was made.
        updated_at: when members last claimed or gave back events.
        held: the number of events that members hold.
        delayed: the number of events that wait to be delivered again.
        dead_letters: the number of dead letters.
    """

    name: str
    selection: dict[str, Any]
    ordered_by: str | None
    max_attempts: int
    retry: RetryPolicy
    position: int
    created_at: datetime
    updated_at: datetime
    held: int
    delayed: int
    dead_letters: int


class Pending(NamedTuple):
    """Describe an event that a member holds, or that waits to be delivered again.

    Attributes:
        position: the event's position.
        member: the member that holds it; None if it is delayed.
        attempts: how often it was delivered.
        until: the end of its lease; of a delayed event, when it is due. By the server's clock.
        error: the error given with `nack`, if there was one.
        delayed: False if a member holds it.
        claimed_at: when the member got it; None if it is delayed.
    """

    position: int
    member: str | None
    attempts: int
    until: datetime
    error: str | None
    delayed: bool
    claimed_at: datetime | None


class Failure(NamedTuple):
    """Describe one failed attempt to handle an event.

    Attributes:
        member: the member that had the event.
        failed_at: when the attempt ended, by the server's clock.
        error: the first 200 characters of the error, if there was one.
    """

    member: str | None
    failed_at: datetime
    error: str | None


class DeadLetter(NamedTuple):
    """Describe an event that is not delivered any more.

    Attributes:
        position: the event's position.
        event: the event; None if a forced trim has removed it.
        attempts: the attempts that count: the handler failed, or its member was lost with this
            event alone.
        member: the last member that held it.
        error: the last error.
        failed_at: when it became a dead letter, by the server's clock.
        failures: the failed attempts, oldest first; the last 20.
    """

    position: int
    event: RecordedEvent | None
    attempts: int
    member: str | None
    error: str | None
    failed_at: datetime
    failures: list[Failure]


class RunResult(NamedTuple):
    """Count what `group.run` did.

    Attributes:
        handled: events that were handled and acknowledged.
        failed: calls of the handler that raised.
        lost: events that another member had taken over when the handler ended.
    """

    handled: int
    failed: int
    lost: int
