# Generated from pgmem/core/retry.py by tools/generate_sync.py. Do not edit.
"""What to do after each way that an op can fail, on a connection of the pool.

::

    lost connection      reads            run again on another connection
                         HARMLESS         run again
                         GUARDED          run again; a conflict then may be our own first run:
                                          OutcomeUnknown
                         HARMFUL          OutcomeUnknown
    serialization/deadlock, full queue    run again (the server undid it)
    lost race                             run again (a new snapshot sees who won)

Runs nothing, and does not know what the ops do.
"""

from __future__ import annotations

import random
import time
from typing import Any, TypeVar

import psycopg

from pgmem._sync.core.database import Database
from pgmem._sync.core.pool import NoAnswer
from pgmem.core.op import Op, Retry, RetryStatement
from pgmem.core.sqlstates import (
    is_disconnect,
    is_full_queue,
    is_repeatable,
    is_version_race,
    translate,
)
from pgmem.core.statements import NotifyMode
from pgmem.errors import (
    Conflict,
    OutcomeUnknown,
    TransactionConflict,
    Unavailable,
)

T = TypeVar("T")

MAX_RACES = 50
MAX_REPEATS = 10


def _pause(attempt: int) -> float:
    """Full jitter: up to 2 ms at first, doubling, at most 100 ms."""
    return random.uniform(0, min(0.1, 0.002 * 2**attempt))  # noqa: S311  # no secret


def is_lost(link: psycopg.Connection[Any], error: psycopg.Error) -> bool:
    """Whether the connection is gone, and with it the answer."""
    return link.closed or is_disconnect(error) or isinstance(error, NoAnswer)


class Lost(Exception):
    """The connection went away while a statement was under way."""


FAILURES = (RetryStatement, Lost, psycopg.Error)


def fallback_of(op: Op[T], failure: Exception) -> Op[T]:
    return op.fallback(isinstance(failure, Lost)) if op.fallback else op


class Attempts:
    """What to do after each way that an op can fail.

    Attributes:
        bell: how the next run rings.
    """

    def __init__(self, database: Database, op: Op[Any]) -> None:
        self._database = database
        self._op = op
        self._deadline = time.monotonic() + database.timeout
        self._unknown = False
        self._repeats = 0
        self.bell: NotifyMode = "try"

    def after(self, failure: Exception) -> float:
        """Give the seconds to wait before the next run, or raise what the caller gets.

        Raises:
            OutcomeUnknown, Unavailable, TransactionConflict: there is no next run.
            PgmemError: what the server said.
        """
        self._repeats += 1
        pause = 0.0 if self._repeats == 1 else _pause(self._repeats)
        if isinstance(failure, Lost):
            self._after_loss()
            return pause
        if isinstance(failure, RetryStatement) or is_version_race(failure):
            self._give_up_after(MAX_RACES)
            return pause
        if is_full_queue(failure) and self.bell != "silent":
            self._database.rest_bell()
            self.bell = "silent"
            return 0.0
        if is_repeatable(failure) and self._repeats < MAX_REPEATS:
            return pause
        raise translate(failure, self._op.action) from None

    def hides(self, error: Conflict | Unavailable) -> bool:
        """Whether the truth may be that an earlier run, whose answer was lost, took effect."""
        retry = self._op.retry
        if not self._unknown or retry is Retry.READS:
            return False
        return isinstance(error, Unavailable) or retry is Retry.GUARDED

    def _give_up_after(self, most: int) -> None:
        if self._repeats > most:
            raise TransactionConflict(
                f"{self._op.action}: lost {most} races in a row. Try again later"
            ) from None

    def _after_loss(self) -> None:
        if self._op.retry is Retry.HARMFUL:
            raise self.outcome_unknown() from None
        self._unknown = True
        if time.monotonic() > self._deadline:
            if self._op.retry is not Retry.READS:
                raise self.outcome_unknown() from None
            raise Unavailable(
                f"{self._op.action}: the connection to {self._database.where} was lost "
                f"{self._repeats} times within {self._database.timeout:g} s. Try again later"
            ) from None

    def outcome_unknown(self) -> OutcomeUnknown:
        """The error that tells the caller so."""
        return OutcomeUnknown(
            f"{self._op.action}: the connection to {self._database.where} was lost while it was "
            f"under way: it may or may not have happened. Read back before writing again; an "
            f"idempotency key or an expected version makes a repeat harmless"
        )
