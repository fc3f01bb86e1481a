"""Execute concurrent calls of one process together.

Calls of one kind that have queued leave as one statement: reads of entries by key, appends of small
events. They share a round trip and, if they write, a transaction and its WAL flush: group commit in
the client. If the statement fails, each caller executes its own op alone, so the error of one never
reaches another.

What may wait for a row lock does not come here, because it would hold up the others.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import psycopg

from pgmem.core.call_queue import AsyncCall, AsyncCallQueue, Outcome
from pgmem.core.connection import AnswerTimeoutError, AsyncConnection
from pgmem.core.database import AsyncDatabase
from pgmem.core.op import Merge, Op, Retry, Row
from pgmem.core.retry import LEAST_TIMEOUT, ConnectionLostError, is_lost
from pgmem.errors import OutcomeUnknown, PgmemError, Unavailable

ADMITTED = 4
"""How many calls of one kind are executed at once before calls queue. With 2, three tasks made half
as many calls as without a queue."""

PARALLEL = 2
"""How many statements of one kind are under way, at most, when what has queued is executed."""

FULL = 32
"""How many queued calls of tasks are sent before the event loop has resumed the others, so that the
server works meanwhile."""

MOST_CALLS = 256
"""How many calls are executed together at most."""


class ExecuteAloneError(Exception):
    """The op was not executed with others: execute it alone."""


class Sent(NamedTuple):
    """A statement for several calls.

    Attributes:
        op: what it executes.
        connection: where it was sent; None if no connection was idle, so it was not sent.
        failure: why it could not be sent.
    """

    op: Op[list[Sequence[Row]]]
    connection: AsyncConnection | None = None
    failure: psycopg.Error | None = None


class AsyncCoalescer:
    """Execute together the calls of one kind that have queued.

    Args:
        database: the connections.
        execute: execute one op once, until a deadline.
    """

    def __init__(
        self, database: AsyncDatabase, execute: Callable[[Op[Any], float], Awaitable[Any]]
    ) -> None:
        self._database = database
        self._execute = execute
        self._queues: dict[Merge, AsyncCallQueue] = {}

    @property
    def queues(self) -> list[AsyncCallQueue]:
        """The queues, one for each kind of op that has been executed."""
        return list(self._queues.values())

    def queue_of(self, merge: Merge) -> AsyncCallQueue:
        """Return the queue of the ops that one function merges."""
        queue = self._queues.get(merge)
        if queue is None:
            made = AsyncCallQueue(
                partial(self._send, merge),
                self._receive,
                self._expired,
                admitted=ADMITTED,
                parallel=PARALLEL,
                full=FULL,
                most=MOST_CALLS,
            )
            queue = self._queues.setdefault(merge, made)
        return queue

    def _send(self, merge: Merge, calls: Sequence[AsyncCall]) -> Sent:
        """Send one statement for several calls if a connection is idle. It never waits."""
        database = self._database
        op = merge([call.op for call in calls])
        connection = database.take_idle()
        if connection is None:
            return Sent(op)
        query = database.statement(op, "if_free", relaxed=database.relaxed)
        try:
            connection.start(query, database.params(op))
        except psycopg.Error as error:
            return Sent(op, connection, error)
        return Sent(op, connection)

    async def _receive(self, calls: Sequence[AsyncCall], sent: Sent) -> list[Outcome]:
        """Return the outcome of each call, after the statement was executed if it was not sent."""
        deadline = max(call.deadline for call in calls)
        try:
            if sent.connection is None:
                outcomes: list[Outcome] = await self._execute(sent.op, deadline)
            else:
                outcomes = await self._receive_sent(sent, sent.connection, deadline)
        except ConnectionLostError as error:
            return [_lost(error.__cause__) for _ in calls]
        except OutcomeUnknown:
            return [self._database.unconfirmed(call.op.action) for call in calls]
        except (PgmemError, psycopg.Error):  # It has changed nothing.
            return [ExecuteAloneError() for _ in calls]
        return outcomes

    async def _receive_sent(
        self, sent: Sent, connection: AsyncConnection, deadline: float
    ) -> list[Outcome]:
        database = self._database
        connection.answer_timeout = max(LEAST_TIMEOUT, deadline - time.monotonic())
        try:
            if sent.failure is not None:
                raise sent.failure
            rows = await connection.receive()
            database.check_confirmed(connection, sent.op.action)
        except psycopg.Error as error:
            if is_lost(connection, error):
                connection.give_up()
                raise ConnectionLostError from error
            raise
        finally:
            connection.answer_timeout = None
            database.release(connection)
        if sent.op.retry is not Retry.READ:
            database.check_notify_result(rows)
        return list(sent.op.parse(rows))

    def _expired(self, call: AsyncCall) -> Exception:
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
