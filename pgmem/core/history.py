"""Identify the history of the log, and decide whether a reader can go on after a promotion.

A history is a cluster and its timeline. A promotion begins a new timeline at the end of what the
promoted server had replayed::

    timeline 1   ──────────●───────┼──────►       ● what a reader has seen, as a WAL position
    timeline 2             ●       └──────────►   fork

If what a reader has seen is before the fork, the new timeline holds all of it, and the reader goes
on. If it is not, or if no fork is known, the last events that were given out are compared with the
log. If they are the same, the reader goes on. Else it gets `HistoryRewritten`.

This module does no I/O: the caller brings what it read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from pgmem.core.op import Op
from pgmem.errors import HistoryRewritten

Given = tuple[int, datetime]
"""Position and `recorded_at` of an event that was given to a reader."""


class History(NamedTuple):
    """The history that a position belongs to.

    Attributes:
        system_identifier: of the server's cluster.
        timeline: of the cluster's log; it changes when a replica is promoted. None on a standby.
    """

    system_identifier: int
    timeline: int | None

    def leads_to(self, other: History) -> bool:
        """Return True if `other` may be a later timeline of this history."""
        return (
            self.system_identifier == other.system_identifier
            and self.timeline is not None
            and other.timeline is not None
            and self.timeline < other.timeline
        )


class Epoch(NamedTuple):
    """A timeline that a session has found.

    Attributes:
        timeline: the timeline.
        fork: the WAL position at which it forked off the one before; None if it is not known.
    """

    timeline: int
    fork: int | None


class Comparison(NamedTuple):
    """The result of comparing events that were given out with the log.

    Attributes:
        same: the log holds them, and no others between them.
        agrees_up_to: the highest position up to which both are the same; None if not even the
            first of the compared events is.
        lost: the positions of those that the log does not hold.
    """

    same: bool
    agrees_up_to: int | None
    lost: tuple[int, ...]


def read_history() -> Op[History]:
    """Read the present history of the log, and store it if no session has found it before."""
    return Op(
        "history_read",
        {},
        lambda rows: History(*rows[0][:2]),
        "read the history of the log",
    )


def read_epochs(known: History) -> Op[list[Epoch]]:
    """Read the timelines after a known one, in order."""
    return Op(
        "history_epochs",
        known._asdict(),
        lambda rows: [Epoch._make(row) for row in rows],
        "read where timelines forked off",
    )


def parse_lsn(text: str) -> int:
    """Return the number of a WAL position that is written as two hexadecimal numbers."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def holds_all(seen: int, epochs: Sequence[Epoch], known: History, found: History) -> bool:
    """Return True if a later timeline certainly holds what was visible at a WAL position.

    Args:
        seen: the WAL position, on the known timeline; 0 if there is none.
        epochs: the timelines after the known one. One that is not there has an unknown fork.
        known: the history that `seen` belongs to.
        found: a later timeline of the same cluster.
    """
    forks = {epoch.timeline: epoch.fork for epoch in epochs}
    if not seen or known.timeline is None or found.timeline is None:
        return False
    for timeline in range(known.timeline + 1, found.timeline + 1):
        fork = forks.get(timeline)
        if fork is None or seen > fork:
            return False
    return True


def compare(given: Iterable[Given], kept: Iterable[Given], removed_to: int) -> Comparison:
    """Compare events that were given out with those of the log.

    Args:
        given: what was given out, in order.
        kept: what the log holds in the same range, in order.
        removed_to: retention has removed events up to here, so they prove nothing.
    """
    mine = {event for event in given if event[0] > removed_to}
    there = {event for event in kept if event[0] > removed_to}
    lost = sorted(position for position, _ in mine - there)
    differing = min((position for position, _ in mine ^ there), default=None)
    agreed = [position for position, _ in mine & there if differing is None or position < differing]
    return Comparison(differing is None, max(agreed, default=removed_to or None), tuple(lost))


def combine(results: Sequence[Comparison]) -> Comparison:
    """Return the result of several comparisons as one."""
    differing = [result for result in results if not result.same]
    ends = [result.agrees_up_to for result in differing or results]
    known = [end for end in ends if end is not None]
    agrees_up_to = None
    if not differing:
        agrees_up_to = max(known, default=None)
    elif len(known) == len(ends):
        agrees_up_to = min(known)
    lost = sorted({position for result in results for position in result.lost})
    return Comparison(not differing, agrees_up_to, tuple(lost))


def rewritten_error(
    known: History,
    found: History,
    position: int | None = None,
    compared: Comparison | None = None,
) -> HistoryRewritten:
    """Return the error for positions that belong to another history of the log."""
    return HistoryRewritten(
        f"the log has another history than the one that this reader followed"
        f"{'' if position is None else f' up to position {position}'}: server "
        f"{known.system_identifier}, timeline {known.timeline} before; server "
        f"{found.system_identifier}, timeline {found.timeline} now ({_reason(known, found)})."
        f"{_extent(compared)} Compare what you have done since, and choose where to go on",
        position=position,
        expected=known,
        found=found,
        agrees_up_to=None if compared is None else compared.agrees_up_to,
        lost=() if compared is None else compared.lost,
    )


def _reason(known: History, found: History) -> str:
    if known == found:
        return (
            "the server has crashed, and lost what was committed with durability='relaxed' or "
            "synchronous_commit off shortly before"
        )
    return "a failover that lost events, or a restored backup"


def _extent(compared: Comparison | None) -> str:
    if compared is None:
        return " Events that were read may be gone, and their positions stand for others."
    if compared.agrees_up_to is None:
        return " None of the newest events that were read are in the log."
    lost = f"; {len(compared.lost)} events that were read after it are gone" * bool(compared.lost)
    return f" What was read agrees with the log up to position {compared.agrees_up_to}{lost}."
