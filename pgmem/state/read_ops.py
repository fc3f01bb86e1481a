"""Which statement each read of the state runs, and how its rows become entries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from orjson import loads
from pydantic import BaseModel

from pgmem.core.arrays import NameColumn
from pgmem.core.encoding import (
    DEFAULT_MAX_BYTES,
    check_model,
    check_object,
    decode,
    decoder,
    encode,
)
from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import after_prefix, check_count, check_name, check_prefix
from pgmem.errors import InvalidInput
from pgmem.events.codec import Codec, parse_events
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
from pgmem.events.event_classes import validate_payload
from pgmem.events.models import RecordedEvent, StateChange
from pgmem.state.models import Copy, StateEntry

Order = Literal["key", "updated_at", "created_at"]

RECORDED = 2
"""The value of `state.recording` if the last change is in the log and the next one will be."""

MAX_KEYS = 10_000

MAX_PAGE = 100_000
MAX_OFFSET = 2**31 - 1

_FROM = "AND key >= %(prefix)s"
_BELOW = "AND key < %(end)s"
# A cheap test, which may pass too much but never too little, spares most values the cast to jsonb.
# Without a backslash (`escaped`) a JSON text has one spelling of a string, and a number without a
# point or an exponent is spelled as an integer. The CASE keeps the cast from running first.
_CONTAINS = "AND CASE WHEN {test} THEN value::jsonb @> %(where)s::jsonb ELSE false END"
_HAS_TEXT = _CONTAINS.replace("{test}", 'strpos(value::text COLLATE "C", %(text)s) > 0 OR escaped')
_HAS_SPELLING = _CONTAINS.replace(
    "{test}", 'value->>%(field)s::text COLLATE "C" LIKE ANY (%(spellings)s::text[])'
)
_ORDERS: dict[tuple[Order, bool], str] = {
    ("key", False): "key",
    ("key", True): "key DESC",
    ("updated_at", False): "updated_at, key",
    ("updated_at", True): "updated_at DESC, key DESC",
    ("created_at", False): "created_at, key",
    ("created_at", True): "created_at DESC, key DESC",
}
_SEGMENT = "AND (key = %(segment)s OR starts_with(key, %(segment)s::text || %(separator)s::text))"
_FIRST_SEGMENTS = (
    "array_to_string((string_to_array(key, %(separator)s))[1:%(depth)s], %(separator)s)"
)


def check_key(key: str) -> str:
    """Check a state key.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(key, "key")


def check_keys(keys: Sequence[str]) -> list[str]:
    """Check several state keys."""
    if isinstance(keys, str | bytes) or not isinstance(keys, Collection):
        raise InvalidInput(f"keys are a sequence of str, got {type(keys).__name__}")
    check_count(len(keys), "number of keys", minimum=0, maximum=MAX_KEYS)
    return [check_key(key) for key in keys]


def entry_maker(model: type[BaseModel] | None) -> Callable[[Row], StateEntry]:
    """Return a function that makes an entry from a row of a read."""
    value_of = decoder(model, "value")
    new = tuple.__new__  # what StateEntry._make does, without its check

    def make(row: Row) -> StateEntry:
        return new(StateEntry, (row[0], value_of(row[1]), *row[2:7], None))

    return make


def change_maker(model: type[BaseModel] | None) -> Callable[[Row], StateChange]:
    """Return a function that makes a change from the row of its event.

    Raises (the function):
        InvalidEvent: the value does not fit the model.
    """

    if model is not None:
        check_model(model)

    def value_of(row: Row) -> Any:
        text = row[PAYLOAD] if row[STATE_VALUE] is None else row[STATE_VALUE]
        return decode(text) if model is None else validate_payload(row, model, text)

    def make(row: Row) -> StateChange:
        version, deleted = row[STATE_VERSION], bool(row[STATE_DELETED])
        value = None if deleted or version is None else value_of(row)
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


def get(key: str, *, model: type[BaseModel] | None = None) -> Op[StateEntry | None]:
    """Read one entry."""
    parse = _parse_entry if model is None else _entry_parser(model)
    return Op(
        "state_get",
        {"key": check_name(key, "key")},
        parse,
        f"get state {key!r}",
        merge=_merge_gets,
    )


def _merge_gets(ops: Sequence[Op[Any]]) -> Op[list[Sequence[Row]]]:
    """Return one op for several of `get` and `load`."""
    keys = [op.params["key"] for op in ops]

    def parse(rows: Sequence[Row]) -> list[Sequence[Row]]:
        found = {row[0]: (row,) for row in rows}
        return [found.get(key, ()) for key in keys]

    wanted = NameColumn(list(dict.fromkeys(keys)))
    return Op("state_get_each", {"keys": wanted}, parse, f"get {len(keys)} state entries")


def _parse_entry(rows: Sequence[Row]) -> StateEntry | None:
    if not rows:
        return None
    row = rows[0]
    return tuple.__new__(StateEntry, (row[0], loads(row[1]), *row[2:7], None))


def _entry_parser(model: type[BaseModel]) -> Callable[[Sequence[Row]], StateEntry | None]:
    make = entry_maker(model)
    return lambda rows: make(rows[0]) if rows else None


def load(
    key: str, *, model: type[BaseModel] | None = None
) -> Op[tuple[StateEntry, Copy | None] | None]:
    """Read one entry and the copy of it that a cache may keep."""
    make = entry_maker(model)

    def parse(rows: Sequence[Row]) -> tuple[StateEntry, Copy | None] | None:
        if not rows:
            return None
        entry = make(rows[0])
        if rows[0][7] != RECORDED or entry.expires_at is not None:
            return entry, None
        return entry, Copy(entry.version, rows[0][1], entry.updated_at, entry.created_at)

    params = {"key": check_key(key)}
    return Op("state_get", params, parse, f"get state {key!r}", merge=_merge_gets)


