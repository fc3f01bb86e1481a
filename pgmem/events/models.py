"""Events as callers give them, and as the log returns them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypeVar

from pgmem.errors import InvalidValue

T = TypeVar("T", default=Any)
"""The type of a payload."""


class Event(BaseModel):
    """A fact to append to the log.

    Use it as it is, or subclass it to give the payload a type. A subclass carries its type name
    (the class name, or `type=` in the class statement), and its own fields are the payload:

    >>> event = Event(type="validated", payload={"amount": 1_500_000}, agent_id="validator")
    >>> class PaymentValidated(Event, type="payment.validated"):
    ...     amount: int
    >>> PaymentValidated(amount=1_500_000).type
    'payment.validated'

    A subclass may redeclare `payload` as a pydantic model instead of adding fields.

    Args:
        type: what happened, 1 to 512 bytes. Set by the class in a subclass.
        payload: any JSON value, or a pydantic model.
        agent_id: the writing agent, 1 to 512 bytes; None takes that of the memory or its context.
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

    if TYPE_CHECKING:
        # With a default, type checkers do not ask a subclass for the type that its class carries.
        type: str = ""
    else:
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

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            type: str,
            payload: Any = None,
            agent_id: str | None = None,
            metadata: dict[str, Any] | None = None,
        ) -> None: ...

    else:

        def __init__(self, **fields: Any) -> None:
            if self.event_type is not None and fields.setdefault("type", self.event_type) != (
                self.event_type
            ):
                raise InvalidValue(
                    f"{type(self).__name__} events have the type {self.event_type!r}: leave type= "
                    f"out"
                )
            try:
                # As BaseModel.__init__ does, which costs a third more.
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
    """Describe the error without the input, because payloads must not reach logs."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'input'}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    )


class Append(NamedTuple):
    """One stream's part of `events.append_all`.

    Attributes:
        stream: the stream's name.
        events: an event, or a sequence of events in their order.
        expected_version: append only if this is the stream's version; None does not check.
    """

    stream: str
    events: Event | Sequence[Event]
    expected_version: int | None = None


class Appended(NamedTuple):
    """The receipt for one event.

    Attributes:
        position: the event's number in the whole log.
        version: its number in the stream, if `expected_version` was given; else None.
        duplicate: True if the idempotency key was used before for the same content. The receipt
            is then the first one.
    """

    position: int
    version: int | None = None
    duplicate: bool = False


class StateChange(NamedTuple):
    """A change of a state entry.

    Attributes:
        key: the entry's key.
        version: the entry's version after the change; None for a touch, which keeps it.
        deleted: True if the entry was deleted.
        value: the new value; None if deleted or touched.
        expires_at: when the entry expires; None if never.
        position: the event's position.
        agent_id: the agent that changed it, or None.
    """

    key: str
    version: int | None
    deleted: bool
    value: Any
    expires_at: datetime | None
    position: int = 0
    agent_id: str | None = None


class RecordedEvent(NamedTuple, Generic[T]):
    """An event as the log holds it. `T` is the type of the payload.

    Attributes:
        position: its number in the log. Positions grow and may have gaps.
        stream: the stream it was appended to.
        version: its number in a versioned stream, or the version of the state entry; else None.
        type: what happened.
        payload: the JSON value; an instance of `model=`, or of the registered event class.
        agent_id: the agent that wrote it, or None.
        metadata: the JSON object that travels with it, or None.
        recorded_at: when the server stored it (the server's clock).
    """

    position: int
    stream: str
    version: int | None
    type: str
    payload: T
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
        """The change of a state entry that the event records, or None."""
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


class SubscriptionInfo(NamedTuple):
    """A durable subscription: its stored position and its owner.

    Attributes:
        name: its name.
        position: every event up to it is handled.
        lag: distance from the head of the log, in positions; 0 at the head. It also counts events
            that the subscription does not select, and positions without an event.
        owner: the process that holds it, or held it last and did not release it: host, process
            and agent. None if it was released.
        expires_at: when another process may take over (the server's clock); None if it was
            released.
        created_at: when it was first used.
        updated_at: when its position was last stored.
    """

    name: str
    position: int
    lag: int
    owner: str | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
