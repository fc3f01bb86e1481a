"""Identify the history of the log: the server and its timeline."""

from __future__ import annotations

from typing import NamedTuple

from pgmem.core.op import Op
from pgmem.errors import HistoryRewritten


class History(NamedTuple):
    """The history that a position belongs to.

    Attributes:
        system_identifier: of the server's cluster.
        timeline: of the cluster's log; it changes when a replica is promoted. None on a standby.
    """

    system_identifier: int
    timeline: int | None


def read_history() -> Op[History]:
    """Read the present history of the log."""
    return Op(
        "history_read",
        {},
        lambda rows: History(*rows[0]),
        "read the history of the log",
    )


def lost_error(history: History, position: int) -> HistoryRewritten:
    """Return the error for events that were read and are not in the log any more."""
    return HistoryRewritten(
        f"events up to position {position} were read, and the log does not hold all of them any "
        f"more: the server has crashed, and lost what was committed with durability='relaxed' (or "
        f"synchronous_commit off) shortly before. Their positions stand for others now. Compare "
        f"what you have done since, and subscribe again from where the two still agree",
        position=position,
        expected=history,
        found=history,
    )


def rewritten_error(
    known: History, found: History, position: int | None = None
) -> HistoryRewritten:
    """Return the error for positions that belong to another history of the log."""
    return HistoryRewritten(
        f"the log has another history than the one that this reader followed"
        f"{'' if position is None else f' up to position {position}'}: server "
        f"{known.system_identifier}, timeline {known.timeline} before; server "
        f"{found.system_identifier}, timeline {found.timeline} now (a failover, or a restored "
        f"backup). Events that were read may be gone, and their positions stand for others. "
        f"Compare what you have done since, then open a new Memory and choose where to go on",
        position=position,
        expected=known,
        found=found,
    )
