"""Which statement each write of the state runs, and how its rows become the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pgmem.core.arrays import JsonColumn, NameColumn
from pgmem.core.encoding import DEFAULT_MAX_BYTES, decode, encode
from pgmem.core.names import STATE_STREAM_PREFIX
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.statements import FENCED, INLINE, INLINE_ALL
from pgmem.core.validation import Seconds, check_count, check_name, check_seconds
from pgmem.errors import InvalidInput, InvalidValue, LeaseLost, VersionConflict
from pgmem.events.codec import (
    MAX_INLINE_EVENTS,
    Batch,
    Codec,
    EncodedEvent,
    encode_event,
    fit_inline,
    fits_inline,
)
from pgmem.events.models import Event
from pgmem.events.ops import check_stream
from pgmem.leases.ops import Held, fence_params
from pgmem.state.models import KEEP, Copy, Keep, StateEntry
from pgmem.state.read_ops import MAX_KEYS, check_key, check_keys
from pgmem.state.schemas import check_increment, check_value

T = TypeVar("T")

_INLINE = (INLINE,)

PUT_TYPE = "state.put"
DELETED_TYPE = "state.deleted"
TOUCHED_TYPE = "state.touched"

NUMBER_LIMIT = 2**63
"""A sum must stay below it on both sides, so that Python gets the number that the server added."""

_FENCE_HELD = 12
"""The column of `state_outcome` that says that the lease is held."""


class Lifetime(NamedTuple):
    """How long a written entry lives.

    Attributes:
        ttl: seconds from now, or None for no end.
        keep: keep the end that the entry has.
    """

    ttl: float | None
    keep: bool = False

    @classmethod
    def of(cls, ttl: Seconds | Keep | None) -> Lifetime:
        """Check a `ttl=`.

        Raises:
            InvalidInput: as `check_seconds`.
        """
        return KEPT if ttl is KEEP else cls(check_ttl(ttl))


KEPT = Lifetime(None, True)


def check_ttl(ttl: Seconds | Keep | None) -> float | None:
    """Check a `ttl=` that cannot keep what is there, and return it in seconds.

    Raises:
        InvalidInput: as `check_seconds`.
    """
    return None if ttl is None else check_seconds(ttl, "ttl")  # type: ignore[arg-type]  # KEEP is refused there


@dataclass(frozen=True, slots=True)
class Recording:
    """How a state write appears in the log.

    Attributes:
        event: the caller's event, or None for the default one, whose payload is the value.
        stream: the stream of the event, or None for the entry's own, `state:<key>`.
        record: False appends no event, unless the change before appended one: then processes have
            copies that become old.
    """

    event: Event | None = None
    stream: str | None = None
    record: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.record, bool):
            raise InvalidInput(
                f"record is True or False, got {type(self.record).__name__}: an event of your own "
                f"goes into event="
            )
        if not self.record and (self.event is not None or self.stream is not None):
            raise InvalidInput("record=False writes no event: leave event= and stream= out")
        if self.stream is not None:
            check_stream(self.stream)


_new = tuple.__new__  # Without the check of a NamedTuple's arguments.
_AS_USUAL = Recording()


def recording_of(event: Event | None, stream: str | None, record: bool) -> Recording:
    """Return how a state write with these options appears in the log.

    Raises:
        InvalidInput: they do not go together, or the stream's name is not allowed.
    """
    if event is None and stream is None and record is True:
        return _AS_USUAL
    return Recording(event, stream, record)


def attribution(codec: Codec) -> dict[str, Any]:
    """Return the parameters `agent_id` and `metadata` of an event that is not the caller's."""
    agent_id, metadata = codec.attribute()
    if metadata is None:
        return {"agent_id": agent_id, "metadata": None}
    text = codec.encode(metadata, "metadata")
    return {"agent_id": agent_id, "metadata": text}


def copy_of(entry: StateEntry, text: str, recording: Recording) -> Copy | None:
    """Return what a cache may keep of an entry that was just written."""
    if not recording.record or entry.expires_at is not None:
        return None
    return Copy(entry.version, text, entry.updated_at, entry.created_at)


def _value_text(key: str, value: Any, codec: Codec) -> str:
    """Encode a value, and check it against the models of its key."""
    text = encode(value, "value", limit=codec.max_bytes, default=codec.default)
    if codec.schemas:
        check_value(codec, key, text)
    return text


def put(
    key: str, value: Any, codec: Codec, *, ttl: float | None, recording: Recording
) -> Op[StateEntry]:
    """Write an entry, whether there is one or not."""
    text = _value_text(key, value, codec)
    return _write(
        "state_put",
        {"key": check_name(key, "key"), "value": text, "ttl": ttl},
        lambda rows: _new(StateEntry, (key, value, *rows[0][:6])),
        f"put state {key!r}",
        Retry.UNSAFE,
        codec,
        recording,
    )


