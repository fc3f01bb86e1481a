"""Tell failures that the database caused from failures of the handler.

A deadlock, a lock timeout or a full pool says nothing about the event: the same handler succeeds a
moment later. So it counts as no attempt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg

from pgmem.errors import DatabaseFault, PgmemError, TransactionConflict, Unavailable

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds until a handler is called again: at most, doubled with each conflict, random."""

_STATES = frozenset({
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available: lock_timeout, NOWAIT
    "57014",  # query_canceled: statement_timeout, pg_cancel_backend
    "53300",  # too_many_connections
    "57P01", "57P02", "57P03",  # the server is shut down, has crashed, starts
    "25P03", "57P05",  # idle_in_transaction_session_timeout, idle_session_timeout
})  # fmt: skip


def is_conflict(error: BaseException) -> bool:
    """Return True if the database, and not the handler, caused a failure."""
    return any(map(_is_conflict, causes(error)))


def pause(conflicts: int) -> float:
    """Return the seconds until the handler is called again.

    Args:
        conflicts: how many there were, at least 1.
    """
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(conflicts - 1, 30))
    return random.uniform(longest / 2, longest)  # noqa: S311  # no secret


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and what a library such as SQLAlchemy wrapped."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        wrapped = getattr(found, "orig", None)
        found = wrapped if isinstance(wrapped, BaseException) else found.__cause__


def _is_conflict(error: BaseException) -> bool:
    if isinstance(error, TransactionConflict | Unavailable):
        return True
    if isinstance(error, DatabaseFault):
        return error.sqlstate in _STATES
    if isinstance(error, PgmemError):
        return False
    if isinstance(error, psycopg.Error):
        lost = error.sqlstate is None and isinstance(error, psycopg.OperationalError)
        return lost or error.sqlstate in _STATES
    return False