def refresh(key: str, *, model: type[BaseModel] | None = None) -> Op[StateEntry | None]:
    """Read one entry and renew its end by its own lifetime."""
    read = get(key, model=model)
    return read._replace(statement="state_get_refresh", retry=Retry.IDEMPOTENT, merge=None)


def get_locked(key: str, *, model: type[BaseModel] | None = None) -> Op[StateEntry | None]:
    """Read one entry and lock its key until the transaction ends."""
    make = entry_maker(model)
    return Op(
        "state_get_locked",
        {"key": check_key(key)},
        lambda rows: make(rows[0]) if rows and rows[0][7] else None,
        f"lock state {key!r}",
    )


def get_many(
    keys: Sequence[str], *, model: type[BaseModel] | None = None
) -> Op[dict[str, StateEntry]]:
    """Read several entries."""
    if isinstance(keys, str):
        raise InvalidInput("get_many takes a sequence of keys, got one str")
    checked = check_keys(keys)
    make = entry_maker(model)
    return Op(
        "state_get_many",
        {"keys": checked},
        lambda rows: {row[0]: make(row) for row in rows},
        f"get {len(checked)} state entries",
    )


def search(
    prefix: str,
    *,
    where: Mapping[str, Any] | None = None,
    after: str = "",
    order: Order = "key",
    reverse: bool = False,
    offset: int = 0,
    limit: int | None,
    model: type[BaseModel] | None = None,
) -> Op[list[StateEntry]]:
    """Read the entries whose key begins with a prefix and whose value has certain fields."""
    if not isinstance(order, str) or (order, bool(reverse)) not in _ORDERS:
        given = ascii(order)[:80] if isinstance(order, str) else type(order).__name__
        raise InvalidInput(f"order is 'key', 'updated_at' or 'created_at', got {given}")
    filters, params = _range(prefix)
    if check_prefix(after, "after"):
        filters.append("AND key > %(after)s")
        params["after"] = after
    if where is not None and check_object(where, "where"):
        condition, wanted = _matching(where)
        filters.append(condition)
        params |= wanted
    params["offset"] = check_count(offset, "offset", minimum=0, maximum=MAX_OFFSET)
    params["limit"] = limit
    if limit is not None:
        check_count(limit, "limit", minimum=1, maximum=MAX_PAGE)
    make = entry_maker(model)
    return Op(
        "state_search",
        params,
        lambda rows: [make(row) for row in rows],
        f"search state entries with prefix {prefix!r}",
        fragments=(("filter", " ".join(filters)), ("order", _ORDERS[order, bool(reverse)])),
    )


def keys(
    prefix: str, *, after: str, depth: int | None, separator: str | None, limit: int
) -> Op[list[str]]:
    """Read the keys that begin with a prefix, or their first segments."""
    filters, params = _range(prefix)
    name = "key"
    if separator is not None:
        params["separator"] = check_name(separator, "separator")
        if prefix and not prefix.endswith(separator):
            filters.append(_SEGMENT)
            params["segment"] = prefix
    if depth is not None:
        if separator is None:
            raise InvalidInput("depth= counts segments: give separator= too, such as ':'")
        name = _FIRST_SEGMENTS
        params["depth"] = check_count(depth, "depth", minimum=1, maximum=MAX_OFFSET)
    params["after"] = check_prefix(after, "after")
    params["limit"] = check_count(limit, "limit", minimum=1, maximum=MAX_PAGE)
    return Op(
        "state_keys",
        params,
        lambda rows: [row[0] for row in rows],
        f"list state keys with prefix {prefix!r}",
        fragments=(("filter", " ".join(filters)), ("name", name)),
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
            "limit": check_count(limit, "limit", minimum=1, maximum=MAX_PAGE),
        },
        parse_events(codec, model),
        f"read the history of state {key!r}",
    )


def history_rows(key: str, *, after: int, limit: int) -> Op[list[Row]]:
    """Read the rows of an entry's recorded changes."""
    return Op(
        "state_history",
        {"key": check_key(key), "after": after, "limit": limit},
        list,
        f"blame state {key!r}",
    )


def _range(prefix: str) -> tuple[list[str], dict[str, Any]]:
    """Return the filters and parameters of the keys that begin with a prefix."""
    if not check_prefix(prefix, "prefix"):
        return [], {}
    end = after_prefix(prefix)
    if end is None:
        return [_FROM], {"prefix": prefix}
    return [_FROM, _BELOW], {"prefix": prefix, "end": end}


def _matching(where: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the condition that a value has some fields, and its parameters."""
    params = {"where": encode(where, "where", limit=DEFAULT_MAX_BYTES)}
    strings = [value for value in where.values() if isinstance(value, str)]
    numbers = [name for name, value in where.items() if isinstance(value, int | float)]
    if numbers and not strings:
        field = numbers[0]
        return _HAS_SPELLING, params | {"field": field, "spellings": _spellings(where[field])}
    text = encode(max(strings or where, key=len), "where", limit=DEFAULT_MAX_BYTES)
    return _HAS_TEXT, params | {"text": text}


def _spellings(number: float) -> list[str]:
    """Return LIKE patterns for every JSON text of a number, or of True or False."""
    if isinstance(number, bool):
        return ["true" if number else "false"]
    spellings = ["%.%", "%e%", "%E%"]
    if number == int(number):
        spellings += [str(int(number)), "-0"]
    return spellings