def put_many(
    values: Mapping[str, Any], codec: Codec, *, ttl: float | None, record: bool
) -> Op[list[StateEntry]]:
    """Write several entries, all or none."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"put_many takes a dict of values, got {type(values).__name__}")
    check_count(len(values), "number of keys", minimum=1, maximum=MAX_KEYS)
    keys = sorted(check_keys(list(values)))  # by code points, which is the order of the bytes

    def parse(rows: Sequence[Row]) -> list[StateEntry]:
        written = {row[0]: row[1:7] for row in rows}
        return [StateEntry(key, value, *written[key]) for key, value in values.items()]

    texts = codec.encode_all([values[key] for key in keys], "value")
    if codec.schemas:
        for key, text in zip(keys, texts, strict=True):
            check_value(codec, key, text)
    told = attribution(codec)
    small = len(keys) <= MAX_INLINE_EVENTS and fit_inline(
        # The event of an entry holds its key twice.
        [f"{STATE_STREAM_PREFIX}{key}{key}" for key in keys],
        Batch(
            [PUT_TYPE] * len(keys),
            texts,
            [told["agent_id"]] * len(keys),
            [told["metadata"]] * len(keys),
        ),
    )
    return Op(
        "state_put_many",
        {
            "keys": NameColumn(keys),
            "values": JsonColumn(texts),
            "ttl": ttl,
            "type": PUT_TYPE,
            **told,
            "record": recording_of(None, None, record).record,
        },
        parse,
        f"put {len(values)} state entries",
        Retry.UNSAFE,
        (INLINE_ALL,) if small else (),
    )


def texts_of(op: Op[list[StateEntry]]) -> dict[str, str]:
    """Return the JSON text of each value that a `put_many` writes, by its key."""
    return dict(zip(op.params["keys"].cells, op.params["values"].cells, strict=True))


def create(
    key: str, value: Any, codec: Codec, *, ttl: float | None, recording: Recording
) -> Op[StateEntry]:
    """Write an entry if none exists."""
    text = _value_text(key, value, codec)
    return _write(
        "state_create",
        {"key": check_key(key), "value": text, "ttl": ttl},
        _parse_outcome(key, value, 0, "create"),
        f"create state {key!r}",
        Retry.CONDITIONAL,
        codec,
        recording,
    )


def compare_and_set(
    key: str,
    value: Any,
    codec: Codec,
    *,
    expected_version: int,
    lifetime: Lifetime,
    recording: Recording,
) -> Op[StateEntry]:
    """Write an entry if its version is the expected one; 0 expects that there is none."""
    check_count(expected_version, "expected_version", minimum=0)
    if expected_version == 0:
        return create(key, value, codec, ttl=lifetime.ttl, recording=recording)
    text = _value_text(key, value, codec)
    return _write(
        "state_compare_and_set",
        {
            "key": check_name(key, "key"),
            "value": text,
            "ttl": lifetime.ttl,
            "keep_ttl": lifetime.keep,
            "expected_version": expected_version,
        },
        _parse_outcome(key, value, expected_version, "compare-and-set"),
        f"compare-and-set state {key!r} expecting version {expected_version}",
        Retry.CONDITIONAL,
        codec,
        recording,
    )


def fenced(op: Op[StateEntry], held: Held) -> Op[StateEntry]:
    """Return a compare-and-set that is refused unless a lease is held until it has committed.

    Raises (from `parse`):
        LeaseLost: the lease is not held.
    """

    def parse(rows: Sequence[Row]) -> StateEntry:
        if not rows[0][_FENCE_HELD]:
            raise LeaseLost(
                f"{op.action} refused: the lease {held.name!r} is no longer held under the fencing "
                f"token {held.token}; nothing was changed. It ran out, was released, or another "
                f"holder has it. Acquire it again, then decide on the entry as it is then"
            )
        return op.parse(rows)

    return op._replace(
        statement=f"{op.statement}_fenced",
        params=op.params | fence_params(held),
        parse=parse,
        fragments=(*op.fragments, FENCED),
    )


def increment(
    key: str, by: float, codec: Codec, *, ttl: float | None, recording: Recording
) -> Op[StateEntry]:
    """Add to a number.

    Raises (from `parse`):
        InvalidValue: the value is not a number, or the sum would leave the range.
    """
    check_increment(codec, key)
    if isinstance(by, bool) or not isinstance(by, int | float):
        raise InvalidValue(f"increment adds an int or a float, got {type(by).__name__}")
    if not -NUMBER_LIMIT < by < NUMBER_LIMIT:  # also false for NaN
        raise InvalidValue(f"increment adds at most ±(2⁶³ − 1), got {by!r}")

    def parse(rows: Sequence[Row]) -> StateEntry:
        text, found = rows[0][6:8]
        if text is not None:
            return StateEntry(key, decode(text), *rows[0][:6])
        if found is None:  # It changed while the statement ran.
            raise RetryStatement
        if found != "number":
            raise InvalidValue(
                f"increment of state {key!r}: its value is a JSON {found}, not a number; nothing "
                f"was changed. Put a number there first, or change it with state.update"
            )
        raise InvalidValue(
            f"increment of state {key!r} by {by!r}: the sum would leave ±(2⁶³ − 1), or has left "
            f"it already; nothing was changed"
        )

    return _write(
        "state_increment",
        {
            "key": check_key(key),
            "by": codec.encode(by, "by"),
            "ttl": ttl,
            "limit": str(NUMBER_LIMIT),
        },
        parse,
        f"increment state {key!r}",
        Retry.UNSAFE,
        codec,
        recording,
    )


def number_text(entry: StateEntry) -> str:
    """Return the JSON text of the sum that an increment returned."""
    return encode(entry.value, "value", limit=DEFAULT_MAX_BYTES)


def delete(
    key: str, codec: Codec, *, expected_version: int | None, recording: Recording
) -> Op[bool]:
    """Delete an entry; the result is True if there was one."""
    if expected_version is not None:
        check_count(expected_version, "expected_version", minimum=1)
    parse_outcome = _parse_outcome(key, None, expected_version or 0, "delete")

    def parse(rows: Sequence[Row]) -> bool:
        deleted = rows[0][0] is not None
        if not deleted and expected_version is not None:
            parse_outcome(rows)
        return deleted

    return _write(
        "state_delete",
        {"key": check_key(key), "expected_version": expected_version},
        parse,
        f"delete state {key!r}",
        Retry.UNSAFE if expected_version is None else Retry.CONDITIONAL,
        codec,
        recording,
        DELETED_TYPE,
    )


def touch(key: str, codec: Codec, *, ttl: float | None, record: bool) -> Op[bool]:
    """Set when an entry expires; the result is True if there is one."""
    return Op(
        "state_touch",
        {
            "key": check_key(key),
            "ttl": ttl,
            "type": TOUCHED_TYPE,
            **attribution(codec),
            "record": recording_of(None, None, record).record,
        },
        bool,
        f"touch state {key!r}",
        # A second touch sets the same lifetime from a moment later, which is what was asked for.
        Retry.UNSAFE if record else Retry.IDEMPOTENT,
    )


def conflict(key: str, expected: int, current: StateEntry | None, verb: str) -> VersionConflict:
    """Return the error of a state write that lost."""
    wanted = f"version {expected}" if expected else "no entry"
    found = f"version {current.version}" if current else "no entry"
    return VersionConflict(
        f"{verb} of state {key!r} expected {wanted}, found {found}: nothing was changed; "
        f"decide again on the current entry (it is in this error), or use state.update",
        expected=expected,
        actual=current.version if current else 0,
        current=current,
    )


def _write(  # noqa: PLR0917  # keywords would cost time in each call
    statement: str,
    params: dict[str, Any],
    parse: Callable[[Sequence[Row]], T],
    action: str,
    retry: Retry,
    codec: Codec,
    recording: Recording,
    default_type: str = PUT_TYPE,
) -> Op[T]:
    """Return the op of a write, with the parameters of the statement piece `state_change`.

    A small event is sent inline with the notification.
    """
    value = params.get("value")
    event, stream = recording.event, recording.stream
    if event is None:
        agent_id, metadata = codec.context.current
        text = None if metadata is None else codec.encode(metadata, "metadata")
        encoded = _new(EncodedEvent, (default_type, value or "", agent_id, text))
        payload = None
    else:
        encoded = encode_event(event, codec)
        payload = None if encoded.payload == value else encoded.payload
    kind, _, agent_id, text = encoded
    key = params["key"]
    names = f"{stream}{key}" if stream is not None else f"{STATE_STREAM_PREFIX}{key}{key}"
    small = fits_inline(names, encoded, "" if payload is None or value is None else value)
    params |= {
        "escaped": value is not None and "\\" in value,
        "stream": stream,
        "type": kind,
        "payload": payload,
        "agent_id": agent_id,
        "metadata": text,
        "record": recording.record,
    }
    return Op(statement, params, parse, action, retry, _INLINE if small else ())


def _parse_outcome(
    key: str, value: Any, expected: int, verb: str
) -> Callable[[Sequence[Row]], StateEntry]:
    """Return a function that makes the new entry, or the conflict, from `state_outcome`."""

    def parse(rows: Sequence[Row]) -> StateEntry:
        row = rows[0]
        if row[0] is not None:
            return _new(StateEntry, (key, value, *row[:6]))
        version, updated_at, created_at, expires_at, ttl, text = row[6:12]
        if (version or 0) == expected:
            # The other writer committed after this statement's snapshot, so the entry that the
            # statement shows as current is already old.
            raise RetryStatement
        current = None
        if version is not None:
            current = StateEntry(
                key, decode(text), version, updated_at, created_at, expires_at, ttl
            )
        raise conflict(key, expected, current, verb)

    return parse
