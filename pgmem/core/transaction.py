"""Execute ops in a transaction that its owner ends: a `transaction()` block, or the caller.

An error of the server ends the transaction, so nothing is executed again in it. Only a BEGIN that
was lost with its connection, before anything was done, is sent again on another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from pgmem.core.bounded import fetch_within
from pgmem.core.connection import AnswerTimeoutError, AsyncConnection
from pgmem.core.database import AsyncDatabase, fetch
from pgmem.core.libpq import Call
from pgmem.core.op import Op, RetryStatement, Row
from pgmem.core.retry import (
    MAX_RACES,
    MAX_REPEATS,
    fallback_of,
    is_gone,
    is_lost,
)
from pgmem.core.sources import async_begin_nested, async_driver_connection
from pgmem.core.sqlstates import (
    is_version_race,
    translate,
)
from pgmem.core.statements import INLINE, INLINE_ALL, NotifyMode
from pgmem.errors import (
    InvalidInput,
    NotOpen,
    OutcomeUnknown,
    PgmemError,
    TransactionConflict,
    Unavailable,
)

T = TypeVar("T")

MAX_INLINED = 16
"""Number of statements of a transaction whose events travel in notifications. Above that, one poll
is cheaper for readers."""


def serialization_conflict(action: str) -> TransactionConflict:
    """Return the error for a change that this transaction's isolation level cannot see."""
    return TransactionConflict(
        f"{action}: another transaction changed it after this one began and this one, by its "
        f"isolation level, cannot see it. Run the whole transaction again"
    )


def lost_in_commit(action: str, where: str) -> OutcomeUnknown:
    """Return the error for a connection that was lost during a commit."""
    return OutcomeUnknown(
        f"{action}: the connection to {where} was lost during the commit, so it may or may not "
        f"have happened. Read back before doing it again, or put an idempotency key into the "
        f"transaction"
    )


def lost_in_block(action: str) -> Unavailable:
    """Return the error for a connection that was lost in an open transaction."""
    return Unavailable(
        f"{action}: the connection was lost, and the transaction with it: nothing of it was "
        f"committed. Run the whole transaction again"
    )


async def roll_back(connection: AsyncConnection) -> None:
    """Roll back what is open, or give the connection up."""
    connection.deferred = []
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        return
    try:
        await connection.rollback()
    except psycopg.Error:
        # The server rolls back what a lost connection left open.
        connection.give_up()


