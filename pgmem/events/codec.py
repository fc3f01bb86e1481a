"""Encode and decode the events of a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from pydantic import BaseModel

from pgmem.core.arrays import JsonColumn, NameColumn
from pgmem.core.context import WriteContext
from pgmem.core.encoding import (
    DEFAULT_MAX_BYTES,
    Default,
    check_model,
    check_object,
    decode,
    encode,
    encode_all,
    encode_object,
)
from pgmem.core.model_encoding import dump, encode_checked
from pgmem.core.op import Row
from pgmem.core.validation import CHECKED, check_again, check_names
from pgmem.errors import InvalidEvent, InvalidInput
from pgmem.events.columns import METADATA, PAYLOAD
from pgmem.events.event_classes import (
    OnInvalid,
    log_skipped,
    registered,
    skips_invalid,
    stored_event,
    stored_events,
    validate_payload,
)
from pgmem.events.models import SCHEMA_VERSION, Event, RecordedEvent

INLINE_BYTES = 7_500
"""Limit of the events that travel in a notification. The server takes 7,999 bytes."""
MAX_INLINE_EVENTS = 30
_INLINE_ROW = 200
"""The bytes of an inlined event beside its texts and names."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How this memory writes and reads values.

    Attributes:
        max_bytes: limit of one payload, value or metadata, in bytes of JSON text.
        context: the agent, run and cause of events that do not name their own.
        registry: event classes by type name.
        default: returns a JSON value for an object that is none.
        schemas: models of the values of state entries, by the beginning of their keys.
    """

    max_bytes: int = DEFAULT_MAX_BYTES
    context: WriteContext = field(default_factory=WriteContext)
    registry: Mapping[str, type[Event]] = field(default_factory=dict)
    default: Default | None = None
    schemas: dict[str, type[BaseModel]] = field(default_factory=dict)

    def encode(self, value: Any, what: str) -> str:
        """Encode a JSON value or a pydantic model as the text that is stored.

        Raises:
            InvalidValue, ValueTooLarge: as `pgmem.core.encoding.encode`.
        """
        return encode(value, what, limit=self.max_bytes, default=self.default)

    def encode_object(self, value: Mapping[str, Any], what: str) -> str:
        """Encode a JSON object.

        Raises:
            InvalidValue, ValueTooLarge: as `pgmem.core.encoding.encode_object`.
        """
        return encode_object(value, what, limit=self.max_bytes, default=self.default)

    def encode_all(self, values: list[Any], what: str) -> list[str]:
        """Encode several values.

        Raises:
            InvalidValue, ValueTooLarge: as `pgmem.core.encoding.encode_all`.
        """
        return encode_all(values, what, limit=self.max_bytes, default=self.default)

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
        if own is not None and metadata is not None and isinstance(own, dict):
            metadata = {**metadata, **own}
        elif own is not None:
            metadata = own
        if type(event) is not Event:
            metadata = _with_schema_version(metadata, event.event_schema_version)
        return agent_id, metadata


def _with_schema_version(metadata: dict[str, Any] | None, version: int) -> dict[str, Any] | None:
    """Return the metadata with the version of the event's class. Version 1 stores nothing."""
    if version > 1:
        return {**(metadata or {}), SCHEMA_VERSION: version}
    if metadata is not None and SCHEMA_VERSION in metadata:  # It was read with another version.
        return {name: item for name, item in metadata.items() if name != SCHEMA_VERSION} or None
    return metadata


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


_ENVELOPE = set(Event.model_fields)
_PLAIN = {Event}
_FIELDS = attrgetter("type", "payload", "agent_id", "metadata")


def _check_event(event: Event) -> None:
    # The exact class first, because pydantic makes isinstance() slow.
    if type(event) is not Event and not isinstance(event, Event):
        raise InvalidInput(f"expected a pgmem.Event, got {type(event).__name__}")


def _payload_text(event: Event, codec: Codec) -> str:
    """Return the JSON text of an event's payload."""
    if type(event) is Event:
        return codec.encode(event.payload, "payload")
    cls, fields = type(event), event.payload_fields

    def write(by_alias: bool) -> str:
        payload = event.payload
        if fields:
            payload = dump(event, by_alias=by_alias, exclude=_ENVELOPE)
        elif cls.payload_is_typed:
            (payload,) = dump(event, by_alias=by_alias, exclude=_ENVELOPE - {"payload"}).values()
        return codec.encode(payload, "payload")

    def read(text: str) -> Event:
        return cls._build(decode(text), event.agent_id, event.metadata)

    # A payload that is declared as Any comes back as JSON, or typed with `model=`.
    ignored = frozenset() if fields or cls.payload_is_typed else frozenset({"payload"})
    return encode_checked(event, "payload", write=write, read=read, ignored=ignored)


def encode_event(event: Event, codec: Codec) -> EncodedEvent:
    """Check and encode an event.

    Raises:
        InvalidInput, InvalidValue, ValueTooLarge: a part of it cannot be stored.
    """
    plain = type(event) is Event
    if not plain:
        _check_event(event)
    agent_id, metadata = codec.attribute(event)
    name = event.type
    if type(name) is not str or name not in CHECKED:
        check_again(name, "event type")
    if agent_id is not None and (type(agent_id) is not str or agent_id not in CHECKED):
        check_again(agent_id, "agent_id")
    if plain:
        limit, default = codec.max_bytes, codec.default
        payload = encode(event.payload, "payload", limit=limit, default=default)
    else:
        payload = _payload_text(event, codec)
    text = None if metadata is None else codec.encode_object(metadata, "metadata")
    return _new(EncodedEvent, (name, payload, agent_id, text))


