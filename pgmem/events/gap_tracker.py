"""The end of the log: which of the events seen there are final, and what is still to be read.

::

    positions   … 40 41 42  .  44 45  .  .  48        "." not visible: being written, or rolled back
                      ^     └gap┘     └gap┘  ^
               position = 42                 seen = 48; 44, 45 and 48 are pending

    a look   reads what is in the gaps now, and what is behind `seen`. Without a gap, all of it is
             final at once, and `position` = `seen`: the head of the log, nothing is in flight.
    a gap    is filled by a later look: its writer has committed; or is void: its writers are gone
             (`pgmem.events.stable_position.Watch`), and a look that began after that did not find
             it.

Each position is read once, however long a gap stays open. (Method: DESIGN.md, section 5.)

No I/O and no clock here: the caller brings what it read, and decides when to look.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pgmem.core.op import Row
from pgmem.events.page import Page, row_bytes
from pgmem.events.stable_position import WriterBarrier, Writers

MAX_PENDING_BYTES = 32 * 1024 * 1024
"""No more is read behind a gap than so much; what follows is read when the gap is resolved."""
_FEW = 20

MAX_AHEAD = 1_000
MANY_GAPS = 16
"""An event that arrives by itself is left to a look if it is further ahead, or where there are more
gaps: one look takes in many events for the price of a few."""


class PollResult(NamedTuple):
    """What a look brought.

    Attributes:
        seen: events that were not seen before, final or not.
        final: events that have become final, in order; all in front of them were given before.
    """

    seen: Sequence[Row]
    final: Sequence[Row]


class GapTracker:
    """Follows the end of the log from a position on, below which everything is known.

    Attributes:
        position: everything up to it is final, and was given out.
        seen: everything up to it was looked at; what was not there is in `gaps`.
        gaps: ranges of positions that were not visible, in order.
        last_event: the last event that was given out; None if there was none yet.
    """

    def __init__(self, position: int, last_event: int | None = None) -> None:
        self.position = position
        self.last_event = last_event
        self.seen = position
        self.gaps: list[tuple[int, int]] = []
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._watch = WriterBarrier()
        self._void_to = 0

    @property
    def full(self) -> bool:
        """Whether so much is pending that nothing more should be read behind the gaps."""
        return self._pending_bytes > MAX_PENDING_BYTES

    def accept(self, row: Row) -> PollResult | None:
        """Take in an event that arrived by itself; None if it is known, or better left to a look.

        It was committed before it was sent. Positions that it leaves out are a gap like any
        other: the next look asks for them.
        """
        position = row[0]
        if len(self.gaps) > MANY_GAPS:
            return None
        if position > self.seen:
            if position > self.seen + MAX_AHEAD or self.full:
                return None
            self.gaps += _between(self.seen, (row,), position)
            self.seen = position
            return self._settle([], [row])
        if not any(low <= position <= high for low, high in self.gaps):
            return None
        self.gaps = list(_without(self.gaps, (row,)))
        return self._settle([row], [])

    def forgotten(self) -> GapTracker | None:
        """The tail as it is known when the server may have crashed; None if nothing is.

        A position that was drawn, but never committed, may be drawn again after a crash: only a
        commit makes the sequence's progress durable. What was void may become an event, so only
        the events themselves are certain.
        """
        return None if self.last_event is None else GapTracker(self.last_event, self.last_event)

    def observe(self, writers: Writers) -> None:
        """Take in who writes. What the next look does not find of what is resolved now is void."""
        self._void_to = max(self._void_to, self._watch.observe(writers))

    def take(self, page: Page, *, limit: int, late_limit: int) -> PollResult:
        """Take in what a look has found.

        Args:
            page: the events in the gaps, and behind `seen`.
            limit: how many were asked for behind `seen`.
            late_limit: how many were asked for in the gaps.
        """
        late = [row for row in page.rows if row[0] <= self.seen]
        new = [row for row in page.rows if row[0] > self.seen]
        last = new[-1][0] if new else self.seen
        covered = last if len(new) >= limit else max(page.head.head, last)
        # Where there was more in the gaps than was asked for, the rest is not known.
        asked_to = late[-1][0] if len(late) >= late_limit else self.seen
        void_to = min(self._void_to, asked_to)
        self.gaps = [
            *_above(void_to, _without(self.gaps, late)),
            *_above(self._void_to, _between(self.seen, new, covered)),
        ]
        self.seen = covered
        return self._settle(late, new)

    def _settle(self, late: list[Row], new: list[Row]) -> PollResult:
        """Give out what no gap is in front of."""
        seen = [*late, *new]
        pending = self._pending
        # A gap may stay open for long: what is pending is not gone through at each look. Rows
        # compare by their positions, and `new` is behind all of them.
        if len(late) > _FEW:
            pending += late
            pending.sort()
        else:
            for row in late:
                insort(pending, row)
        pending += new
        self._pending_bytes += sum(map(row_bytes, seen))
        if not self.gaps:
            self._watch, self._void_to = WriterBarrier(), 0
            self.position, self._pending, self._pending_bytes = self.seen, [], 0
            self._note_last(pending)
            return PollResult(seen, pending)
        first_gap = self.gaps[0][0]
        self.position = first_gap - 1
        final = pending[: bisect_left(pending, (first_gap,))]
        del pending[: len(final)]
        self._pending_bytes -= sum(map(row_bytes, final))
        self._note_last(final)
        return PollResult(seen, final)

    def _note_last(self, final: Sequence[Row]) -> None:
        if final:
            self.last_event = final[-1][0]


def _above(void_to: int, gaps: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """What is left of the gaps when all up to `void_to` is known never to come."""
    return ((max(low, void_to + 1), high) for low, high in gaps if high > void_to)


def _between(seen: int, rows: Iterable[Row], covered: int) -> Iterable[tuple[int, int]]:
    """The ranges that are missing between `seen` and `covered`."""
    for row in rows:
        if row[0] > seen + 1:
            yield seen + 1, row[0] - 1
        seen = row[0]
    if covered > seen:
        yield seen + 1, covered


def _without(gaps: Iterable[tuple[int, int]], rows: Sequence[Row]) -> Iterable[tuple[int, int]]:
    """What is left of the gaps when some events in them have appeared, in the gaps' order."""
    found = sorted(row[0] for row in rows)
    at = 0
    for low, high in gaps:
        start = low
        while at < len(found) and found[at] <= high:
            if found[at] > start:
                yield start, found[at] - 1
            start = found[at] + 1
            at += 1
        if start <= high:
            yield start, high
