"""What an entry, a field or a member of Redis becomes in pgmem, and back again.

An entry of a stream in the shape of the published approach, or of Redis done right::

    agent_id    "validator"               ──►  agent_id
    event_type  "payment.validated"       ──►  type            (or `type`)
    payload     {"amount": 5}, as JSON    ──►  payload
    timestamp   "2026-11-22T10:00:00"     ──►  metadata["redis"]["fields"]["timestamp"]
    (its id)    1795366235650-0           ──►  metadata["redis"]["id"]

One without a field `payload`: what is left of its fields is the payload, as texts. What cannot be
brought in is told with its reason, and never guessed.

Sans-I/O: it is given bytes and gives bytes. Whether pgmem can hold them, `steps` says.
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
"""The type of an event whose entry does not say what it is."""
TYPE_FIELDS = ("event_type", "type")
AGENT_FIELD = "agent_id"
PAYLOAD_FIELD = "payload"
TIME_FIELD = "timestamp"

MOST_NAMES = 10_000

Fields = list[bytes]
"""Names and values in turn, as Redis sends them."""


class Unfit(Exception):
    """Why something cannot be brought in; holds nothing of it."""


class Shape(NamedTuple):
    """What the fields of an entry are; entries of one stream mostly have one shape.

    Attributes:
        names: the fields' names, in their order.
        type_at, agent_at, payload_at: which field it is; -1 if none.
        others: the further fields.
    """

    names: tuple[str, ...]
    type_at: int
    agent_at: int
    payload_at: int
    others: tuple[int, ...]

    @classmethod
    def of(cls, raw: Sequence[bytes]) -> Shape:
        """The shape of an entry with these names.

        Raises:
            Unfit: a name is no UTF-8, or there twice.
        """
        names = tuple(text(name, "the name of a field") for name in raw)
        if len(set(names)) != len(names):
            raise Unfit("a field is there twice, and pgmem would keep only one of the two")
        type_field = next((name for name in TYPE_FIELDS if name in names), None)
        kind, agent, payload = (
            names.index(name) if name in names else -1
            for name in (type_field, AGENT_FIELD, PAYLOAD_FIELD)
        )
        others = (at for at in range(len(names)) if at not in (kind, agent, payload))
        return cls(names, kind, agent, payload, tuple(others))


class Streams:
    """Turns the entries of one stream into events.

    Attributes:
        shape: of the last entry that became an event.
    """

    def __init__(self, values: Values = "json") -> None:
        self._values = values
        self._shapes: dict[tuple[bytes, ...], Shape] = {}
        self._names: dict[bytes, str] = {}
        self.shape: Shape | None = None

    def event(self, identity: bytes, fields: Fields) -> ImportedEvent:
        """An entry as an event.

        Raises:
            Unfit: it cannot be one.
        """
        names, values = tuple(fields[::2]), fields[1::2]
        shape = self._shapes.get(names)
        if shape is None:
            shape = self._shapes[names] = Shape.of(names)
        kind = values[shape.type_at] if shape.type_at >= 0 else b""
        agent = values[shape.agent_at] if shape.agent_at >= 0 else b""
        others = shape.others
        if not (kind and agent):  # what is said to be nothing is kept among the others
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
        """Types and agents are mostly the same few: they are kept."""
        known = text(raw, what)
        if len(self._names) < MOST_NAMES:
            self._names[raw] = known
        return known


def text(raw: bytes, what: str) -> str:
    """Bytes as text.

    Raises:
        Unfit: they are no UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Unfit(f"{what} is no UTF-8") from None


def _text(raw: bytes, shape: Shape, at: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return text(raw, f"the field {shape.names[at][:60]!r}")


def value(raw: bytes, values: Values, what: str) -> bytes:
    """A value as JSON text. "auto" takes for JSON only what comes back as it was.

    Raises:
        Unfit: it is neither JSON nor text.
    """
    if values == "json" or (values == "auto" and is_json(raw)):
        return raw
    return orjson.dumps(text(raw, what))


def is_json(raw: bytes) -> bool:
    """Whether a text is JSON that nobody can take for a plain text: `007` and `1e3` are texts."""
    try:
        found = orjson.loads(raw)
    except ValueError:
        return False
    return isinstance(found, dict | list | str) or orjson.dumps(found) == raw


def plain(found: Any, values: Values) -> bytes:
    """A value as it stands in Redis: what `value` makes the same value of again."""
    if isinstance(found, str) and values != "json":
        raw = found.encode()
        if values == "text" or not is_json(raw):
            return raw
    return orjson.dumps(found)


@dataclass(frozen=True)
class Origin:
    """A key of Redis, and how it is brought in.

    Attributes:
        source: the name of the import.
        rule: the rule that matches the key.
        key: the key.
    """

    source: str
    rule: Rule
    key: str

    def json(self, field: str | None = None) -> bytes:
        """What is kept in pgmem of where something came from."""
        where = {"source": self.source, "type": self.rule.kind, "key": self.key}
        return orjson.dumps({"redis": where if field is None else {**where, "field": field}})

    @cached_property
    def text(self) -> str:
        """The same of the whole key, as text."""
        return self.json().decode()


def field_entry(origin: Origin, field: bytes, raw: bytes, ttl: float | None) -> ImportedEntry:
    """A field of a hash as an entry.

    Raises:
        Unfit: it cannot be one.
    """
    name = text(field, "the field")
    return ImportedEntry(
        origin.rule.name(origin.key, name),
        value(raw, origin.rule.values, "the value"),
        origin.json(name),
        ttl,
    )


def whole_entry(origin: Origin, fields: Fields, ttl: float | None) -> ImportedEntry:
    """A hash as one entry: an object of its fields.

    Raises:
        Unfit: it cannot be one.
    """
    items = (
        orjson.dumps(text(name, "a field's name"))
        + b":"
        + value(raw, origin.rule.values, "a value")
        for name, raw in zip(fields[::2], fields[1::2], strict=True)
    )
    return ImportedEntry(
        origin.rule.name(origin.key), b"{" + b",".join(items) + b"}", origin.json(), ttl
    )


def member_record(origin: Origin, member: bytes, ttl: float | None) -> ImportedRecord:
    """A member of a set as a record: nobody knows what came of the work.

    Raises:
        Unfit: it cannot be one.
    """
    name = origin.rule.name(origin.key, text(member, "the member"))
    return ImportedRecord(name, origin.text, None, ttl)


def string_record(origin: Origin, raw: bytes, ttl: float | None) -> tuple[ImportedRecord, str]:
    """A string key as a record, its value as the result; tells why where that cannot be kept."""
    record = ImportedRecord(origin.rule.name(origin.key), origin.text, None, ttl)
    try:
        return record._replace(result=value(raw, origin.rule.values, "the value")), ""
    except Unfit as error:
        return record, str(error)


def entry_fields(event: RecordedEvent, names: Sequence[str]) -> dict[str, bytes]:
    """An event as the fields of a stream's entry: what `Streams` makes the same event of again.

    Args:
        event: from the log.
        names: the fields that the stream's entries had.
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
        # As the published code writes it: UTC, and not saying so.
        moment = event.recorded_at.astimezone(UTC).replace(tzinfo=None)
        found[TIME_FIELD] = moment.isoformat().encode()
    found |= {name: str(item).encode() for name, item in kept.items()}
    ordered = {name: found[name] for name in names if name in found}
    return ordered | found
