"""Events: append and read.

Says what to run for each verb; `pgmem.events.verbs` runs it. When a position is final is
`pgmem.events.stable_position`'s matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel

from pgmem.core.arrays import JsonColumn, NameColumn
from pgmem.core.encoding import (
    check_object,
    decode,
    decoder,
    encode,
    encode_all,
    encode_object,
)
from pgmem.core.names import STATE_STREAM_PREFIX, STREAM_BYTES
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.statements import INLINE
from pgmem.core.validation import check_count, check_name, check_names
from pgmem.errors import IdempotencyMismatch, InvalidInput, VersionConflict
from pgmem.events.codec import Codec, typed_event
from pgmem.events.filter import Selection
from pgmem.events.models import Appended, Event, RecordedEvent

MAX_BATCH = 10_000

_INLINE = (INLINE,)
LETTER_BYTES = 7_500
"""The server takes 7,999 bytes with a notification."""


class EncodedEvent(NamedTuple):
    """An event, checked and encoded."""

    type: str
    payload: str
    agent_id: str | None
    metadata: str | None


def check_stream(stream: str) -> str:
    """Check the name of a stream that users append to.

    Raises:
        InvalidInput: as `check_name`, or the name is reserved.
    """
    check_name(stream, "stream")
    if stream.startswith(STATE_STREAM_PREFIX):
        raise InvalidInput(
            f"stream {stream[:60]!r} begins with {STATE_STREAM_PREFIX!r}, which is reserved for "
            f"the events of state writes: use memory.state"
        )
    return stream


def _payload(event: Event) -> Any:
    # The exact class first: pydantic makes isinstance() slow.
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
        InvalidInput, InvalidValue, ValueTooLarge: what is wrong with it.
    """
    payload = _payload(event)
    agent_id, metadata = codec.attribute(event)
    return EncodedEvent(
        check_name(event.type, "event type"),
        encode(payload, "payload", limit=codec.max_bytes),
        None if agent_id is None else check_name(agent_id, "agent_id"),
        None if metadata is None else encode_object(metadata, "metadata", limit=codec.max_bytes),
    )


class Batch(NamedTuple):
    """Several events, checked and encoded: a list for each column."""

    types: list[str]
    payloads: list[str]
    agents: list[str | None]
    metadata: list[str | None]

    def first(self) -> EncodedEvent:
        """The first event."""
        return EncodedEvent(self.types[0], self.payloads[0], self.agents[0], self.metadata[0])

    def params(self) -> dict[str, Any]:
        """The parameters of the statement piece `event_batch`.

        A column that is empty throughout travels as NULL.
        """
        return {
            "types": NameColumn(self.types),
            "payloads": JsonColumn(self.payloads),
            "agents": NameColumn(self.agents) if any(self.agents) else None,
            "metadata": JsonColumn(self.metadata) if any(self.metadata) else None,
        }


def encode_events(events: Sequence[Event], codec: Codec) -> Batch:
    """Check and encode several events: as `encode_event` each, but what they share is done once.

    Raises:
        InvalidInput, InvalidValue, ValueTooLarge: what is wrong with one of them.
    """
    if len(events) == 1:  # every append with a key or an expected version
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


def _fingerprint(stream: str, batch: Batch) -> bytes:
    """What must be the same when an idempotency key is used again.

    Stream, types and payloads, whatever the order of their keys. Not who asks, and not the
    metadata: a retry may come from another agent and carry another trace id.
    """
    payloads = map(orjson.loads, batch.payloads)
    content = [stream, [list(event) for event in zip(batch.types, payloads, strict=True)]]
    data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).digest()


def append(stream: str, event: Event, codec: Codec) -> Op[Appended]:
    """Append one event."""
    encoded = encode_event(event, codec)
    return Op(
        "event_append",
        {
            "stream": check_stream(stream),
            "type": encoded.type,
            "payload": encoded.payload,
            "agent_id": encoded.agent_id,
            "metadata": encoded.metadata,
        },
        lambda rows: Appended(rows[0][0]),
        f"append to {stream!r}",
        Retry.UNSAFE,
        _INLINE if fits_letter(stream, encoded) else (),
    )


def _letter(stream: str, batch: Batch) -> tuple[tuple[str, str], ...]:
    """Whether the event rides on the bell: one event that is small enough."""
    return _INLINE if len(batch.types) == 1 and fits_letter(stream, batch.first()) else ()


def fits_letter(stream: str, event: EncodedEvent, value: str = "") -> bool:
    """Whether an event is small enough to travel with the doorbell, however JSON escapes it."""
    texts = (event.payload, event.metadata or "", value)
    names = len(stream) + len(event.type) + len(event.agent_id or "")
    size = sum(len(text) * (2 if text.isascii() else 4) for text in texts)
    return size + 6 * names <= LETTER_BYTES