class AsyncTransactionExecutor:
    """Execute ops in a transaction that its owner ends: `transaction()`'s block, or the caller.

    Args:
        database: the connections.
        source: what `using()` takes.
        owned: the connection if it is the pool's; None for the caller's own.

    Attributes:
        committed: the transaction was committed. Stays False for the caller's own.
        last: is executed with the commit, in one round trip; `last_rows` are its rows after that.
    """

    bound = True

    def __init__(
        self, database: AsyncDatabase, source: Any, *, owned: AsyncConnection | None = None
    ) -> None:
        self._database = database
        self._source = source
        self._owned = owned
        self._exposed = False
        self._savepoints = 0
        self._inlined = 0
        self._finished = False
        self._unanswered = False
        self.committed = False
        self.last: Op[Any] | None = None
        self.last_rows: Sequence[Row] = ()

    def finish(self, first: AsyncConnection) -> AsyncConnection:
        """Refuse further ops, because the transaction is over. Return its connection.

        Args:
            first: the connection that it began on.
        """
        self._finished = True
        return self._source if isinstance(self._source, AsyncConnection) else first

    def release(self) -> None:
        """Give the connection back to the pool."""
        connection, self._owned = self._owned, None
        if connection is not None:
            connection.answer_timeout = None
            connection.deferred = []
            self._database.release(connection)

    def expose(self) -> psycopg.AsyncConnection[Any]:
        """Return the connection, and keep it from now on: the caller's own statements use it."""
        self._exposed = True
        connection: psycopg.AsyncConnection[Any] = self._source
        return connection

    async def connection(self) -> psycopg.AsyncConnection[Any]:
        """Return the psycopg connection of the transaction.

        Raises:
            NotOpen: the transaction is over.
            InvalidInput: there is no such connection, it commits each statement by itself, or it
                is in pipeline mode.
        """
        if self._finished:
            raise NotOpen("this transaction is over: use what comes from transaction() inside it")
        connection = await async_driver_connection(self._source)
        if _is_idle(connection):
            raise InvalidInput(
                "the connection given to using() is in autocommit mode and no transaction is "
                "open: each statement would commit by itself. Open one first "
                "(`with connection.transaction():`; in Django `transaction.atomic()`), or use "
                "memory.transaction()"
            )
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:
            raise InvalidInput(
                "the connection is in pipeline mode, where an answer comes after the statements "
                "that follow. Call pgmem outside the block of connection.pipeline()"
            )
        return connection

    async def usable(self) -> bool:
        """Return True if the transaction can still commit."""
        connection = await async_driver_connection(self._source)
        status = connection.pgconn.transaction_status
        return status == TransactionStatus.INTRANS or (
            status == TransactionStatus.IDLE and not _is_idle(connection)
        )

    async def defer(self, op: Op[None]) -> None:
        """Execute an op together with the next statement, or with the commit.

        On the caller's own connection it is executed now.
        """
        connection = await self.connection()
        if not isinstance(connection, AsyncConnection):
            await self.execute(op)
            return
        query = self._database.statement(op, "always", relaxed=False)
        connection.deferred.append((query, self._database.params(op)))

    async def execute(self, op: Op[T]) -> T:
        """Execute an op in the transaction.

        Raises:
            PgmemError: the error of the op's `parse`, or of the server.
        """
        connection = await self.connection()
        op = self._within_limit(op)
        # A transaction that has notified cannot be prepared for a two-phase commit.
        notify: NotifyMode = "never" if connection._tpc else "always"
        query = self._database.statement(op, notify, relaxed=False)
        for _ in range(MAX_RACES):
            try:
                rows = await self._fetch(connection, query, op)
                self._database.check_notify_result(rows)
                return op.parse(rows)
            except RetryStatement as race:
                op = fallback_of(op, race)
                query = self._database.statement(op, notify, relaxed=False)
            except psycopg.Error as error:
                raise self._fault(self._current(connection), op, error) from None
        raise serialization_conflict(op.action)

    def _within_limit(self, op: Op[T]) -> Op[T]:
        """Return the op without its inline payload if the transaction has sent many."""
        if INLINE not in op.fragments and INLINE_ALL not in op.fragments:
            return op
        self._inlined += 1
        if self._inlined <= MAX_INLINED:
            return op
        kept = tuple(part for part in op.fragments if part not in (INLINE, INLINE_ALL))
        return op._replace(fragments=kept)

    async def _fetch(
        self, connection: psycopg.AsyncConnection[Any], query: bytes, op: Op[Any]
    ) -> Sequence[Row]:
        if not isinstance(connection, AsyncConnection):
            params = self._database.params(op)
            if not op.bounded:
                return await fetch(connection, query, params)
            return await fetch_within(connection, query, params, self._database.timeout)
        return await self._fetch_here(connection, query, op)

    async def _fetch_here(
        self, connection: AsyncConnection, query: bytes, op: Op[Any]
    ) -> Sequence[Row]:
        """Execute on pgmem's own connection, or on another one if BEGIN was lost."""
        repeats = 0
        while True:
            async with connection.lock:  # Another task may use `tx.connection`.
                if self._owned is None or connection is self._owned:
                    deferred = list(connection.deferred)
                    try:
                        return await self._run(connection, query, op)
                    except psycopg.Error as error:
                        repeats += 1
                        if repeats > MAX_REPEATS or not self._has_not_begun(
                            connection, deferred, error
                        ):
                            raise
                    connection = await self._replace(connection, deferred, op.action)
                else:
                    connection = self._owned

    async def _run(self, connection: AsyncConnection, query: bytes, op: Op[Any]) -> Sequence[Row]:
        check = None if op.bounded else self._database.check_alive
        connection.answer_timeout = self._database.timeout if op.bounded else None
        try:
            return await connection.run(query, self._database.params(op), check=check)
        finally:
            connection.answer_timeout = None

    def _has_not_begun(
        self, connection: AsyncConnection, deferred: Sequence[Call], error: psycopg.Error
    ) -> bool:
        """Return True if BEGIN was lost together with the connection, so nothing was done."""
        return (
            connection is self._owned
            and not self._exposed
            and bool(deferred)
            and deferred[0][0].startswith(b"BEGIN")
            and not isinstance(error, AnswerTimeoutError)
            and is_lost(connection, error)
        )

    async def _replace(
        self, connection: AsyncConnection, deferred: list[Call], action: str
    ) -> AsyncConnection:
        """Begin on another connection of the pool, and return it.

        Raises:
            Unavailable: there is none in time, or the caller took `tx.connection` meanwhile.
        """
        connection.give_up()
        self.release()  # First, because a pool of one has no other.
        other = await self._database.acquire(action)
        if self._exposed:
            self._database.release(other)
            raise lost_in_block(action)
        other.deferred = deferred
        self._owned = self._source = other
        return other

    def _fault(
        self, connection: psycopg.AsyncConnection[Any], op: Op[Any], error: psycopg.Error
    ) -> PgmemError | RetryStatement:
        if is_version_race(error):
            return RetryStatement()
        return self._error(connection, op.action, error)

    def _error(
        self, connection: psycopg.AsyncConnection[Any], action: str, error: psycopg.Error
    ) -> PgmemError:
        if isinstance(error, AnswerTimeoutError):
            self._unanswered = True
            return Unavailable(
                f"{action}: {error}. The transaction is over: nothing of it was committed. Run "
                f"the whole transaction again"
            )
        if is_lost(connection, error):
            return lost_in_block(action)
        return translate(error, action)

    @asynccontextmanager
    async def nested(self) -> AsyncIterator[None]:
        """Undo a block of the caller's code on any exception and leave the transaction usable.

        It is a savepoint of the caller's framework, if there is one: SQLAlchemy expires the objects
        that the block changed, Django drops its `on_commit` callbacks.
        """
        async with async_begin_nested(self._source) or self.savepoint():
            yield

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo statements of pgmem's own on any exception and leave the transaction usable.

        It uses plain statements, because psycopg's own block would commit a transaction that has
        not begun yet.
        """
        connection = await self.connection()
        name = f"pgmem_{self._savepoints}".encode()
        self._savepoints += 1
        begin: Call = (b"SAVEPOINT " + name, None)
        release: Call = (b"RELEASE SAVEPOINT " + name, None)
        await self._send(connection, begin)
        try:
            yield
        except BaseException:
            connection = self._current(connection)
            if not (self._unanswered or is_gone(connection)):
                await self._undo(
                    connection, begin, (b"ROLLBACK TO SAVEPOINT " + name, None), release
                )
            raise
        finally:
            self._savepoints -= 1
        await self._send(self._current(connection), release)

    async def _send(self, connection: psycopg.AsyncConnection[Any], call: Call) -> None:
        """Execute a statement that returns nothing: on pgmem's connection, with the next one."""
        if isinstance(connection, AsyncConnection):
            connection.deferred.append(call)
            return
        try:
            await fetch_within(connection, call[0], {}, self._database.timeout)
        except psycopg.Error as error:
            raise self._error(connection, call[0].decode(), error) from None

    async def _undo(
        self, connection: psycopg.AsyncConnection[Any], begin: Call, roll_back: Call, release: Call
    ) -> None:
        """Undo what came after a savepoint."""
        if not isinstance(connection, AsyncConnection):
            await self._send(connection, roll_back)
            await self._send(connection, release)
        elif begin in connection.deferred:
            del connection.deferred[connection.deferred.index(begin) :]
        else:
            connection.deferred = []
            connection.answer_timeout = self._database.timeout
            try:
                await connection.run_deferred(roll_back, release)
            except psycopg.Error as error:
                raise self._error(connection, "ROLLBACK TO SAVEPOINT", error) from None
            finally:
                connection.answer_timeout = None

    def _current(self, connection: psycopg.AsyncConnection[Any]) -> psycopg.AsyncConnection[Any]:
        """Return the pool's connection that has replaced a lost one, or `connection`."""
        return connection if self._owned is None else self._owned


def _is_idle(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Return True if the next statement would commit by itself."""
    return (
        connection.autocommit
        and connection.pgconn.transaction_status == TransactionStatus.IDLE
        and not (isinstance(connection, AsyncConnection) and connection.deferred)
    )