_new = tuple.__new__  # Without the check of a NamedTuple's arguments.


def encode_events(events: Sequence[Event], codec: Codec) -> Batch:
    """Check and encode several events. Equal parts are encoded once.

    Raises:
        InvalidInput, InvalidValue, ValueTooLarge: a part of one cannot be stored.
    """
    if len(events) == 1:
        one = encode_event(events[0], codec)
        return Batch([one.type], [one.payload], [one.agent_id], [one.metadata])
    if set(map(type, events)) == _PLAIN:
        return _encode_plain(events, codec)
    for event in events:
        _check_event(event)
    types = [event.type for event in events]
    check_names(types, "event type")
    attributed = [codec.attribute(event) for event in events]
    agents = [agent_id for agent_id, _ in attributed]
    check_names([agent_id for agent_id in agents if agent_id is not None], "agent_id")
    objects = [check_object(given, "metadata") for _, given in attributed if given is not None]
    texts = iter(codec.encode_all(objects, "metadata"))
    return Batch(
        types,
        [_payload_text(event, codec) for event in events],
        agents,
        [None if given is None else next(texts) for _, given in attributed],
    )


def _encode_plain(events: Sequence[Event], codec: Codec) -> Batch:
    """Check and encode several events that are no subclasses, column by column."""
    types, payloads, agents, given = map(list, zip(*map(_FIELDS, events), strict=True))
    outer_agent, outer = codec.context.current
    if outer_agent is not None:
        agents = [outer_agent if agent_id is None else agent_id for agent_id in agents]
    if outer is not None:
        given = [outer if own is None else {**outer, **own} for own in given]
    check_names(types, "event type")
    check_names([agent_id for agent_id in agents if agent_id is not None], "agent_id")
    metadata: list[str | None] = given
    if given.count(None) < len(given):
        objects = [check_object(own, "metadata") for own in given if own is not None]
        texts = iter(codec.encode_all(objects, "metadata"))
        metadata = [None if own is None else next(texts) for own in given]
    return Batch(types, codec.encode_all(payloads, "payload"), agents, metadata)


def fits_inline(stream: str, event: EncodedEvent, value: str = "") -> bool:
    """Return True if an event fits in a notification, however JSON escapes it.

    Args:
        stream: the event's stream.
        event: the event.
        value: the value of the state entry, if the event carries one beside its payload.
    """
    kind, payload, agent_id, metadata = event
    texts = len(payload) + len(metadata or "") + len(value)
    names = len(stream) + len(kind) + len(agent_id or "")
    # What is small in any case need not be looked at.
    return (
        4 * texts + 6 * names <= INLINE_BYTES or _inline_size(stream, event, value) <= INLINE_BYTES
    )


def fit_inline(streams: Sequence[str], batch: Batch) -> bool:
    """Return True if several events fit in one notification.

    Args:
        streams: the stream of each event, or the one stream of all.
        batch: the events.
    """
    if len(batch.types) > MAX_INLINE_EVENTS:
        return False
    left = INLINE_BYTES
    for number, event in enumerate(zip(*batch, strict=True)):
        stream = streams[number] if len(streams) > 1 else streams[0]
        left -= _inline_size(stream, EncodedEvent(*event)) + _INLINE_ROW
        if left < 0:
            return False
    return True


def _inline_size(stream: str, event: EncodedEvent, value: str = "") -> int:
    texts = (event.payload, event.metadata or "", value)
    names = len(stream) + len(event.type) + len(event.agent_id or "")
    return sum(len(text) * (2 if text.isascii() else 4) for text in texts) + 6 * names


def event_maker(codec: Codec, model: type[BaseModel] | None) -> Callable[[Row], RecordedEvent]:
    """Return a function that makes an event of a row.

    Raises (the function):
        InvalidEvent: the stored payload does not fit the model or the registered class.
    """
    registry = codec.registry
    if model is not None:
        return _validated(model)
    if not registry:
        return stored_event

    def typed(row: Row) -> RecordedEvent:
        try:
            return registered(registry, stored_event(row))
        except InvalidEvent as error:
            error.event = stored_event(row)  # An upcaster may have changed the payload in place.
            raise

    return typed


def _validated(model: type[BaseModel]) -> Callable[[Row], RecordedEvent]:
    check_model(model)

    def validated(row: Row) -> RecordedEvent:
        columns = list(row)
        columns[PAYLOAD] = validate_payload(row, model)
        if columns[METADATA] is not None:
            columns[METADATA] = decode(columns[METADATA])
        return tuple.__new__(RecordedEvent, columns)

    return validated


def parse_events(
    codec: Codec, model: type[BaseModel] | None, *, on_invalid: OnInvalid = "raise"
) -> Callable[[Sequence[Row]], list[RecordedEvent]]:
    """Return a function that makes events of rows.

    Args:
        codec: how the memory reads values.
        model: a pydantic model for the payloads.
        on_invalid: "skip" leaves out events that do not fit, and logs them.

    Raises:
        InvalidInput: `on_invalid` is another word.
    """
    skips = skips_invalid(on_invalid)
    if model is None and not codec.registry:
        return stored_events  # Any payload fits.
    event_of = event_maker(codec, model)
    if not skips:
        return lambda rows: [event_of(row) for row in rows]

    def parse(rows: Sequence[Row]) -> list[RecordedEvent]:
        events = []
        for row in rows:
            try:
                events.append(event_of(row))
            except InvalidEvent as error:
                log_skipped(error)
        return events

    return parse
