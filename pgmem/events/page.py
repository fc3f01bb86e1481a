"""Pages of the log, read forwards, and letters: what a reader needs beside the events themselves.

In front of each page stands a row that tells where the log stands: how far positions have been
drawn, which timeline it is on, and what retention has removed. It comes from the same snapshot as
the events, so nothing can fall between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import NamedTuple

import orjson

from pgmem.core.op import Op, Row
from pgmem.core.validation import MAX_POSITION, check_count, check_position
from pgmem.errors import PositionTrimmed, Unavailable
from pgmem.events.columns import (
    METADATA,
    PAYLOAD,
    POSITION,
    RECORDED_AT,
    STATE_EXPIRES_AT,
    STATE_VALUE,
    STATE_VERSION,
    TYPE,
    VERSION,
)
from pgmem.events.filter import EVERYTHING, EventFilter

ALWAYS = "-infinity"
"""Tell of whatever was trimmed, whenever that was."""
NEVER = "infinity"
"""The reader begins at whatever there is: tell of nothing that was trimmed."""
UNDATED = "290000-01-01 00:00:00+00"
"""Tell only of a trim that is yet to be given its time: see `pgmem.retention.ops`."""

_LETTER_FORM = 1
_NONE: type = type(None)
_LETTER_COLUMNS: tuple[tuple[type, ...], ...] = (
    (int,), (str,), (int, _NONE), (str,), (str,), (str, _NONE), (str, _NONE), (str,),
    (str, _NONE), (int, _NONE), (bool, _NONE), (str, _NONE), (str, _NONE),
)  # fmt: skip

NEWEST = 1_000
"""So many of the newest positions are remembered when following begins."""

PAGE_BYTES = 4 * 1024 * 1024
PAGE_FIRST, PAGE_MOST = 200, 2_000


class PageHead(NamedTuple):
    """Where the log stands.

    Attributes:
        head: the highest position drawn.
        timeline: of the log; None on a standby.
        trimmed: retention removed selected events behind `after`, up to this position; or None.
        now: the server's time.
    """

    head: int
    timeline: int | None
    trimmed: int | None
    now: datetime


class Page(NamedTuple):
    """A part of the log: the events as rows, in order."""

    head: PageHead
    rows: list[Row]


def _parse(rows: Sequence[Row]) -> Page:
    front = next(row for row in rows if row[POSITION] == 0)
    timeline = None if front[TYPE] is None else int(front[TYPE], 16)
    head = PageHead(front[VERSION], timeline, front[STATE_VERSION], front[RECORDED_AT])
    return Page(head, list(rows[1:]) if rows[0] is front else [r for r in rows if r is not front])


def read_page(
    wanted: EventFilter,
    *,
    after: int = 0,
    until: int = MAX_POSITION,
    limit: int,
    since: datetime | str,
) -> Op[Page]:
    """Read a page of visible events, in the order of the log.

    Args:
        wanted: which events.
        after: only positions above this one.
        until: only positions up to this one.
        limit: maximum number of events.
        since: the reader knows what was trimmed up to this moment.
    """
    return Op(
        "event_page",
        {
            **wanted.params(),
            "after": check_position(after, "after"),
            "until": check_position(until, "until"),
            "since": since,
            "limit": check_count(limit, "limit", minimum=1, maximum=100_000),
        },
        _parse,
        "read events",
        fragments=wanted.fragments(in_order=True),
    )


def read_tail(seen: int, gaps: Sequence[tuple[int, int]], *, limit: int, late: int) -> Op[Page]:
    """Read what is new: in the gaps seen before, and behind all that was seen.

    Args:
        seen: all that was seen is up to here.
        gaps: the lowest and the highest position of each, in order.
        limit: at most so many events behind `seen`.
        late: at most so many events in the gaps: the first ones.
    """
    if not gaps:
        return read_page(EVERYTHING, after=seen, limit=max(1, limit), since=ALWAYS)
    return Op(
        "event_tail",
        {
            "after": gaps[0][0] - 1,
            "seen": seen,
            "since": ALWAYS,
            "low": [low for low, _ in gaps],
            "high": [high for _, high in gaps],
            "limit": limit,
            "late": late,
        },
        _parse,
        "follow the log",
        fragments=(("trimmed", ""),),
    )


def read_recorded(known: Sequence[tuple[int, datetime]]) -> Op[bool]:
    """See whether the log still holds these events, and no others between them.

    Args:
        known: position and `recorded_at` of each, in order.
    """

    def parse(rows: Sequence[Row]) -> bool:
        trimmed = rows[0][2]
        kept = [event for event in known if event[0] > trimmed]
        return kept == [row[:2] for row in rows[1:] if row[0] > trimmed]

    return Op(
        "event_recorded",
        {"low": known[0][0], "high": known[-1][0]},
        parse,
        "see whether the log still holds what was read",
    )


def read_newest(position: int) -> Op[list[tuple[int, datetime]]]:
    """Position and `recorded_at` of the newest events up to a position, in order."""
    return Op(
        "event_recorded",
        {"low": max(1, position - NEWEST + 1), "high": position},
        lambda rows: [(row[0], row[1]) for row in rows[1:]],
        "read when the newest events were recorded",
    )


def trimmed_error(after: int, trimmed: int) -> PositionTrimmed:
    """The error of a reader that stands below what retention removed."""
    return PositionTrimmed(
        f"events after position {after} were asked for, and retention has removed events up to "
        f"position {trimmed}: those between are missing. Rebuild what you derive from them (from "
        f"a snapshot, or from the state), and go on with after={trimmed}",
        position=after,
        trimmed_to=trimmed,
    )


def standby_error() -> Unavailable:
    """The error of who would follow the log where that cannot be done."""
    return Unavailable(
        "follow the log: this server is a hot standby: nobody rings there, and nobody can tell "
        "which positions are final. Subscribe at the primary; memory.events.read works here"
    )


def open_letter(text: str, zone: tzinfo) -> Row | None:
    """The event that came with the doorbell, as a row; None if it is no letter that we know."""
    try:
        content = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(content, list) or len(content) != len(_LETTER_COLUMNS) + 1:
        return None
    if content[0] != _LETTER_FORM:
        return None
    row = content[1:]
    # Anybody who knows the channel can ring with anything.
    if not all(type(value) in kinds for value, kinds in zip(row, _LETTER_COLUMNS, strict=True)):
        return None
    try:
        for moment in (RECORDED_AT, STATE_EXPIRES_AT):
            if row[moment] is not None:
                row[moment] = datetime.fromisoformat(row[moment]).astimezone(zone)
    except (ValueError, OverflowError):
        return None
    return tuple(row)


def row_bytes(row: Row) -> int:
    """About how much memory a row takes."""
    return 500 + len(row[PAYLOAD]) + len(row[METADATA] or "") + len(row[STATE_VALUE] or "")


class PageSize:
    """How many events to ask for: as many as fit a few megabytes, judged by those just read."""

    def __init__(self) -> None:
        self.limit = PAGE_FIRST

    def learn(self, rows: Sequence[Row]) -> None:
        """Take in a page."""
        if rows:
            some = rows[:: len(rows) // 20 + 1]
            fitting = PAGE_BYTES * len(some) // sum(map(row_bytes, some))
            self.limit = max(1, min(PAGE_MOST, 2 * self.limit, fitting))
