# Generated from pgmem/core/coalesce.py by tools/generate_sync.py. Do not edit.
"""Execute concurrent calls of one process together.

Brief reads that have queued are sent on one connection before the first is answered, with one Sync.
Small appends that have queued leave as one statement and one transaction, so they share a WAL
flush, too: group commit in the client. If a statement fails, each caller executes its own op alone,
so the error of one never reaches another.

What may wait for a row lock does not come here, because it would hold up the others. Through a
pooler reads are executed alone, because not every pooler passes on several statements at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg

from pgmem._sync.core.connection import AnswerTimeoutError
from pgmem._sync.core.database import Database
from pgmem._sync.core.retry import LEAST_TIMEOUT, ConnectionLostError, is_lost
from pgmem.core.call_queue import Call, CallQueue, Outcome
from pgmem.core.op import Merge, Op
from pgmem.errors import OutcomeUnknown, PgmemError, Unavailable

ADMITTED = 4
"""How many calls of one kind are executed at once before calls queue. With 2, three tasks made half
as many calls as without a queue."""

PARALLEL = 2
"""How many statements of one kind are under way, at most, when what has queued is executed."""

MOST_CALLS = 256
"""How many calls are executed together at most."""


class ExecuteAloneError(Exception):
    """The op was not executed with others: execute it alone."""


class Coalescer:
    """Execute together the calls of one kind that have queued.

    Args:
        database: the connections.
        execute: execute one op once, until a deadline.
    """

    def __init__(self, database: Database, execute: Callable[[Op[Any], float], Any]) -> None:
        self._database = database
        self._execute = execute
        self._queues: dict[Merge | None, CallQueue] = {}

    @property
    def queues(self) -> list[CallQueue]:
        """The queues, one for each kind of op that has been executed."""
        return list(self._queues.values())

    def queue_of(self, op: Op[Any]) -> CallQueue | None:
        """Return the queue of the ops that can be executed with this one; None if none can."""
        if op.merge is None and (not op.brief or self._database.pooled):
            return None
        queue = self._queues.get(op.merge)
        if queue is None:
            execute = self._execute_reads
            if op.merge is not None:
                execute = partial(self._execute_merged, op.merge)
            made = CallQueue(
                execute, self._expired, admitted=ADMITTED, parallel=PARALLEL, most=MOST_CALLS
            )
            queue = self._queues.setdefault(op.merge, made)
        return queue

    def _execute_reads(self, calls: Sequence[Call]) -> list[Outcome]:
        database = self._database
        deadline = max(call.deadline for call in calls)
        if len(calls) == 1:
            return [ExecuteAloneError() for _ in calls]
        try:
            connection = database.acquire(calls[-1].op.action, deadline)
        except PgmemError:
            return [ExecuteAloneError() for _ in calls]
        query = partial(database.statement, notify="if_free", relaxed=database.relaxed)
        connection.answer_timeout = max(LEAST_TIMEOUT, deadline - time.monotonic())
        try:
            [answer] = connection.run_units([[(query(call.op), call.op.params) for call in calls]])
        except psycopg.Error as error:
            if not is_lost(connection, error):
                return [ExecuteAloneError() for _ in calls]
            connection.give_up()
            return [_lost(error) for _ in calls]
        finally:
            connection.answer_timeout = None
            database.release(connection)
        if isinstance(answer, Exception):
            return [ExecuteAloneError() for _ in calls]
        return list(answer)

    def _execute_merged(self, merge: Merge, calls: Sequence[Call]) -> list[Outcome]:
        merged = merge([call.op for call in calls])
        deadline = max(call.deadline for call in calls)
        try:
            outcomes: list[Outcome] = self._execute(merged, deadline)
        except ConnectionLostError as error:
            return [_lost(error.__cause__) for _ in calls]
        except OutcomeUnknown:
            return [self._database.unconfirmed(call.op.action) for call in calls]
        except (PgmemError, psycopg.Error):  # Nothing was appended.
            return [ExecuteAloneError() for _ in calls]
        return outcomes

    def _expired(self, call: Call) -> Exception:
        """Return the error of a call that got no answer in time."""
        database = self._database
        if call.sent:
            return _lost(AnswerTimeoutError(f"no answer within {database.timeout:g} s"))
        return Unavailable(
            f"{call.op.action}: no connection to {database.where} within {database.timeout:g} s. "
            f"The server is down, or too slow for the calls of this process"
        )


def _lost(cause: BaseException | None) -> ConnectionLostError:
    error = ConnectionLostError()
    error.__cause__ = cause
    return error
