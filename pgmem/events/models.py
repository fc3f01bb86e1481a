"""Events as callers give them, and as the log returns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self

import orjson
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, ValidationError
from typing_extensions import TypeVar

from pgmem.errors import InvalidInput, InvalidValue

T = TypeVar("T", default=Any)
"""The type of a payload."""

SCHEMA_VERSION = "schema_version"
"""The name in an event's metadata. An event without it has version 1."""

Upcaster = Callable[[Any], Any]
"""Takes a stored payload, returns the payload of the next version."""


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

    A field that the class does not know is refused when an event is made, and ignored when one is
    read: while a new version of a program is deployed, the old one reads what the new one writes.
    With `extra="forbid"` in the class statement it is refused in both.

    If the payload changes, raise the version, and say how an older payload becomes a newer one:

    >>> from typing import Any
    >>> def add_currency(payload: dict[str, Any]) -> dict[str, Any]:
    ...     return {**payload, "currency": "VND"}
    >>> class PaymentRefused(Event, type="payment.refused", upcast={1: add_currency}):
    ...     amount: int
    ...     currency: str
    >>> PaymentRefused.event_schema_version
    2

    The class statement takes three arguments:

    - `type`: the type name; the class name by default.
    - `schema_version`: the version of the payload, stored with each event; 1 by default, or the one
      after the last of `upcast`.
    - `upcast`: functions by version. Each takes a stored payload of its version, as a JSON value,
      and returns that of the next one. A version without one is passed on as it is.

    Args:
        type: what happened, 1 to 512 bytes. Set by the class in a subclass.
        payload: any JSON value, or a pydantic model.
        agent_id: the writing agent, 1 to 512 bytes; None takes that of the memory or its context.
        metadata: a JSON object that travels with the event (trace ids, causes …).

    Attributes:
        event_type: the type name that the class carries; None in `Event` itself.
        payload_fields: the names of the fields that a subclass added: they are its payload.
        payload_is_typed: True if a subclass redeclared `payload`.
        event_schema_version: the version that the class writes.
        event_upcasters: the functions of `upcast`.

    Raises:
        InvalidValue: a field is missing, unknown or of the wrong type.
    """

    # Unknown fields are refused by __init__, so that a class that forbids them when it is read can
    # be told from one that does not.
    model_config = ConfigDict(frozen=True, extra="ignore")

    event_type: ClassVar[str | None] = None
    payload_fields: ClassVar[frozenset[str]] = frozenset()
    payload_is_typed: ClassVar[bool] = False
    event_schema_version: ClassVar[int] = 1
    event_upcasters: ClassVar[Mapping[int, Upcaster]] = {}
    _accepted_names: ClassVar[frozenset[str]]

    if TYPE_CHECKING:
        # With a default, type checkers do not ask a subclass for the type that its class carries.
        type: str = ""
    else:
        type: str
    payload: Any = None
    agent_id: str | None = None
    metadata: dict[str, Any] | None = None

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,
        schema_version: int | None = None,
        upcast: Mapping[int, Upcaster] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.event_type = type or cls.__name__
        cls.event_upcasters = dict(upcast or {})
        if schema_version is None:
            schema_version = max(cls.event_upcasters, default=0) + 1
        cls.event_schema_version = schema_version
        _check_versions(cls.__name__, schema_version, cls.event_upcasters)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.payload_fields = frozenset(cls.model_fields) - frozenset(Event.model_fields)
        cls.payload_is_typed = cls.model_fields["payload"].annotation is not Any
        if cls.payload_fields and cls.payload_is_typed:
            raise InvalidValue(
                f"event class {cls.__name__} both redeclares payload and adds the fields "
                f"{sorted(cls.payload_fields)}: do one of the two"
            )
        cls._accepted_names = _accepted_names(cls)

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
            if not self._accepted_names.issuperset(fields):
                self._refuse_unknown(fields)
            try:
                # As BaseModel.__init__ does, which costs a third more.
                self.__pydantic_validator__.validate_python(fields, self_instance=self)
            except ValidationError as error:
                raise InvalidValue(f"{type(self).__name__}: {_describe(error)}") from None

    def _refuse_unknown(self, fields: Mapping[str, Any]) -> None:
        if self.model_config.get("extra") == "allow":
            return
        unknown = sorted(fields.keys() - self._accepted_names)
        raise InvalidValue(
            f"{type(self).__name__} has no field {', '.join(map(repr, unknown))}: "
            f"it takes {', '.join(sorted(self._accepted_names))}"
        )

    @classmethod
    def _build(cls, payload: Any, agent_id: str | None, metadata: dict[str, Any] | None) -> Self:
        """Make an event from what was stored, and ignore fields that it does not know.

        Raises:
            ValidationError (pydantic's): a field is missing or of the wrong type.
            TypeError: the payload is no JSON value.
        """
        own = {"type": cls.event_type, "agent_id": agent_id, "metadata": metadata}
        fields = {} if cls.payload_fields else {cls._stored_name("payload"): payload}
        if cls.payload_fields:
            fields = {name: item for name, item in payload.items() if name not in _OWN_NAMES}
        fields |= {cls._stored_name(name): item for name, item in own.items()}
        event = cls.__new__(cls)
        # As JSON, because a strict class takes a text for a time in JSON only. With self_instance,
        # because pydantic would otherwise call __init__ with Python values.
        cls.__pydantic_validator__.validate_json(orjson.dumps(fields), self_instance=event)
        return event

    @classmethod
    def _stored_name(cls, field: str) -> str:
        """Return the name by which validation knows one of the fields of `Event` itself."""
        alias = cls.model_fields[field].validation_alias
        return alias if isinstance(alias, str) else field


_OWN_NAMES = frozenset(Event.model_fields)


def _check_versions(name: str, schema_version: int, upcasters: Mapping[int, Upcaster]) -> None:
    """Check the versions of a class statement.

    Raises:
        InvalidInput: one is no whole number from 1 on, or an upcaster is not below the class's.
    """
    for version in (schema_version, *upcasters):
        if type(version) is not int or version < 1:
            raise InvalidInput(
                f"event class {name}: a schema version is a whole number from 1 on, got {version!r}"
            )
    if upcasters and max(upcasters) >= schema_version:
        raise InvalidInput(
            f"event class {name}: upcast has version {max(upcasters)}, and the class's "
            f"schema_version is {schema_version}: upcasters lead from older versions to it"
        )
    for version, upcaster in upcasters.items():
        if not callable(upcaster):
            raise InvalidInput(
                f"event class {name}: upcast[{version}] is a function from a payload to the next "
                f"version's, got {type(upcaster).__name__}"
            )


def _accepted_names(cls: type[BaseModel]) -> frozenset[str]:
    """Return the names by which a model's fields may be given."""
    by_name = cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name")
    names: set[str] = set()
    for name, info in cls.model_fields.items():
        alias = info.validation_alias
        aliases = alias.choices if isinstance(alias, AliasChoices) else [alias]
        if alias is None or by_name:
            names.add(name)
        for one in aliases:
            if one is not None:
                names.add(str(one.path[0]) if isinstance(one, AliasPath) else one)
    return frozenset(names)


Event._accepted_names = _accepted_names(Event)


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
    def schema_version(self) -> int:
        """The version of the payload that its writer's class had; 1 if it had none."""
        version = (self.metadata or {}).get(SCHEMA_VERSION, 1)
        return version if type(version) is int else 1

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
        lag: number of committed events that it selects and that come after its position. They are
            counted, which takes about half a second for a million.
        owner: the process that holds it: host, process and agent. None if it was released, or its
            lease has run out.
        expires_at: when another process may take over (the server's clock); None if it is free.
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