def append_many(
    stream: str,
    events: Sequence[Event],
    codec: Codec,
    *,
    expected_version: int | None = None,
    idempotency_key: str | None = None,
    ttl: float | None = None,
) -> Op[list[Appended]]:
    """Append events, all or none, in one statement.

    Raises:
        LostRace (from `parse`): run it again.
    """
    check_stream(stream)
    if not events:
        raise InvalidInput("append needs at least one event, got an empty sequence")
    check_count(len(events), "number of events in one append", minimum=1, maximum=MAX_BATCH)
    batch = encode_events(events, codec)
    if expected_version is not None:
        check_count(expected_version, "expected_version", minimum=0)
    if idempotency_key is not None:
        return _append_once(stream, batch, expected_version, idempotency_key, ttl)
    params = {"stream": stream, "expected_version": expected_version, **batch.params()}
    if expected_version is not None:
        return Op(
            "event_append_versioned",
            params,
            _parse_versioned(stream, expected_version),
            f"append to {stream!r} expecting version {expected_version}",
            Retry.CONDITIONAL,
            _letter(stream, batch),
        )
    return Op(
        "event_append_many",
        params,
        lambda rows: _receipts(sorted(rows[0][0]), None),
        f"append {len(events)} events to {stream!r}",
        Retry.UNSAFE,
    )


def _version_conflict(stream: str, expected: int, actual: int) -> VersionConflict:
    return VersionConflict(
        f"append to {stream!r} expected version {expected}, found {actual}: nothing was "
        f"appended; read the stream's newer events and decide again",
        expected=expected,
        actual=actual,
    )


def _receipts(
    positions: Sequence[int], expected_version: int | None, *, duplicate: bool = False
) -> list[Appended]:
    new = tuple.__new__  # what Appended._make does, without its check
    if expected_version is None:
        return [new(Appended, (position, None, duplicate)) for position in positions]
    return [
        new(Appended, (position, expected_version + n, duplicate))
        for n, position in enumerate(positions, start=1)
    ]


def _parse_versioned(stream: str, expected: int) -> Callable[[Sequence[Row]], list[Appended]]:
    def parse(rows: Sequence[Row]) -> list[Appended]:
        positions, version = rows[0][:2]
        if positions is not None:
            return _receipts(positions, expected)
        if version == expected:
            raise RetryStatement
        raise _version_conflict(stream, expected, version)

    return parse


def _append_once(
    stream: str,
    batch: Batch,
    expected_version: int | None,
    key: str,
    ttl: float | None,
) -> Op[list[Appended]]:
    fingerprint = _fingerprint(stream, batch)

    def parse(rows: Sequence[Row]) -> list[Appended]:
        positions, version, found, stored = rows[0][:4]
        if positions is not None:
            return _receipts(positions, expected_version)
        if found is not None:
            if found != fingerprint:
                raise IdempotencyMismatch(
                    f"append to {stream!r}: the idempotency key {key!r} was used before for "
                    f"another stream, type or payload: nothing was appended; one key names one "
                    f"piece of work, use a new key for a new one"
                )
            return _receipts(decode(stored), expected_version, duplicate=True)
        if expected_version is not None and version != expected_version:
            raise _version_conflict(stream, expected_version, version)
        raise RetryStatement

    return Op(
        "event_append_once",
        {
            "stream": stream,
            "expected_version": expected_version,
            "key": check_name(key, "idempotency_key"),
            "fingerprint": fingerprint,
            "ttl": ttl,
            **batch.params(),
        },
        parse,
        f"append to {stream!r} under the idempotency key {key!r}",
        Retry.IDEMPOTENT,
        _letter(stream, batch),
    )


def read(
    selection: Selection,
    codec: Codec,
    *,
    limit: int,
    reverse: bool = False,
    model: type[BaseModel] | None = None,
) -> Op[list[RecordedEvent]]:
    """Read the visible events of a selection."""
    direction = "DESC" if reverse else "ASC"
    return Op(
        "event_read",
        {**selection.params(), "limit": check_count(limit, "limit", minimum=1, maximum=100_000)},
        parse_events(codec, model),
        "read events",
        fragments=(*selection.fragments(), ("direction", direction)),
    )


def event_maker(codec: Codec, model: type[BaseModel] | None) -> Callable[[Row], RecordedEvent]:
    """A function from a row to an event."""
    payload_of = decoder(model, "payload")
    registry = {} if model is not None else codec.registry
    new = tuple.__new__  # what RecordedEvent._make does, without its check

    def plain(row: Row) -> RecordedEvent:
        columns = list(row)
        columns[4] = payload_of(columns[4])
        if columns[6] is not None:
            columns[6] = decode(columns[6])
        return new(RecordedEvent, columns)

    if not registry:
        return plain
    return lambda row: typed_event(plain(row), registry)


def parse_events(
    codec: Codec, model: type[BaseModel] | None
) -> Callable[[Sequence[Row]], list[RecordedEvent]]:
    """A function from rows to events."""
    event_of = event_maker(codec, model)
    return lambda rows: [event_of(row) for row in rows]


def count(selection: Selection) -> Op[int]:
    """Count the visible events of a selection."""
    return Op(
        "event_count",
        selection.params(),
        lambda rows: int(rows[0][0]),
        "count events",
        fragments=selection.fragments(),
    )


def stream_version(stream: str) -> Op[int]:
    """The version of a versioned stream."""
    return Op(
        "event_stream_version",
        {"stream": check_name(stream, "stream", most=STREAM_BYTES)},
        lambda rows: int(rows[0][0]),
        f"read the version of stream {stream!r}",
    )
