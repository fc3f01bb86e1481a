"""What users give to pgmem and get back from it.

`Event` is a pydantic model, because users subclass it and its fields are checked where the
mistake is made. What comes back is made of named tuples: a read of 10,000 events makes 10,000
of them, and a named tuple costs a third of a model.

This module knows nothing of SQL or connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)

from pgmem.errors import InvalidValue

S = TypeVar("S")


class Event(BaseModel):
    """A fact to append to the log.

    Use it as it is, or subclass it to give the payload a shape. A subclass carries its type
    name (the class name, or `type=` in the class statement), and its own fields are the payload:

    >>> event = Event(type="validated", payload={"amount": 1_500_000}, agent_id="validator")
    >>> class PaymentValidated(Event, type="payment.validated"):
    ...     amount: int
    >>> PaymentValidated(amount=1_500_000).type
    'payment.validated'

    A subclass may redeclare `payload` as a pydantic model instead of adding fields.

    Args:
        type: what happened, 1 to 512 bytes. Set by the class in a subclass.
        payload: any JSON value, or a pydantic model.
        agent_id: who says so, 1 to 512 bytes; None takes the memory's own `agent_id`.
        metadata: a JSON object that travels with the event (trace ids, causes …).

    Attributes:
        event_type: the type name that the class carries; None in `Event` itself.
        payload_fields: the names of the fields that a subclass added: they are its payload.

    Raises:
        InvalidValue: a field is missing, unknown or of the wrong type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_type: ClassVar[str | None] = None
    payload_fields: ClassVar[frozenset[str]] = frozenset()

    type: str
    payload: Any = None
    agent_id: str | None = None
    metadata: dict[str, Any] | None = None

    def __init_subclass__(cls, *, type: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.event_type = type or cls.__name__

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.payload_fields = frozenset(cls.model_fields) - frozenset(Event.model_fields)
        if cls.payload_fields and cls.model_fields["payload"].annotation is not Any:
            raise InvalidValue(
                f"event class {cls.__name__} both redeclares payload and adds the fields "
                f"{sorted(cls.payload_fields)}: do one of the two"
            )

    if not TYPE_CHECKING:  # The type checker reads the fields, not this signature.

        def __init__(self, **fields: Any) -> None:
            if self.event_type is not None and fields.setdefault("type", self.event_type) != (
                self.event_type
            ):
                raise InvalidValue(
                    f"{type(self).__name__} events have the type {self.event_type!r}: leave type= "
                    f"out"
                )
            try:
                # What BaseModel's own does; calling that one costs a third more.
                self.__pydantic_validator__.validate_python(fields, self_instance=self)
            except ValidationError as error:
                raise InvalidValue(f"{type(self).__name__}: {_describe(error)}") from None

    @classmethod
    def from_stored(
        cls, payload: Any, agent_id: str | None, metadata: dict[str, Any] | None
    ) -> Event:
        """Build the event again from what the log holds.

        Raises:
            InvalidValue: the stored payload does not fit the class.
        """
        fields = payload if cls.payload_fields else {"payload": payload}
        if not isinstance(fields, dict):
            raise InvalidValue(f"{cls.__name__}: the stored payload is no JSON object")
        return cls(**{**fields, "agent_id": agent_id, "metadata": metadata})


def _describe(error: ValidationError) -> str:
    """What is wrong, without the input: payloads must not reach logs."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'input'}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    )


class Appended(NamedTuple):
    """The receipt for one event.

    Attributes:
        position: the event's number in the whole log.
        version: its number in the stream, if `expected_version` was given; else None.
        duplicate: True if the idempotency key had been used before, for the same content: the
            receipt is then the first one's.
    """

    position: int
    version: int | None = None
    duplicate: bool = False


class StateChange(NamedTuple):
    """What an event did to a state entry.

    Attributes:
        key: the entry's key.
        version: the entry's version after the change; None for a touch, which keeps it.
        deleted: True if the entry was deleted.
        value: the new value; None if deleted or touched.
        expires_at: when the entry expires; None if never.
        position: the event's position.
        agent_id: who changed it, if somebody said so.
    """

    key: str
    version: int | None
    deleted: bool
    value: Any
    expires_at: datetime | None
    position: int = 0
    agent_id: str | None = None


class RecordedEvent(NamedTuple):
    """An event as the log holds it.

    Attributes:
        position: its number in the whole log; grows, may have gaps.
        stream: the stream it was appended to.
        version: its number in a versioned stream, or the version of the state entry; else None.
        type: what happened.
        payload: the JSON value; an instance of `model=`, or of the registered event class.
        agent_id: who said so, if somebody did.
        metadata: the JSON object that travels with it, or None.
        recorded_at: when the server stored it (the server's clock).
    """

    position: int
    stream: str
    version: int | None
    type: str
    payload: Any
    agent_id: str | None
    metadata: dict[str, Any] | None
    recorded_at: datetime
    state_key: str | None = None
    state_version: int | None = None
    state_deleted: bool | None = None
    state_value_json: str | None = None
    state_expires_at: datetime | None = None

    @property
    def change(self) -> StateChange | None:
        """What the event did to a state entry, or None if it touched none."""
        if self.state_key is None:
            return None
        deleted = bool(self.state_deleted)
        value: Any = None
        if self.state_version is not None and not deleted:
            value = self.payload
            if self.state_value_json is not None:
                value = orjson.loads(self.state_value_json)
        return StateChange(
            self.state_key,
            self.state_version,
            deleted,
            value,
            self.state_expires_at,
            self.position,
            self.agent_id,
        )


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


class ConsumerInfo(NamedTuple):
    """A named position in the log, and who holds it.

    Attributes:
        name: its name.
        position: every event up to it is done.
        lag: how far the head of the log is from it, in positions; 0 if there is nothing more. It
            counts also what the consumer does not follow, and positions without an event.
        owner: who holds it, or held it last without giving it back: host, process and agent.
        lease_until: when others may take over (the server's clock); None if it was given back.
        created_at: when it was first used.
        updated_at: when its position was last stored.
    """

    name: str
    position: int
    lag: int
    owner: str | None
    lease_until: datetime | None
    created_at: datetime
    updated_at: datetime


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


class LeaseInfo(NamedTuple):
    """A named lease, and who holds it.

    Attributes:
        name: its name.
        holder: who holds it: host, process and agent.
        fencing_token: the token of this time of holding; later ones are higher.
        acquired_at: since when (the server's clock).
        expires_at: when it ends if it is not renewed (the server's clock).
        waiters: how many wait for it.
    """

    name: str
    holder: str
    fencing_token: int
    acquired_at: datetime
    expires_at: datetime
    waiters: int


class Permit(NamedTuple):
    """The answer of a rate limit.

    Attributes:
        granted: whether it may go on.
        remaining: how many more may come at once now.
        retry_after: seconds until it would fit; 0.0 if it was granted.
    """

    granted: bool
    remaining: int
    retry_after: float


PolicyKind = Literal["events", "folds", "snapshots"]


class Policy(NamedTuple):
    """A rule of retention: what exceeds one of its two limits goes.

    Attributes:
        kind: of "events", "folds" (their snapshots) or "snapshots" (of the whole state).
        name: of this stream, fold, or name of snapshots; None for all.
        max_count: so many of the newest are kept; None for any number.
        max_age: what is older than so many seconds goes; None for any age.
        updated_at: when the rule was set.
    """

    kind: PolicyKind
    name: str | None
    max_count: int | None
    max_age: float | None
    updated_at: datetime


class Holder(NamedTuple):
    """A stored reader that has yet to read what a rule would remove.

    Attributes:
        kind: "consumer" or "group".
        name: its name.
        position: everything up to it has been read: nothing above it was removed.
    """

    kind: Literal["consumer", "group"]
    name: str
    position: int


class StreamTrim(NamedTuple):
    """What a trim removed of one stream, or of the whole log; in a dry run, what it would remove.

    Attributes:
        stream: the stream; None for the whole log.
        removed: how many events.
        first, last: the lowest and the highest position removed; None if there was none.
        kept: events that were due and stay: handed out by a group and not acknowledged, dead
            letters, the last event of a versioned stream.
        held_back_by: the slowest of those that have yet to read what else is due; None if that is
            nobody.
        files: what the removed events were written to, with `export=`.
    """

    stream: str | None
    removed: int
    first: int | None
    last: int | None
    kept: int
    held_back_by: Holder | None
    files: tuple[str, ...] = ()


class TrimReport(NamedTuple):
    """What a trim did.

    Attributes:
        dry_run: nothing was removed: the report tells what would have been.
        streams: an entry for each rule that was applied.
    """

    dry_run: bool
    streams: tuple[StreamTrim, ...]

    @property
    def removed(self) -> int:
        """How many events in all."""
        return sum(stream.removed for stream in self.streams)


class SweepReport(NamedTuple):
    """What was swept beside the log.

    Attributes:
        expired_keys: idempotency keys whose time was over.
        expired_entries: state entries whose time was over.
        leases: leases that nobody had held or waited for, for a day.
        limits: rate limits that nobody had used for a day.
        slots: rows of groups that had been empty for long.
        folds: snapshots of folds that exceeded their rule.
        snapshots: copies of the whole state that exceeded theirs.
        complete: False if a table was so large that only a part of it was looked through.
    """

    expired_keys: int
    expired_entries: int
    leases: int
    limits: int
    slots: int
    folds: int
    snapshots: int
    complete: bool


class MaintenanceReport(NamedTuple):
    """What one pass of maintenance did.

    Attributes:
        trimmed: what the rules for events removed.
        swept: what was swept beside the log.
        vacuumed: the tables whose dead rows' room was made usable again.
    """

    trimmed: TrimReport
    swept: SweepReport
    vacuumed: tuple[str, ...]


class RestoreReport(NamedTuple):
    """What was restored from a file.

    Attributes:
        stream: the stream that the events had been removed from; None for the whole log.
        restored: how many events were put back.
        present: how many were there already.
        complete: whether the log counts as complete again from before the file on: it was what had
            been removed last.
    """

    stream: str | None
    restored: int
    present: int
    complete: bool
