"""State: the latest value under a key, its version, and its writes with their events.

Says what to run for each verb; `pgmem.state.verbs` runs it and retries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from pgmem.core.encoding import decode, decoder, encode
from pgmem.core.names import STATE_STREAM_PREFIX
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.statements import INLINE
from pgmem.core.validation import after_prefix, check_count, check_name, check_prefix
from pgmem.errors import InvalidInput, VersionConflict
from pgmem.events.codec import Codec
from pgmem.events.columns import (
    AGENT_ID,
    PAYLOAD,
    POSITION,
    STATE_DELETED,
    STATE_EXPIRES_AT,
    STATE_KEY,
    STATE_VALUE,
    STATE_VERSION,
)
from pgmem.events.models import Event, RecordedEvent, StateChange
from pgmem.events.ops import EncodedEvent, check_stream, encode_event, fits_letter, parse_events
from pgmem.state.models import StateEntry

T = TypeVar("T")

PUT_TYPE = "state.put"
DELETED_TYPE = "state.deleted"
TOUCHED_TYPE = "state.touched"
RESTORED_TYPE = "state.restored"

RECORDED = 2
"""`state.recording`, where the last change is in the log and the next one will be."""

MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Recording:
    """How a state write appears in the log.

    Attributes:
        event: the caller's event; None for the default one, whose payload is the value.
        stream: the stream it goes to; None for the entry's own, `state:<key>`.
        record: False writes no event; but one, if the change before has one: who follows must
            learn that what it has is not the latest.
    """

    event: Event | None = None
    stream: str | None = None
    record: bool = True

    def __post_init__(self) -> None:
        if not self.record and (self.event is not None or self.stream is not None):
            raise InvalidInput("record=False writes no event: leave event= and stream= out")
        if self.stream is not None:
            check_stream(self.stream)

    def params(self, codec: Codec, default_type: str, value: str | None) -> dict[str, Any]:
        """The parameters of the statement piece `state_change`."""
        agent_id, metadata = codec.attribute()
        params = {
            "stream": self.stream,
            "type": default_type,
            "payload": None,
            "agent_id": agent_id,
            "metadata": None
            if metadata is None
            else encode(metadata, "metadata", limit=codec.max_bytes),
            "record": self.record,
        }
        if self.event is not None:
            encoded = encode_event(self.event, codec)
            params |= {
                "type": encoded.type,
                "payload": None if encoded.payload == value else encoded.payload,
                "agent_id": encoded.agent_id,
                "metadata": encoded.metadata,
            }
        return params


class Copy(NamedTuple):
    """What a cache may keep of an entry without an end whose next change will be in the log.

    The value as text, because a caller may change the value that it gets.
    """

    version: int
    text: str
    updated_at: datetime


def change_maker(model: type[BaseModel] | None) -> Callable[[Row], StateChange]:
    """A function from the row of a state write's event to the change."""
    value_of = decoder(model, "value")

    def make(row: Row) -> StateChange:
        text = row[PAYLOAD] if row[STATE_VALUE] is None else row[STATE_VALUE]
        version, deleted = row[STATE_VERSION], bool(row[STATE_DELETED])
        value = None if deleted or version is None else value_of(text)
        return StateChange(
            row[STATE_KEY],
            version,
            deleted,
            value,
            row[STATE_EXPIRES_AT],
            row[POSITION],
            row[AGENT_ID],
        )

    return make


