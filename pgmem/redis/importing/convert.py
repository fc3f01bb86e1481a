"""Convert entries, fields and members of Redis to items of pgmem, and back. Does no I/O.

An entry of a stream as the published approach writes it::

    agent_id    "validator"               ──►  agent_id
    event_type  "payment.validated"       ──►  type            (or `type`)
    payload     {"amount": 5}, as JSON    ──►  payload
    timestamp   "2026-11-22T10:00:00"     ──►  metadata["redis"]["fields"]["timestamp"]
    (its id)    1795366235650-0           ──►  metadata["redis"]["id"]

If an entry has no field `payload`, its other fields are the payload, as texts. An item that cannot
be converted is refused with a reason. `Imports` checks whether pgmem can store the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from pgmem.events.models import RecordedEvent
from pgmem.redis.importing.rules import Rule, Values
from pgmem.redis.models import ImportedEntry, ImportedEvent, ImportedRecord

ENTRY_TYPE = "redis.entry"
"""The type of an event whose entry has no type."""
TYPE_FIELDS = ("event_type", "type")
AGENT_FIELD = "agent_id"
PAYLOAD_FIELD = "payload"
TIME_FIELD = "timestamp"

MOST_NAMES = 10_000

Fields = list[bytes]
"""Alternating names and values, as Redis sends them."""


class Unfit(Exception):
    """The reason why an item cannot be imported. Contains no data of the item."""


class Shape(NamedTuple):
    """The roles of the fields of an entry. Most entries of one stream have one shape.

    Attributes:
        names: the names of the fields, in their order.
        type_at, agent_at, payload_at: the index of the field; -1 if there is none.
        others: the indexes of the other fields.
    """

    names: tuple[str, ...]
    type_at: int
    agent_at: int
    payload_at: int
    others: tuple[int, ...]

    @classmethod
    def of(cls, raw: Sequence[bytes]) -> Shape:
        """Return the shape of an entry with these names.

        Raises:
            Unfit: a name is not UTF-8, or is repeated.
        """
        names = tuple(text(name, "the name of a field") for name in raw)
        if len(set(names)) != len(names):
            raise Unfit("a field is repeated, and pgmem would keep only one of the two")
        type_field = next((name for name in TYPE_FIELDS if name in names), None)
        kind, agent, payload = (
            names.index(name) if name in names else -1
            for name in (type_field, AGENT_FIELD, PAYLOAD_FIELD)
        )
        others = (at for at in range(len(names)) if at not in (kind, agent, payload))
        return cls(names, kind, agent, payload, tuple(others))


class Streams:
    """Convert the entries of one stream to events.

    Attributes:
        shape: the shape of the last converted entry.
    """

    def __init__(self, values: Values = "json") -> None:
        self._values = values
        self._shapes: dict[tuple[bytes, ...], Shape] = {}
        self._names: dict[bytes, str] = {}
        self.shape: Shape | None = None

    def event(self, identity: bytes, fields: Fields) -> ImportedEvent:
        """Convert an entry to an event.

        Raises:
            Unfit: the entry cannot be converted.
        """
        names, values = tuple(fields[::2]), fields[1::2]
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._shapes[names] = Shape.of(names)
        kind = values[shape.type_at] if shape.type_at >= 0 else b""
        agent = values[shape.agent_at] if shape.agent_at >= 0 else b""
        others = shape.others
        if not (kind and agent):  # empty types and agents are kept among the others
            said = (at for at in (shape.type_at, shape.agent_at) if at >= 0 and not values[at])
            others = (*others, *said)
        rest = b""
        if others:
            rest = orjson.dumps({shape.names[at]: _text(values[at], shape, at) for at in others})
        if shape.payload_at < 0:
            payload, rest = rest or b"{}", b""
        elif self._values == "json":
            payload = values[shape.payload_at]
        else:
            payload = value(values[shape.payload_at], self._values, "payload")
        self.shape = shape
        return ImportedEvent(
            (self._names.get(kind) or self._name(kind, "type")) if kind else ENTRY_TYPE,
            payload,
            (self._names.get(agent) or self._name(agent, AGENT_FIELD)) if agent else None,
            b'{"redis":{"id":"%b","fields":%b}}' % (identity, rest)
            if rest
            else b'{"redis":{"id":"%b"}}' % identity,
        )

    def _name(self, raw: bytes, what: str) -> str:
        """Decode a type or an agent. Most are the same few, so they are cached."""
        known = text(raw, what)
        if len(self._names) < MOST_NAMES:
            self._names[raw] = known
        return known


def text(raw: bytes, what: str) -> str:
    """Decode bytes.

    Raises:
        Unfit: they are not UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unfit(f"{what} is not UTF-8") from None


