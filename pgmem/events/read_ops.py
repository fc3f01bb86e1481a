"""Read from the log: what to run for each verb.

`pgmem.events.verbs` runs it. How far reads may go is decided by `pgmem.events.stable_position`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from pgmem.core.arrays import NameColumn
from pgmem.core.names import STREAM_BYTES
from pgmem.core.op import Op, Row
from pgmem.core.validation import MAX_POSITION, check_count, check_name, check_position
from pgmem.events.codec import Codec, event_maker
from pgmem.events.columns import POSITION
from pgmem.events.filter import EventFilter
from pgmem.events.models import RecordedEvent

MAX_LIMIT = 100_000


def read(
    wanted: EventFilter,
    *,
    after: int = 0,
    until: int = MAX_POSITION,
    limit: int,
    reverse: bool = False,
) -> Op[list[Row]]:
    """Read the visible events that pass a filter."""
    return Op(
        "event_read",
        {**wanted.params(), **_range(after, until), "limit": _limit(limit)},
        list,
        "read events",
        fragments=(*wanted.fragments(in_order=True), ("direction", "DESC" if reverse else "ASC")),
    )


def _range(after: int, until: int) -> dict[str, int]:
    return {"after": check_position(after, "after"), "until": check_position(until, "until")}


def _limit(limit: int) -> int:
    return check_count(limit, "limit", minimum=1, maximum=MAX_LIMIT)


def read_stream(
    stream: str,
    *,
    after_version: int = 0,
    until_version: int | None = None,
    limit: int,
    reverse: bool = False,
) -> Op[list[Row]]:
    """Read the visible events of a versioned stream, by version."""
    last = MAX_POSITION if until_version is None else until_version
    return Op(
        "event_read_stream",
        {
            "stream": _any_stream(stream),
            "after": check_count(after_version, "after_version", minimum=0),
            "until": check_count(last, "until_version", minimum=0),
            "limit": _limit(limit),
        },
        list,
        f"read the stream {stream!r}",
        fragments=(("direction", "DESC" if reverse else "ASC"),),
    )


def get(
    position: int, codec: Codec, *, model: type[BaseModel] | None = None
) -> Op[RecordedEvent | None]:
    """Read the event at a position."""
    event_of = event_maker(codec, model)
    return Op(
        "event_get",
        {"position": check_position(position, "position")},
        lambda rows: event_of(rows[0]) if rows else None,
        f"read the event at position {position}",
        merge=_merge_gets,
    )


def _merge_gets(ops: Sequence[Op[Any]]) -> Op[list[Sequence[Row]]]:
    """Return one op for several of `get`."""
    positions = [op.params["position"] for op in ops]

    def parse(rows: Sequence[Row]) -> list[Sequence[Row]]:
        found = {row[POSITION]: (row,) for row in rows}
        return [found.get(position, ()) for position in positions]

    wanted = NameColumn([str(position) for position in dict.fromkeys(positions)])
    return Op("event_get_each", {"positions": wanted}, parse, f"read {len(positions)} events")


def count(wanted: EventFilter, *, after: int, until: int) -> Op[int]:
    """Count the visible events that pass a filter."""
    return Op(
        "event_count",
        {**wanted.params(), **_range(after, until)},
        lambda rows: int(rows[0][0]),
        "count events",
        fragments=wanted.fragments(),
    )


def head(wanted: EventFilter) -> Op[int]:
    """Read the position of the newest visible event that passes a filter; 0 if there is none."""
    return Op(
        "event_newest",
        wanted.params(),
        lambda rows: int(rows[0][0]) if rows else 0,
        "read the head of the log",
        fragments=wanted.fragments(),
    )


def stream_version(stream: str) -> Op[int]:
    """Read the version of a versioned stream."""
    return Op(
        "event_stream_version",
        {"stream": _any_stream(stream)},
        lambda rows: int(rows[0][0]),
        f"read the version of stream {stream!r}",
    )


def _any_stream(stream: str) -> str:
    return check_name(stream, "stream", most=STREAM_BYTES)
