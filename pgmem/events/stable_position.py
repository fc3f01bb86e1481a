"""The stable position: no event will ever appear at or below it.

Positions come from a sequence, and transactions commit in another order. Position 8 may be visible
while 7 is being written. A reader that went on after 8 would never get 7. So a forward read ends at
the stable position.

::

    positions   1 2 3 4 5 . 7 8 . 10        "." not visible: being written, or rolled back
                        ^ stable          head = 10

    contiguity: no position is missing between the stable position and p  ->  p is stable
    locks:      read the head, then the holders of the writers' lock on the table. A writer takes
                that lock before it draws a position and becomes visible before it releases it. Once
                each of those holders has been seen gone, every position up to that head is visible
                to a statement that begins now, or was rolled back  ->  that head is stable

Writers never wait for readers, and a transaction that writes no events costs nothing. The order of
the reads matters: head, then locks, then rows.

How far the log is stable stands in one place, `pgmem.events.buffer.AsyncEventBuffer`: the follower
finds it out by a `GapTracker`, and other reads of the process by what is in this module.

This module does no I/O: the caller brings what it read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pgmem.core.op import Op

CONTIGUITY_WINDOW = 5_000

_PREPARED = "-1/"
"""The beginning of a holder in pg_locks that is a prepared transaction."""


class Writers(NamedTuple):
    """The open writers.

    Attributes:
        head: the highest position that was drawn, read before the locks.
        holders: the virtual transactions that hold the writers' lock.
    """

    head: int
    holders: frozenset[str]


class WriterBarrier:
    """Finds out when all writers of one moment are gone.

    Attributes:
        awaited: those that are not gone yet.
    """

    def __init__(self) -> None:
        self.awaited: frozenset[str] = frozenset()
        self._head = 0

    def observe(self, writers: Writers) -> int:
        """Take in the open writers. Return a position that is stable now, or 0.

        A transaction that is prepared (two-phase commit) changes its name in the lock table. So a
        prepared one that was not there before may be one that is awaited, and is awaited too.
        """
        stable = 0
        if self.awaited:
            renamed = {holder for holder in writers.holders if holder.startswith(_PREPARED)}
            self.awaited = (self.awaited & writers.holders) | renamed
            if not self.awaited:
                stable = self._head
        if not self.awaited:
            self.awaited, self._head = writers.holders, writers.head
            if not self.awaited:
                stable = max(stable, writers.head)
        return stable


def contiguous_end(after: int, positions: Iterable[int]) -> int:
    """Return the last of some visible positions, given in order, before the first that is missing.

    Args:
        after: a position that is stable.
        positions: visible positions above it.
    """
    for position in positions:
        if position > after + 1:
            break
        after = max(after, position)
    return after


def read_writers() -> Op[Writers]:
    """Read the head, then the holders of the writers' lock."""

    def parse(rows: Sequence[tuple[int, list[str]]]) -> Writers:
        head, holders = rows[0]
        return Writers(head, frozenset(holders))

    return Op("event_writers", {}, parse, "read the open writers")


def read_positions(after: int) -> Op[list[int]]:
    """Read the visible positions above one, in order, to find the first that is missing."""
    return Op(
        "event_positions",
        {"after": after, "limit": CONTIGUITY_WINDOW},
        lambda rows: [position for (position,) in rows],
        "read how far the log has no gap",
    )
