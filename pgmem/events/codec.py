"""Encode and decode the events of a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel

from pgmem.core.arrays import JsonColumn, NameColumn
from pgmem.core.context import WriteContext
from pgmem.core.encoding import (
    DEFAULT_MAX_BYTES,
    check_object,
    decode,
    decoder,
    encode,
    encode_all,
    encode_object,
)
from pgmem.core.op import Row
from pgmem.core.validation import check_name, check_names
from pgmem.errors import InvalidInput
from pgmem.events.columns import METADATA, PAYLOAD
from pgmem.events.models import Event, RecordedEvent

INLINE_BYTES = 7_500
"""Limit of an event that travels in a notification. The server takes 7,999 bytes."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How this memory writes and reads values.

    Attributes:
        max_bytes: limit of one payload, value or metadata, in bytes of JSON text.
        context: the agent, run and cause of events that do not name their own.
        registry: event classes by type name.
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    context: WriteContext = field(default_factory=WriteContext)
    registry: Mapping[str, type[Event]] = field(default_factory=dict)

    @property
    def agent_id(self) -> str | None:
        """The writing agent."""
        return self.context.current.agent_id

    def attribute(self, event: Event | None = None) -> tuple[str | None, dict[str, Any] | None]:
        """Return the agent id and the metadata that an event is written with.

        Args:
            event: the caller's event; None for one that pgmem makes.
        """
        agent_id, metadata = self.context.current
        if event is None:
            return agent_id, metadata
        if event.agent_id is not None:
            agent_id = event.agent_id
        own = event.metadata
        if own is None or metadata is None or not isinstance(own, dict):
            return agent_id, metadata if own is None else own
        return agent_id, {**metadata, **own}


class EncodedEvent(NamedTuple):
    """An event, checked and encoded."""

    type: str
    payload: str
    agent_id: str | None
    metadata: str | None


class Batch(NamedTuple):
    """Several events, checked and encoded: a list for each column."""

    types: list[str]
    payloads: list[str]
    agents: list[str | None]
    metadata: list[str | None]

    def first(self) -> EncodedEvent:
        """Return the first event."""
        return EncodedEvent(self.types[0], self.payloads[0], self.agents[0], self.metadata[0])

    def params(self) -> dict[str, Any]:
        """Return the parameters of the statement piece `event_batch`.

        A column without a value is sent as NULL.
        """
        return {
            "types": NameColumn(self.types),
            "payloads": JsonColumn(self.payloads),
            "agents": NameColumn(self.agents) if any(self.agents) else None,
            "metadata": JsonColumn(self.metadata) if any(self.metadata) else None,
        }


def _payload(event: Event) -> Any:
    # The exact class first, because pydantic makes isinstance() slow.
    if type(event) is Event:
        return event.payload
    if not isinstance(event, Event):
        raise InvalidInput(f"expected a pgmem.Event, got {type(event).__name__}")
    if event.payload_fields:
        return event.model_dump(mode="json", include=set(event.payload_fields))
    return event.payload


def encode_event(event: Event, codec: Codec) -> EncodedEvent:
    """Check and encode an event.

    Raises:
        InvalidInput, InvalidValue, ValueTooLarge: a part of it cannot be stored.
    """
    payload = _payload(event)
    agent_id, metadata = codec.attribute(event)
    return EncodedEvent(
        check_name(event.type, "event type"),
        encode(payload, "payload", limit=codec.max_bytes),
        None if agent_id is None else check_name(agent_id, "agent_id"),
        None if metadata is None else encode_object(metadata, "metadata", limit=codec.max_bytes),
    )


def encode_events(events: Sequence[Event], codec: Codec) -> Batch:
    """Check and encode several events. Equal parts are encoded once.

    Raises:
        InvalidInput, InvalidValue, ValueTooLarge: a part of one cannot be stored.
    """
    if len(events) == 1:
        one = encode_event(events[0], codec)
        return Batch([one.type], [one.payload], [one.agent_id], [one.metadata])
    payloads = [_payload(event) for event in events]
    types = [event.type for event in events]
    check_names(types, "event type")
    attributed = [codec.attribute(event) for event in events]
    agents = [agent_id for agent_id, _ in attributed]
    check_names([agent_id for agent_id in agents if agent_id is not None], "agent_id")
    objects = [check_object(given, "metadata") for _, given in attributed if given is not None]
    texts = iter(encode_all(objects, "metadata", limit=codec.max_bytes))
    return Batch(
        types,
        encode_all(payloads, "payload", limit=codec.max_bytes),
        agents,
        [None if given is None else next(texts) for _, given in attributed],
    )


def fits_inline(stream: str, event: EncodedEvent, value: str = "") -> bool:
    """Return True if an event fits in a notification, however JSON escapes it.

    Args:
        stream: the event's stream.
        event: the event.
        value: the value of the state entry, if the event carries one beside its payload.
    """
    texts = (event.payload, event.metadata or "", value)
    names = len(stream) + len(event.type) + len(event.agent_id or "")
    size = sum(len(text) * (2 if text.isascii() else 4) for text in texts)
    return size + 6 * names <= INLINE_BYTES


def event_maker(codec: Codec, model: type[BaseModel] | None) -> Callable[[Row], RecordedEvent]:
    """Return a function that makes an event of a row.

    Raises (the function):
        InvalidValue: the stored payload does not fit the model or the registered class.
    """
    payload_of = decoder(model, "payload")
    registry = {} if model is not None else codec.registry
    new = tuple.__new__  # RecordedEvent._make without its check

    def plain(row: Row) -> RecordedEvent:
        columns = list(row)
        columns[PAYLOAD] = payload_of(columns[PAYLOAD])
        if columns[METADATA] is not None:
            columns[METADATA] = decode(columns[METADATA])
        return new(RecordedEvent, columns)

    if not registry:
        return plain
    return lambda row: typed_event(plain(row), registry)


def parse_events(
    codec: Codec, model: type[BaseModel] | None
) -> Callable[[Sequence[Row]], list[RecordedEvent]]:
    """Return a function that makes events of rows."""
    event_of = event_maker(codec, model)
    return lambda rows: [event_of(row) for row in rows]


def event_registry(classes: tuple[type[Event], ...]) -> dict[str, type[Event]]:
    """Return event classes by their type name.

    Raises:
        InvalidInput: one is no subclass of Event, or two have the same type name.
    """
    registry: dict[str, type[Event]] = {}
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Event)) or cls.event_type is None:
            raise InvalidInput(f"events= takes subclasses of pgmem.Event, got {cls!r}")
        if cls.event_type in registry:
            raise InvalidInput(
                f"two event classes have the type {cls.event_type!r}: "
                f"{registry[cls.event_type].__name__} and {cls.__name__}"
            )
        registry[cls.event_type] = cls
    return registry


def typed_event(event: RecordedEvent, registry: Mapping[str, type[Event]]) -> RecordedEvent:
    """Return the event with its payload as an instance of the class registered for its type.

    Raises:
        InvalidValue: the stored payload does not fit the class.
    """
    cls = registry.get(event.type)
    if cls is None:
        return event
    return event._replace(payload=cls.from_stored(event.payload, event.agent_id, event.metadata))
