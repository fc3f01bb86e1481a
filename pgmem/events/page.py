"""Pages of the log: read events forwards, with what a reader must know beside them.

The first row of each page tells where the log is: how far positions have been drawn, on which
timeline, and what retention has removed. It comes from the snapshot of the events, so nothing can
happen between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgmem.core.history import Comparison, Given, compare
from pgmem.core.op import Op, Row
from pgmem.core.validation import MAX_POSITION, check_count, check_position
from pgmem.errors import PositionTrimmed, Unavailable
from pgmem.events.columns import (
    AGENT_ID,
    METADATA,
    PAYLOAD,
    POSITION,
    RECORDED_AT,
    STATE_VALUE,
    STATE_VERSION,
    TYPE,
    VERSION,
)
from pgmem.events.filter import EVERYTHING, EventFilter

ALWAYS = "-infinity"
"""Report every trim, however old."""
NEVER = "infinity"
"""Report no trim: the reader begins with the oldest event that is kept."""
UNDATED = "290000-01-01 00:00:00+00"
"""Report only a trim that has no time yet: see `pgmem.retention.ops`."""

NEWEST = 1_000
"""Number of the newest positions that are remembered when following begins."""

PAGE_BYTES = 4 * 1024 * 1024
PAGE_FIRST, PAGE_MOST = 200, 2_000


class PageHead(NamedTuple):
    """Where the log is.

    Attributes:
        head: the highest position that was drawn.
        timeline: the log's timeline; None on a standby.
        trimmed: retention has removed selected events above `after`, up to this position; or None.
        now: the server's time.
        lsn: the server's WAL position. Everything visible was committed before it.
    """

    head: int
    timeline: int | None
    trimmed: int | None
    now: datetime
    lsn: str | None


class PollRequest(NamedTuple):
    """The question of a poll, fixed when it is sent.

    Attributes:
        seen: events above this position.
        gaps: events in these ranges: the lowest and the highest position of each, in order.
        void_to: what is missing up to here and not found by the poll was rolled back.
        limit: the most events above `seen`.
        late_limit: the most events in the gaps, the first ones.
    """

    seen: int
    gaps: tuple[tuple[int, int], ...]
    void_to: int
    limit: int
    late_limit: int


class Page(NamedTuple):
    """A part of the log. The events are rows, in order."""

    head: PageHead
    rows: list[Row]


def _parse(rows: Sequence[Row]) -> Page:
    front, *events = rows
    if front[POSITION] != 0:
        front = next(row for row in rows if row[POSITION] == 0)
        events = [row for row in rows if row is not front]
    timeline = None if front[TYPE] is None else int(front[TYPE], 16)
    head = _new(
        PageHead,
        (front[VERSION], timeline, front[STATE_VERSION], front[RECORDED_AT], front[AGENT_ID]),
    )
    return _new(Page, (head, events))


_new = tuple.__new__  # Without the check of a NamedTuple's arguments.


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
    if type(after) is not int or not 0 <= after <= MAX_POSITION:
        check_position(after, "after")
    if type(until) is not int or not 0 <= until <= MAX_POSITION:
        check_position(until, "until")
    check_count(limit, "limit", minimum=1, maximum=100_000)
    return Op(
        "event_page",
        {**wanted.params(), "after": after, "until": until, "since": since, "limit": limit},
        _parse,
        "read events",
        fragments=wanted.fragments(in_order=True),
    )


def read_new(request: PollRequest) -> Op[Page]:
    """Read what is new: events in the open gaps, and events above everything seen."""
    gaps = request.gaps
    if not gaps:
        return read_page(EVERYTHING, after=request.seen, limit=request.limit, since=ALWAYS)
    return Op(
        "event_new",
        {
            "after": gaps[0][0] - 1,
            "seen": request.seen,
            "since": ALWAYS,
            "low": [low for low, _ in gaps],
            "high": [high for _, high in gaps],
            "limit": request.limit,
            "late": request.late_limit,
        },
        _parse,
        "follow the log",
        fragments=(("trimmed", ""),),
    )


def read_recorded(followed: Sequence[Given]) -> Op[Comparison]:
    """Check that the log holds these events, and no others between them.

    Args:
        followed: position and `recorded_at` of each, in order.
    """
    return _comparison("event_recorded", followed, {"high": followed[-1][0]})


def read_given(read: Sequence[Given]) -> Op[Comparison]:
    """Check that the log holds these events. There may be others between them.

    Args:
        read: position and `recorded_at` of each, in order.
    """
    return _comparison("event_given", read, {"positions": [position for position, _ in read]})


def _comparison(statement: str, given: Sequence[Given], params: dict[str, Any]) -> Op[Comparison]:
    def parse(rows: Sequence[Row]) -> Comparison:
        return compare(given, [(row[0], row[1]) for row in rows[1:]], rows[0][2])

    return Op(
        statement,
        {"low": given[0][0], **params},
        parse,
        "check that the log holds what was read",
    )


def read_newest(position: int) -> Op[list[Given]]:
    """Read position and `recorded_at` of the newest events up to a position, in order."""
    return Op(
        "event_recorded",
        {"low": max(1, position - NEWEST + 1), "high": position},
        lambda rows: [(row[0], row[1]) for row in rows[1:]],
        "read when the newest events were recorded",
    )


def trimmed_error(after: int, trimmed: int) -> PositionTrimmed:
    """Return the error of a reader whose next events retention has removed."""
    return PositionTrimmed(
        f"events after position {after} were asked for, and retention has removed events up to "
        f"position {trimmed}: those between are missing. Rebuild what you derive from them (from "
        f"a snapshot, or from the state), and go on with after={trimmed}",
        position=after,
        trimmed_to=trimmed,
    )


def standby_error() -> Unavailable:
    """Return the error of a reader that would follow the log on a standby."""
    return Unavailable(
        "follow the log: this server is a hot standby. It delivers no notifications and does not "
        "show the primary's writers. Subscribe at the primary; memory.events.read works here"
    )


def row_bytes(row: Row) -> int:
    """Estimate the memory that a row takes."""
    return 500 + len(row[PAYLOAD]) + len(row[METADATA] or "") + len(row[STATE_VALUE] or "")


class PageSize:
    """Chooses a page's limit: as many events as fit in a few megabytes.

    Attributes:
        limit: the number of events to ask for.
    """

    def __init__(self) -> None:
        self.limit = PAGE_FIRST

    def learn(self, rows: Sequence[Row]) -> None:
        """Adapt the limit to the sizes of the events of a page."""
        if rows:
            some = rows[:: len(rows) // 20 + 1]
            fitting = PAGE_BYTES * len(some) // sum(map(row_bytes, some))
            self.limit = max(1, min(PAGE_MOST, 2 * self.limit, fitting))
