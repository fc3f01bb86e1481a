"""Track the end of the log: which events are stable, and which positions are missing.

::

    positions   … 40 41 42  .  44 45  .  .  48        "." not visible: being written, or rolled back
                      ^     └gap┘     └gap┘  ^
               position = 42                 seen = 48; 44, 45 and 48 are pending

    a poll   reads the events in the gaps, and those above `seen`. Without a gap all of them are
             stable at once, and `position` = `seen`: the head of the log, with no open writer.
    a gap    is filled by a later poll after its writer has committed. It is void if its writers are
             gone (`pgmem.events.stable_position.WriterBarrier`) and a poll that began after that
             does not find it.

Each position is read once, however long a gap stays open. Inlined events are accepted while a poll
is under way: a poll is judged by what was asked (`PollRequest`), and what is known by then is left
out. The tracker does no I/O and has no clock: the caller brings what it read, and decides when to
poll.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pgmem.core.op import Row
from pgmem.events.page import Page, PollRequest, row_bytes
from pgmem.events.stable_position import WriterBarrier, Writers

MAX_PENDING_BYTES = 32 * 1024 * 1024
"""Limit of what is read above a gap. The rest is read after the gap is resolved."""
_FEW = 20

MAX_AHEAD = 1_000
MANY_GAPS = 16
"""An inlined event that is more than `MAX_AHEAD` positions ahead, or arrives while there are more
gaps, is left to a poll: one poll reads many events at the cost of a few."""


class PollResult(NamedTuple):
    """The outcome of a poll or of an inlined event.

    Attributes:
        seen: events that were not seen before, stable or not.
        stable: events that became stable, in order. All events in front of them were returned.
    """

    seen: Sequence[Row]
    stable: Sequence[Row]


class GapTracker:
    """Tracks the end of the log from a stable position on.

    Attributes:
        position: everything up to it is stable, and was returned.
        seen: everything up to it was read; what was missing is in `gaps`.
        gaps: ranges of positions that were not visible, in order.
        last_event: position of the last event that was returned; None if there was none.
    """

    def __init__(self, position: int, last_event: int | None = None) -> None:
        self.position = position
        self.last_event = last_event
        self.seen = position
        self.gaps: list[tuple[int, int]] = []
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._barrier = WriterBarrier()
        self._void_to = 0

    @property
    def full(self) -> bool:
        """True if so much is pending that a poll should read nothing above the gaps."""
        return self._pending_bytes > MAX_PENDING_BYTES

    @property
    def pending(self) -> Sequence[Row]:
        """The events that wait for a gap, in order."""
        return self._pending

    def accept(self, row: Row) -> PollResult | None:
        """Accept an inlined event. Return None if it is left to a poll.

        It was committed before it was sent. Positions in front of it that are missing become a
        gap. The result is empty if the event is known.
        """
        position = row[0]
        if position == self.seen + 1 and not self.gaps:
            self.position = self.seen = self.last_event = position
            return PollResult((row,), (row,))
        if position > self.seen:
            crowded = len(self.gaps) > MANY_GAPS
            if crowded or position > self.seen + MAX_AHEAD or self.full:
                return None
            self.gaps += _between(self.seen, (row,), position)
            self.seen = position
            return self._release([], [row])
        if not _in_gaps(position, self.gaps):
            return _NOTHING
        if len(self.gaps) > MANY_GAPS:
            return None
        self.gaps = list(_without(self.gaps, (row,)))
        return self._release([row], [])

    def rewound(self) -> GapTracker | None:
        """Return a tracker at the last position that is certain after a crash, or None.

        After a crash of the server, a position that was drawn and never committed may be drawn
        again, because only a commit makes the sequence's progress durable. A void position may
        so become an event. Only the events themselves are certain.
        """
        return None if self.last_event is None else GapTracker(self.last_event, self.last_event)

    def observe(self, writers: Writers) -> bool:
        """Take in the open writers. Return True if a poll may find what the last one did not.

        What the next poll does not find at or below the positions of writers that are gone is void.
        """
        awaited = self._barrier.awaited
        stable = self._barrier.observe(writers)
        self._void_to = max(self._void_to, stable)
        return stable > 0 or self._barrier.awaited != awaited

    def note_stable(self, position: int) -> None:
        """Note that everything up to `position` is visible to a poll that begins now, or void."""
        self._void_to = max(self._void_to, position)

    def request(self, limit: int, late_limit: int) -> PollRequest:
        """Return what a poll that is sent now asks for.

        Args:
            limit: the most events above everything seen; nothing above it is asked for while much
                is pending.
            late_limit: the most events in the gaps.
        """
        limit = 0 if self.full else limit
        return PollRequest(self.seen, tuple(self.gaps), self._void_to, limit, late_limit)

    def take(self, page: Page, request: PollRequest) -> PollResult:
        """Take in the events that a poll has read.

        Args:
            page: the events in the gaps, and those above what had been seen.
            request: what was asked.
        """
        late = [row for row in page.rows if row[0] <= request.seen]
        above = page.rows[len(late) :]
        last = above[-1][0] if above else request.seen
        covered = last if len(above) >= request.limit else max(page.head.head, last)
        # If the gaps held more events than the limit, the rest is not known.
        void_to = min(request.void_to, covered)
        if len(late) >= request.late_limit:
            void_to = min(void_to, late[-1][0])
        # An inlined event may have told of some of them meanwhile.
        found = [row for row in page.rows if row[0] <= self.seen and _in_gaps(row[0], self.gaps)]
        new = [row for row in above if row[0] > self.seen]
        covered = max(covered, self.seen)
        self.gaps = [
            *_above(void_to, _without(self.gaps, found)),
            *_above(void_to, _between(self.seen, new, covered)),
        ]
        self.seen = covered
        return self._release(found, new)

    def _release(self, late: list[Row], new: list[Row]) -> PollResult:
        """Return the events without a gap in front of them."""
        seen = [*late, *new]
        pending = self._pending
        # A gap may stay open for long, so pending rows are kept sorted instead of sorted at each
        # poll. Rows compare by their positions, and `new` is above all of them.
        if len(late) > _FEW:
            pending += late
            pending.sort()
        else:
            for row in late:
                insort(pending, row)
        pending += new
        self._pending_bytes += sum(map(row_bytes, seen))
        if not self.gaps:
            self._barrier, self._void_to = WriterBarrier(), 0
            self.position, self._pending, self._pending_bytes = self.seen, [], 0
            self._note_last(pending)
            return PollResult(seen, pending)
        first_gap = self.gaps[0][0]
        self.position = first_gap - 1
        stable = pending[: bisect_left(pending, (first_gap,))]
        del pending[: len(stable)]
        self._pending_bytes -= sum(map(row_bytes, stable))
        self._note_last(stable)
        return PollResult(seen, stable)

    def _note_last(self, stable: Sequence[Row]) -> None:
        if stable:
            self.last_event = stable[-1][0]


_NOTHING = PollResult((), ())


def _in_gaps(position: int, gaps: Sequence[tuple[int, int]]) -> bool:
    at = bisect_right(gaps, position, key=_low) - 1
    return at >= 0 and position <= gaps[at][1]


def _low(gap: tuple[int, int]) -> int:
    return gap[0]


def _above(void_to: int, gaps: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Return what is left of the gaps if every missing position up to `void_to` is void."""
    return ((max(low, void_to + 1), high) for low, high in gaps if high > void_to)


def _between(seen: int, rows: Iterable[Row], covered: int) -> Iterable[tuple[int, int]]:
    """Return the ranges that are missing between `seen` and `covered`."""
    for row in rows:
        if row[0] > seen + 1:
            yield seen + 1, row[0] - 1
        seen = row[0]
    if covered > seen:
        yield seen + 1, covered


def _without(gaps: Iterable[tuple[int, int]], rows: Sequence[Row]) -> Iterable[tuple[int, int]]:
    """Return what is left of the gaps, in order, after some events in them have appeared."""
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
