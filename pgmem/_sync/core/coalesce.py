# Generated from pgmem/core/coalesce.py by tools/generate_sync.py. Do not edit.
"""Execute concurrent calls of one process together.

Small appends that have queued leave as one statement and one transaction, so they share a round
trip and a WAL flush: group commit in the client. If that statement fails, each caller executes its
own op alone, so the error of one never reaches another. What may wait for a lock does not come
here, because it would hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pgmem._sync.core.connection import AnswerTimeoutError
from pgmem._sync.core.database import Database
from pgmem._sync.core.retry import ConnectionLostError
from pgmem.core.call_queue import Call, CallQueue, Outcome
from pgmem.core.op import Merge, Op
from pgmem.errors import OutcomeUnknown, Unavailable

PARALLEL = 2
"""How many statements of one kind are under way before calls queue."""

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
        self._queues: dict[Merge, CallQueue] = {}

    @property
    def queues(self) -> list[CallQueue]:
        """The queues, one for each kind of op that has been executed."""
        return list(self._queues.values())

    def queue_of(self, merge: Merge) -> CallQueue:
        """Return the queue of the ops that `merge` makes one of."""
        queue = self._queues.get(merge)
        if queue is None:
            execute = partial(self._execute_merged, merge)
            made = CallQueue(execute, self._expired, parallel=PARALLEL, most=MOST_CALLS)
            queue = self._queues.setdefault(merge, made)
        return queue

    def _execute_merged(self, merge: Merge, calls: Sequence[Call]) -> list[Outcome]:
        merged = merge([call.op for call in calls])
        deadline = max(call.deadline for call in calls)
        try:
            outcomes: list[Outcome] = self._execute(merged, deadline)
        except ConnectionLostError as error:
            return [_lost(error.__cause__) for _ in calls]
        except OutcomeUnknown:
            return [self._database.unconfirmed(call.op.action) for call in calls]
        except Exception:  # whatever it is: each caller learns its own error by executing it alone
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