def check_key(key: str) -> str:
    """Check a state key.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(key, "key")


def _entry(model: type[BaseModel] | None) -> Any:
    value_of = decoder(model, "value")

    def make(row: Row) -> StateEntry:
        key, value, version, updated_at, expires_at = row[:5]
        return StateEntry(key, value_of(value), version, updated_at, expires_at)

    return make


def get(key: str, *, model: type[BaseModel] | None = None) -> Op[StateEntry | None]:
    """Read one entry."""
    make = _entry(model)
    return Op(
        "state_get",
        {"key": check_key(key)},
        lambda rows: make(rows[0]) if rows else None,
        f"get state {key!r}",
    )


def load(
    key: str, *, model: type[BaseModel] | None = None
) -> Op[tuple[StateEntry, Copy | None] | None]:
    """Read one entry, and what a cache may keep of it."""
    make = _entry(model)

    def parse(rows: Sequence[Row]) -> tuple[StateEntry, Copy | None] | None:
        if not rows:
            return None
        _, text, version, updated_at, expires_at, recording = rows[0]
        lasts = recording == RECORDED and expires_at is None
        return make(rows[0]), Copy(version, text, updated_at) if lasts else None

    return Op("state_get", {"key": check_key(key)}, parse, f"get state {key!r}")


def refresh(
    key: str, codec: Codec, *, ttl: float, model: type[BaseModel] | None = None
) -> Op[StateEntry | None]:
    """Read one entry and push its expiry out to so many seconds from now."""
    make = _entry(model)
    return Op(
        "state_get_refresh",
        _touch_params(key, codec, ttl=ttl, record=False),
        lambda rows: make(rows[0]) if rows else None,
        f"get state {key!r}",
        Retry.IDEMPOTENT,  # As `touch`.
    )


def get_locked(key: str, *, model: type[BaseModel] | None = None) -> Op[StateEntry | None]:
    """Read one entry and lock its key until the transaction ends."""
    make = _entry(model)
    return Op(
        "state_get_locked",
        {"key": check_key(key)},
        lambda rows: make(rows[0]) if rows and rows[0][5] else None,
        f"lock state {key!r}",
    )


def get_many(
    keys: Sequence[str], *, model: type[BaseModel] | None = None
) -> Op[dict[str, StateEntry]]:
    """Read several entries."""
    if isinstance(keys, str):
        raise InvalidInput("get_many takes a sequence of keys, got one str")
    checked = [check_key(key) for key in keys]
    check_count(len(checked), "number of keys", minimum=0, maximum=MAX_KEYS)
    make = _entry(model)
    return Op(
        "state_get_many",
        {"keys": checked},
        lambda rows: {row[0]: make(row) for row in rows},
        f"get {len(checked)} state entries",
    )


def list_entries(
    prefix: str, *, after: str, limit: int, model: type[BaseModel] | None = None
) -> Op[list[StateEntry]]:
    """Read the entries whose key begins with a prefix."""
    make = _entry(model)
    return Op(
        "state_list",
        {
            "prefix": check_prefix(prefix, "prefix"),
            "after": check_prefix(after, "after"),
            "end": after_prefix(prefix),
            "limit": check_count(limit, "limit", minimum=1, maximum=100_000),
        },
        lambda rows: [make(row) for row in rows],
        f"list state entries with prefix {prefix!r}",
    )


def history(
    key: str, codec: Codec, *, after: int, limit: int, model: type[BaseModel] | None = None
) -> Op[list[RecordedEvent]]:
    """Read the recorded changes of one entry."""
    return Op(
        "state_history",
        {
            "key": check_key(key),
            "after": check_count(after, "after", minimum=0),
            "limit": check_count(limit, "limit", minimum=1, maximum=100_000),
        },
        parse_events(codec, model),
        f"read the history of state {key!r}",
    )


def write(
    statement: str,
    params: dict[str, Any],
    parse: Callable[[Sequence[Row]], T],
    action: str,
    retry: Retry,
) -> Op[T]:
    """A write of one entry; its event rides on the bell if it is small enough."""
    value = params.get("value") or ""
    payload = params["payload"]
    event = EncodedEvent(params["type"], payload or value, params["agent_id"], params["metadata"])
    names = f"{params['stream'] or STATE_STREAM_PREFIX + params['key']}{params['key']}"
    small = fits_letter(names, event, value if payload else "")
    return Op(statement, params, parse, action, retry, (INLINE,) if small else ())


def put(
    key: str, value: Any, codec: Codec, *, ttl: float | None, recording: Recording
) -> Op[StateEntry]:
    """Write an entry, whatever was there."""
    text = encode(value, "value", limit=codec.max_bytes)

    def parse(rows: Sequence[Row]) -> StateEntry:
        version, updated_at, expires_at, position = rows[0][:4]
        return StateEntry(key, value, version, updated_at, expires_at, position)

    return write(
        "state_put",
        {"key": check_key(key), "value": text, "ttl": ttl}
        | recording.params(codec, PUT_TYPE, text),
        parse,
        f"put state {key!r}",
        Retry.UNSAFE,
    )


def written(entry: StateEntry, text: str, recording: Recording) -> Copy | None:
    """What a cache may keep of an entry that was written just now."""
    if not recording.record or entry.expires_at is not None:
        return None
    return Copy(entry.version, text, entry.updated_at)


def create(
    key: str, value: Any, codec: Codec, *, ttl: float | None, recording: Recording
) -> Op[StateEntry]:
    """Write an entry where none is."""
    text = encode(value, "value", limit=codec.max_bytes)
    return write(
        "state_create",
        {"key": check_key(key), "value": text, "ttl": ttl}
        | recording.params(codec, PUT_TYPE, text),
        _parse_outcome(key, value, 0, "create"),
        f"create state {key!r}",
        Retry.CONDITIONAL,
    )


def compare_and_set(
    key: str,
    value: Any,
    codec: Codec,
    *,
    expected_version: int,
    ttl: float | None,
    recording: Recording,
) -> Op[StateEntry]:
    """Write an entry if its version is the expected one; 0 expects that there is none."""
    check_count(expected_version, "expected_version", minimum=0)
    if expected_version == 0:
        return create(key, value, codec, ttl=ttl, recording=recording)
    text = encode(value, "value", limit=codec.max_bytes)
    return write(
        "state_compare_and_set",
        {
            "key": check_key(key),
            "value": text,
            "ttl": ttl,
            "keep_ttl": ttl is None,
            "expected_version": expected_version,
        }
        | recording.params(codec, PUT_TYPE, text),
        _parse_outcome(key, value, expected_version, "compare-and-set"),
        f"compare-and-set state {key!r} expecting version {expected_version}",
        Retry.CONDITIONAL,
    )


def delete(
    key: str, codec: Codec, *, expected_version: int | None, recording: Recording
) -> Op[bool]:
    """Delete an entry; tells whether there was one."""
    if expected_version is not None:
        check_count(expected_version, "expected_version", minimum=1)
    parse_outcome = _parse_outcome(key, None, expected_version or 0, "delete")

    def parse(rows: Sequence[Row]) -> bool:
        deleted = rows[0][0] is not None
        if not deleted and expected_version is not None:
            parse_outcome(rows)
        return deleted

    return write(
        "state_delete",
        {"key": check_key(key), "expected_version": expected_version}
        | recording.params(codec, DELETED_TYPE, None),
        parse,
        f"delete state {key!r}",
        Retry.UNSAFE if expected_version is None else Retry.CONDITIONAL,
    )


def touch(key: str, codec: Codec, *, ttl: float | None, record: bool) -> Op[bool]:
    """Set when an entry expires; tells whether there is one."""
    return Op(
        "state_touch",
        _touch_params(key, codec, ttl=ttl, record=record),
        bool,
        f"touch state {key!r}",
        # A second touch sets the same span from a moment later: what was asked for.
        Retry.IDEMPOTENT if not record else Retry.UNSAFE,
    )


def _touch_params(key: str, codec: Codec, *, ttl: float | None, record: bool) -> dict[str, Any]:
    """The parameters of the statement piece `state_expire`."""
    return {
        "key": check_key(key),
        "ttl": ttl,
        "type": TOUCHED_TYPE,
        "agent_id": codec.agent_id,
        "record": record,
    }


def _parse_outcome(key: str, value: Any, expected: int, verb: str) -> Any:
    """How to read the rows of `state_outcome`: the new entry, or the conflict."""

    def parse(rows: Sequence[Row]) -> StateEntry:
        version, updated_at, expires_at, position = rows[0][:4]
        if version is not None:
            return StateEntry(key, value, version, updated_at, expires_at, position)
        actual, current_updated_at, current_expires_at, text = rows[0][4:8]
        if (actual or 0) == expected:
            # The writer that won committed after this statement's snapshot was taken: what the
            # statement shows as current is already old.
            raise RetryStatement
        current = None
        if actual is not None:
            current = StateEntry(key, decode(text), actual, current_updated_at, current_expires_at)
        raise conflict(key, expected, current, verb)

    return parse


def conflict(key: str, expected: int, current: StateEntry | None, verb: str) -> VersionConflict:
    """The error of a state write that lost."""
    wanted = f"version {expected}" if expected else "no entry"
    found = f"version {current.version}" if current else "no entry"
    return VersionConflict(
        f"{verb} of state {key!r} expected {wanted}, found {found}: nothing was changed; "
        f"decide again on the current entry (it is in this error), or use state.update",
        expected=expected,
        actual=current.version if current else 0,
        current=current,
    )
