# Generated from pgmem/core/retry.py by tools/generate_sync.py. Do not edit.
"""Decide what follows each way that an op can fail on a pooled connection.

::

    lost connection ─┬─ READ, IDEMPOTENT ─► execute again on another connection
                     ├─ CONDITIONAL ──────► execute again; if that is a conflict, it may be with
                     │                      the first execution's own write: OutcomeUnknown
                     └─ UNSAFE ───────────► OutcomeUnknown
    serialization failure, deadlock, ─────► execute again: the server undid the statement
    full notification queue ──────────────► the same, without a notification
    lost race ────────────────────────────► execute again: a new snapshot shows the winner
"""

from __future__ import annotations

import random
import time
from typing import Any, TypeVar

import psycopg

from pgmem._sync.core.connection import AnswerTimeoutError, Connection
from pgmem._sync.core.database import Database
from pgmem.core.op import Op, Retry, RetryStatement
from pgmem.core.sqlstates import (
    is_disconnect,
    is_full_queue,
    is_repeatable,
    is_version_race,
    translate,
)
from pgmem.core.statements import NotifyMode
from pgmem.errors import Conflict, OutcomeUnknown, TransactionConflict, Unavailable

T = TypeVar("T")

LEAST_TIMEOUT = 0.05
"""Seconds that the server gets to answer if a connection came late."""

MAX_RACES = 50
MAX_REPEATS = 10


def jitter(attempt: int) -> float:
    """Return a pause in seconds with full jitter: up to 2 ms, doubling, at most 100 ms."""
    return random.uniform(0, min(0.1, 0.002 * 2**attempt))  # noqa: S311  # no secret


def is_lost(connection: psycopg.Connection[Any], error: psycopg.Error) -> bool:
    """Return True if the connection is gone, and with it the answer."""
    return is_gone(connection) or is_disconnect(error)


def is_gone(connection: psycopg.Connection[Any]) -> bool:
    """Return True if the connection was closed or given up."""
    return connection.closed or (isinstance(connection, Connection) and connection.given_up)


class ConnectionLostError(Exception):
    """The connection was lost, or given up, while a statement was under way."""


def is_timeout(failure: BaseException) -> bool:
    """Return True if the server did not answer in time."""
    return isinstance(failure.__cause__, AnswerTimeoutError)


FAILURES = (RetryStatement, ConnectionLostError, psycopg.Error)


def fallback_of(op: Op[T], failure: Exception) -> Op[T]:
    """Return the op to execute after a failure of `op`."""
    return op.fallback(isinstance(failure, ConnectionLostError)) if op.fallback else op


class Attempts:
    """Decide after each failure of an op on a pooled connection.

    Attributes:
        notify: the mode of the next execution.
    """

    def __init__(self, database: Database, op: Op[Any], deadline: float) -> None:
        self._database = database
        self._op = op
        self._deadline = deadline
        self._reason = ""
        self._unknown = False
        self._repeats = 0
        self.notify: NotifyMode = "if_free"

    def after(self, failure: Exception) -> float:
        """Return the pause before the next execution, in seconds, or raise the caller's error.

        Raises:
            OutcomeUnknown, Unavailable, TransactionConflict: there is no next execution.
            PgmemError: the server's error.
        """
        self._repeats += 1
        pause = 0.0 if self._repeats == 1 else jitter(self._repeats)
        if isinstance(failure, ConnectionLostError):
            self._after_loss(failure)
            return pause
        if isinstance(failure, RetryStatement) or is_version_race(failure):
            if self._repeats > MAX_RACES:
                raise TransactionConflict(
                    f"{self._op.action}: lost {MAX_RACES} races in a row. Try again later"
                ) from None
            return pause
        if is_full_queue(failure) and self.notify != "never":
            self._database.pause_notify()
            self.notify = "never"
            return 0.0
        if is_repeatable(failure) and self._repeats < MAX_REPEATS:
            return pause
        raise translate(failure, self._op.action) from None

    def hides_success(self, error: Conflict | Unavailable) -> bool:
        """Return True if an earlier execution, whose answer was lost, may have taken effect."""
        retry = self._op.retry
        if not self._unknown or retry is Retry.READ:
            return False
        return isinstance(error, Unavailable) or retry is Retry.CONDITIONAL

    def _after_loss(self, failure: ConnectionLostError) -> None:
        timed_out = is_timeout(failure)
        where = self._database.where
        self._reason = (
            f"{where} did not answer within {self._database.timeout:g} s"
            if timed_out
            else f"the connection to {where} was lost while it was under way"
        )
        if self._op.retry is Retry.UNSAFE:
            raise self.outcome_unknown() from None
        self._unknown = True
        if time.monotonic() > self._deadline:
            if self._op.retry is not Retry.READ:
                raise self.outcome_unknown() from None
            raise Unavailable(
                f"{self._op.action}: {self._reason} (try {self._repeats}). Try again later"
            ) from None

    def outcome_unknown(self) -> OutcomeUnknown:
        """Return the error for a lost answer."""
        return OutcomeUnknown(
            f"{self._op.action}: {self._reason}, so it may or may not have happened. Read back "
            f"before writing again. With an idempotency key or an expected version a repeat is "
            f"harmless"
        )
