"""Execute an `Op` on a pooled connection, and open transactions.

Each op has a short transaction of its own, and is executed again where that is safe; see
`pgmem.core.retry`. `pgmem.core.transaction` executes ops in a transaction that its owner ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgmem.core.call_queue import AsyncCallQueue
from pgmem.core.coalesce import AsyncCoalescer, ExecuteAloneError
from pgmem.core.concurrency import GRACE, AsyncBackground, async_sleep
from pgmem.core.connection import AnswerTimeoutError, AsyncConnection
from pgmem.core.database import AsyncDatabase
from pgmem.core.libpq import Call
from pgmem.core.op import Op, RefusedError, Retry, RetryStatement, Row
from pgmem.core.retry import (
    FAILURES,
    LEAST_TIMEOUT,
    Attempts,
    ConnectionLostError,
    fallback_of,
    is_lost,
    is_timeout,
)
from pgmem.core.sqlstates import (
    is_full_queue,
    is_refused,
    is_repeatable,
    is_rolled_back,
    is_unprepared,
    is_version_race,
    translate,
)
from pgmem.core.statements import NotifyMode
from pgmem.core.transaction import (
    AsyncTransactionExecutor,
    lost_in_commit,
    roll_back,
)
from pgmem.core.transaction_block import HARMLESS, TransactionBlock
from pgmem.errors import (
    Conflict,
    InvalidInput,
    TransactionConflict,
    Unavailable,
)

T = TypeVar("T")

_NOT_SENT = ("full", "busy")
"""The last column of a statement that has not notified."""
_READ = Retry.READ  # An attribute of an Enum costs a search in each call.


class AsyncExecutor(Protocol):
    """Execute ops."""

    @property
    def bound(self) -> bool:
        """True if the ops join a transaction that its owner ends."""

    async def execute(self, op: Op[T]) -> T:
        """Execute an op and return its result."""


class AsyncPoolExecutor:
    """Execute each op in a short transaction of its own.

    Attributes:
        database: the connections.
        open_blocks: the open `transaction()` blocks of the memory.
    """

    bound = False

    def __init__(self, database: AsyncDatabase) -> None:
        self.database = database
        self._coalescer = AsyncCoalescer(database, self._execute_merged)
        self.open_blocks: set[TransactionBlock] = set()

    @property
    def background(self) -> AsyncBackground:
        """Runs what is left to do after a call was cancelled."""
        return self.database.background

    @property
    def sessions(self) -> int:
        """How many connections were made. A new one may lead to a server that has crashed."""
        return self.database.sessions

    async def execute(self, op: Op[T], *, answer_timeout: float | None = None) -> T:
        """Execute an op, again where that is safe.

        Args:
            op: what to execute.
            answer_timeout: seconds in which the server must answer each time, within the memory's
                `timeout` over all times. After that a new connection is tried at once: the
                connections that were idle meanwhile may be as silent. So it is for a statement that
                waits for no lock and may be repeated while it is under way. None for the memory's
                `timeout` alone.

        Raises:
            PgmemError: the error of the op's `parse`, or of the server.
            OutcomeUnknown: the connection was lost and a second execution could do harm.
            Unavailable: no connection in time.
        """
        if self.open_blocks and op.statement not in HARMLESS:
            TransactionBlock.warn(self.open_blocks, op.action)
        deadline = monotonic() + self.database.timeout
        queue = None
        if op.merge is not None and answer_timeout is None:
            queue = self._coalescer.queue_of(op.merge)
        try:
            if queue is None:
                return await self._execute_once(op, "if_free", deadline, answer_timeout)
            if not queue.admit():
                return await self._execute_queued(queue, op, deadline)
            try:
                return await self._execute_once(op, "if_free", deadline, None)
            finally:
                queue.leave()
        except FAILURES as failure:
            if not op.bounded and not is_timeout(failure):
                deadline = monotonic() + self.database.timeout
            attempts = Attempts(self.database, op, deadline)
            pause = attempts.after(failure)
            op = fallback_of(op, failure)
        while True:
            await async_sleep(pause)
            try:
                return await self._execute_once(op, attempts.notify, deadline, answer_timeout)
            except FAILURES as failure:
                pause = attempts.after(failure)
                op = fallback_of(op, failure)
            except (Conflict, Unavailable) as error:
                if attempts.hides_success(error):
                    raise attempts.outcome_unknown() from error
                raise

    async def _execute_queued(self, queue: AsyncCallQueue, op: Op[T], deadline: float) -> T:
        """Execute an op together with others."""
        # In a forked child none of those under way ever ends, and a lock may be taken for ever.
        self.database.require_open(op.action)
        try:
            return op.parse(await queue.wait(queue.join(op, deadline)))
        except ExecuteAloneError:
            return await self._execute_once(op, "if_free", deadline, None)

    async def _execute_merged(self, op: Op[T], deadline: float) -> T:
        return await self._execute_once(op, "if_free", deadline, None)

    async def execute_apart(self, op: Op[T]) -> T:
        """Execute a long op once, on a connection of its own, so that it occupies none of the pool.

        Raises:
            PgmemError: the error of the op's `parse`, or of the server.
            Unavailable: no connection in time, or it was lost under way.
        """
        query = self.database.statement(op, "never", relaxed=False)
        connection = await self.database.connect()
        try:
            rows = await connection.run(query, op.params, self.database.check_alive)
        except psycopg.Error as error:
            raise translate(error, op.action) from None
        finally:
            connection.give_up()
        return op.parse(rows)

    async def _execute_once(
        self, op: Op[T], notify: NotifyMode, deadline: float, answer_timeout: float | None
    ) -> T:
        # Each call of a verb comes here, and each attribute of a named tuple costs a search.
        statement, params, parse, action, retry, fragments, _, async_commit, _, bounded = op
        database = self.database
        relaxed = database.relaxed or async_commit
        query = database.statements.get((statement, notify, relaxed, fragments))
        if query is None or database.notify_altered:
            query = database.statement(op, notify, relaxed=relaxed)
        if retry is not _READ:
            params = {**params, "channel": database.channel}
        connection = await database.acquire(action, deadline)
        asked_at = monotonic()
        seconds = max(LEAST_TIMEOUT, deadline - asked_at)
        if answer_timeout is not None:
            seconds = min(answer_timeout, seconds)
            connection.grace = 0.0
        connection.answer_timeout = seconds if bounded else None
        try:
            check = None if bounded else database.check_alive
            rows = await connection.run(query, params, check)
            if async_commit and len(rows) > 1 and not database.relaxed:
                await self._wait_for_flush(connection)
            if connection.unconfirmed:
                database.check_confirmed(connection, action)
        except psycopg.Error as error:
            if not is_lost(connection, error):
                raise
            connection.give_up()
            if answer_timeout is not None and isinstance(error, AnswerTimeoutError):
                database.discard_unused(asked_at)
            raise ConnectionLostError from error
        finally:
            connection.answer_timeout, connection.grace = None, GRACE
            database.release(connection)
        if retry is not _READ and (database.notify_watched or (rows and rows[0][-1] in _NOT_SENT)):
            database.check_notify_result(rows)
        return parse(rows)

    async def _wait_for_flush(self, connection: AsyncConnection) -> None:
        """Wait until the WAL of what was committed is flushed."""
        try:
            await connection.run(self.database.commit_wait, {})
        except psycopg.Error as error:
            # The commit is visible and a crash may still undo it: the same as a lost answer.
            connection.give_up()
            raise ConnectionLostError from error

    async def execute_together(self, ops: Sequence[Op[Any]], action: str) -> list[Any]:
        """Execute ops in one transaction and one round trip: all of them or none, once.

        The isolation level is READ COMMITTED whatever the server's default is. A statement that
        queues for a row lock must then see what the previous holder wrote.

        Args:
            ops: what to execute. The `parse` of none may raise, because COMMIT is sent with them.
            action: what it is for, for messages.

        Returns:
            The result of each op.

        Raises:
            RefusedError: a statement called `refuse_commit()`.
            RetryStatement, TransactionConflict: the server undid it; execute it again.
            OutcomeUnknown: the connection was lost.
            PgmemError: the server's error. Nothing was written.
        """
        database = self.database
        calls = self._begin(read_committed=True)
        calls += [
            (database.statement(op, "if_free", relaxed=False), database.params(op)) for op in ops
        ]
        calls.append((b"COMMIT", None))
        deadline = monotonic() + database.timeout
        connection = await database.acquire(action, deadline)
        connection.answer_timeout = max(LEAST_TIMEOUT, deadline - monotonic())
        try:
            rows = await self._run_unit(connection, calls, action)
            database.check_confirmed(connection, action)
        finally:
            connection.answer_timeout = None
            database.release(connection)
        results = rows[-1 - len(ops) : -1]
        for found in results:
            database.check_notify_result(found)
        return [op.parse(found) for op, found in zip(ops, results, strict=True)]

    async def _run_unit(
        self, connection: AsyncConnection, calls: Sequence[Call], action: str
    ) -> list[Sequence[Row]]:
        try:
            (answer,) = await connection.run_units([calls])
        except psycopg.Error as error:
            answer = error
        if not isinstance(answer, psycopg.Error):
            return answer
        if is_lost(connection, answer):
            connection.give_up()
            raise lost_in_commit(action, self.database.where) from None
        await roll_back(connection)
        if is_refused(answer):
            raise RefusedError
        if is_full_queue(answer):
            self.database.pause_notify()
        if is_full_queue(answer) or is_version_race(answer) or is_unprepared(answer):
            raise RetryStatement
        raise translate(answer, action) from None

    @asynccontextmanager
    async def transaction(
        self, action: str, *, read_committed: bool = False
    ) -> AsyncIterator[AsyncTransactionExecutor]:
        """Open a transaction that commits at the end of the block and rolls back on any exception.

        BEGIN travels with the first statement. A block without a statement sends nothing. If the
        connection is lost before that has an answer, both are sent again on another one.

        Args:
            action: what it is for, for messages.
            read_committed: use this isolation level whatever the server's default is. A statement
                that queues for a row lock must then see what the previous holder wrote.

        Raises:
            OutcomeUnknown: the connection was lost during the commit.
            TransactionConflict: the server undid the transaction.
        """
        connection = await self.database.acquire(action)
        connection.deferred = self._begin(read_committed=read_committed)
        executor = AsyncTransactionExecutor(self.database, connection, owned=connection)
        try:
            try:
                yield executor
            except Exception:
                connection = executor.finish(connection)
                connection.answer_timeout = self.database.timeout
                await roll_back(connection)
                raise
            except BaseException:
                # A cancelled task must not wait: the server rolls back when the connection ends.
                executor.finish(connection).give_up()
                raise
            await self._commit(executor.finish(connection), executor, action)
            executor.committed = True
        finally:
            executor.release()

    def _begin(self, *, read_committed: bool) -> list[Call]:
        begin = b"BEGIN ISOLATION LEVEL READ COMMITTED" if read_committed else b"BEGIN"
        calls: list[Call] = [(begin, None)]
        if self.database.relaxed:
            calls.append((b"SET LOCAL synchronous_commit = off", None))
        return calls

    async def _commit(
        self, connection: AsyncConnection, executor: AsyncTransactionExecutor, action: str
    ) -> None:
        status = connection.pgconn.transaction_status
        if status == TransactionStatus.INERROR:
            await roll_back(connection)
            raise TransactionConflict(
                f"{action}: a statement in it failed and the error was caught, so the server "
                f"refuses the commit. All was rolled back. Use a savepoint for what may fail"
            )
        if status == TransactionStatus.IDLE:
            if connection.deferred:
                return  # BEGIN was not sent: nothing was executed.
            raise InvalidInput(
                f"{action}: it was ended inside its block through tx.connection. Leave commit "
                f"and rollback to the block"
            )
        connection.answer_timeout = self.database.timeout
        last = executor.last
        calls: list[Call] = [(b"COMMIT", None)]
        if last is not None:
            query = self.database.statement(last, "if_free", relaxed=False)
            calls.insert(0, (query, self.database.params(last)))
        try:
            executor.last_rows = (await connection.run_deferred(*calls))[0]
        except psycopg.Error as error:
            if is_rolled_back(error):
                connection.give_up()
                raise Unavailable(
                    f"{action}: it stood still for longer than the role's "
                    f"idle_in_transaction_session_timeout, so the server ended it. Nothing was "
                    f"committed. Keep it shorter, or use memory.optimistic()"
                ) from None
            if is_lost(connection, error):
                connection.give_up()
                raise lost_in_commit(action, self.database.where) from None
            await roll_back(connection)
            if last is not None or is_repeatable(error):
                raise translate(error, action) from None
            raise  # A deferred constraint of the user's own schema.
        finally:
            connection.answer_timeout = None
        self.database.check_confirmed(connection, action)
        if last is not None:
            self.database.check_notify_result(executor.last_rows)