def _text(raw: bytes, shape: Shape, at: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return text(raw, f"the field {shape.names[at][:60]!r}")


def value(raw: bytes, values: Values, what: str) -> bytes:
    """Convert a value to JSON text. "auto" reads as JSON only what JSON returns unchanged.

    Raises:
        Unfit: the value is neither JSON nor text.
    """
    if values == "json" or (values == "auto" and is_json(raw)):
        return raw
    return orjson.dumps(text(raw, what))


def is_json(raw: bytes) -> bool:
    """Return True if a text can only be JSON. `007` and `1e3` may be plain texts."""
    try:
        found = orjson.loads(raw)
    except ValueError:
        return False
    return isinstance(found, dict | list | str) or orjson.dumps(found) == raw


def plain(found: Any, values: Values) -> bytes:
    """Convert a value to bytes for Redis. `value` converts them back to the same value."""
    if isinstance(found, str) and values != "json":
        raw = found.encode()
        if values == "text" or not is_json(raw):
            return raw
    return orjson.dumps(found)


@dataclass(frozen=True)
class Origin:
    """The origin of imported items.

    Attributes:
        source: the name of the import.
        rule: the rule that matches the key.
        key: the key in Redis.
    """

    source: str
    rule: Rule
    key: str

    def json(self, field: str | None = None) -> bytes:
        """Return the JSON text that pgmem stores with an item."""
        where = {"source": self.source, "type": self.rule.kind, "key": self.key}
        return orjson.dumps({"redis": where if field is None else {**where, "field": field}})

    @cached_property
    def text(self) -> str:
        """The JSON text for the whole key."""
        return self.json().decode()


def field_entry(origin: Origin, field: bytes, raw: bytes, ttl: float | None) -> ImportedEntry:
    """Convert a field of a hash to an entry.

    Raises:
        Unfit: the field cannot be converted.
    """
    name = text(field, "the field")
    return ImportedEntry(
        origin.rule.name(origin.key, name),
        value(raw, origin.rule.values, "the value"),
        origin.json(name),
        ttl,
    )


def whole_entry(
    origin: Origin, fields: Fields, ttl: float | None
) -> tuple[ImportedEntry, list[tuple[str, bytes]]]:
    """Convert a hash to one entry, an object of its fields. Also return the fields, converted.

    Raises:
        Unfit: the hash cannot be converted.
    """
    items = [
        (text(name, "a field's name"), value(raw, origin.rule.values, "a value"))
        for name, raw in zip(fields[::2], fields[1::2], strict=True)
    ]
    joined = b",".join([orjson.dumps(name) + b":" + found for name, found in items])
    return ImportedEntry(
        origin.rule.name(origin.key), b"{" + joined + b"}", origin.json(), ttl
    ), items


def member_record(origin: Origin, member: bytes, ttl: float | None) -> ImportedRecord:
    """Convert a member of a set to a dedupe record without a result.

    Raises:
        Unfit: the member cannot be converted.
    """
    name = origin.rule.name(origin.key, text(member, "the member"))
    return ImportedRecord(name, origin.text, None, ttl)


def string_record(origin: Origin, raw: bytes, ttl: float | None) -> tuple[ImportedRecord, str]:
    """Convert a string to a dedupe record with its value as the result.

    Also return the reason if the value cannot be the result, else "".
    """
    record = ImportedRecord(origin.rule.name(origin.key), origin.text, None, ttl)
    try:
        return record._replace(result=value(raw, origin.rule.values, "the value")), ""
    except Unfit as error:
        return record, str(error)


def entry_fields(event: RecordedEvent, names: Sequence[str]) -> dict[str, bytes]:
    """Convert an event to the fields of an entry. `Streams` converts them back to the same event.

    Args:
        event: the event.
        names: the names of the fields that entries of the stream had.
    """
    kept = (event.metadata or {}).get("redis", {}).get("fields", {})
    found: dict[str, bytes] = {}
    type_field = next((name for name in TYPE_FIELDS if name in names), None)
    if PAYLOAD_FIELD not in names and isinstance(event.payload, dict):
        found = {name: plain(item, "text") for name, item in event.payload.items()}
    else:
        found[PAYLOAD_FIELD] = orjson.dumps(event.payload)
    if event.type != ENTRY_TYPE:
        found[type_field or TYPE_FIELDS[0]] = event.type.encode()
    if event.agent_id is not None:
        found[AGENT_FIELD] = event.agent_id.encode()
    if TIME_FIELD in names and TIME_FIELD not in found:
        # The published code writes UTC without an offset.
        moment = event.recorded_at.astimezone(UTC).replace(tzinfo=None)
        found[TIME_FIELD] = moment.isoformat().encode()
    found |= {name: str(item).encode() for name, item in kept.items()}
    ordered = {name: found[name] for name in names if name in found}
    return ordered | found
