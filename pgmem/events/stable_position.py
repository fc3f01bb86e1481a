"""Up to which position the log is final.

Positions come from a sequence, and transactions commit in another order: position 8 may be
visible while 7 is still being written. A reader that went on from 8 would never see 7. So a
forward read ends at the frontier: the highest position at and below which nothing can still
appear.

::

    positions   1 2 3 4 5 . 7 8 . 10        "." not visible: being written, or rolled back
                        ^ frontier        head = 10

    contiguity: no position is missing between the frontier and p  ->  frontier = p
    locks:      read the head, then who holds the writers' lock on the table. A writer takes that
                lock before it draws a position and becomes visible before it releases it. Once
                each of those holders has been seen gone, every position up to that head is either
                visible to a statement that begins now, or was rolled back  ->  frontier = head

Writers never wait for readers, and a transaction that does not write events costs nothing.
(Method: DESIGN.md, section 5. The order of the reads matters: head, then locks, then rows.)

No I/O here: the caller brings what it read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pgmem.core.op import Op

CONTIGUITY_WINDOW = 5_000

_PREPARED = "-1/"
"""How pg_locks names the holder of a prepared transaction's locks."""


class Writers(NamedTuple):
    """Who may still be writing.

    Attributes:
        head: the highest position drawn, read before the locks.
        holders: the virtual transactions that hold the writers' lock.
    """

    head: int
    holders: frozenset[str]


class StablePosition:
    """What one process knows about finality. It grows for as long as the server does not crash:
    a position that was void may be drawn again after that.

    Attributes:
        position: everything up to it is final.
    """

    def __init__(self, position: int = 0) -> None:
        self.position = position

    def raise_to(self, position: int) -> None:
        """Everything up to `position` is known to be final."""
        self.position = max(self.position, position)

    def forget(self, position: int = 0) -> None:
        """Only what is up to `position` is still certain: the server may have crashed."""
        self.position = min(self.position, position)

    def follow(self, positions: Iterable[int]) -> None:
        """Go on over visible positions, in order, for as long as none is missing."""
        for position in positions:
            if position == self.position + 1:
                self.position = position
            elif position > self.position:
                return


class WriterBarrier:
    """Waits for the writers of one moment to be gone."""

    def __init__(self) -> None:
        self._awaited: frozenset[str] = frozenset()
        self._head = 0

    def observe(self, writers: Writers) -> int:
        """Take in who writes now; returns a position up to which everything is now final.

        A transaction that is prepared (two-phase commit) changes its name in the lock table. So a
        prepared one that was not there before may be one that we wait for: wait for it too.
        """
        final = 0
        if self._awaited:
            renamed = {holder for holder in writers.holders if holder.startswith(_PREPARED)}
            self._awaited = (self._awaited & writers.holders) | renamed
            if not self._awaited:
                final = self._head
        if not self._awaited:
            self._awaited, self._head = writers.holders, writers.head
            if not self._awaited:
                final = max(final, writers.head)
        return final


def read_writers() -> Op[Writers]:
    """Read the head, then who holds the writers' lock."""

    def parse(rows: Sequence[tuple[int, list[str]]]) -> Writers:
        head, holders = rows[0]
        return Writers(head, frozenset(holders))

    return Op("event_writers", {}, parse, "see who is writing events")


def read_positions(after: int) -> Op[list[int]]:
    """Read the visible positions above one, in order, to see whether one is missing."""
    return Op(
        "event_positions",
        {"after": after, "limit": CONTIGUITY_WINDOW},
        lambda rows: [position for (position,) in rows],
        "see how far the log has no gap",
    )
