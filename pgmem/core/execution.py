"""Who runs an `Op`: the pool, or one transaction.

A pool runner gives each op a short transaction of its own, rings the bell only if it is free, and
repeats what may be repeated. A bound runner works in a transaction that somebody else ends, and
repeats nothing that the server refused. What is repeated, `retrying` draws.

This module does not know what the ops do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgmem.core.concurrency import async_driver_connection, async_sleep
from pgmem.core.database import AsyncDatabase, fetch, log
from pgmem.core.op import Op, Retry, RetryStatement
from pgmem.core.pool import AsyncConnection
from pgmem.core.retry import FAILURES, MAX_RACES, MAX_REPEATS, Attempts, Lost, fallback_of, is_lost
from pgmem.core.sqlstates import is_repeatable, is_version_race, translate
from pgmem.core.statements import NotifyMode
from pgmem.errors import (
    Conflict,
    InvalidOption,
    NotOpen,
    OutcomeUnknown,
    PgmemError,
    TransactionConflict,
    Unavailable,
)
from pgmem.events.page import Page, trimmed_error

T = TypeVar("T")


class AsyncExecutor(Protocol):
    """Runs ops."""

    @property
    def bound(self) -> bool:
        """Whether the ops join a transaction that somebody else ends."""

    async def execute(self, op: Op[T]) -> T:
        """Run one op and give its result."""


def serialization_conflict(action: str) -> TransactionConflict:
    """The error for losing to a transaction that this one, by its isolation level, cannot see."""
    return TransactionConflict(
        f"{action}: another transaction changed it after this one began and this one, by its "
        f"isolation level, cannot see it. Run the whole transaction again"
    )


class AsyncPoolExecutor:
    """Runs each op in a short transaction of its own."""

    bound = False

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    @property
    def sessions(self) -> int:
        """How many connections were made: a new one may lead to a server that has crashed."""
        return self._database.sessions

    async def execute(self, op: Op[T], *, answer_timeout: float | None = None) -> T:
        """Run one op, again where that is safe.

        Args:
            op: what to run.
            patience: seconds in which the server must answer; only for what reads, or is HARMLESS.

        Raises:
            PgmemError: what the op's `parse` or the server says.
            OutcomeUnknown: the connection was lost and a second run could do harm.
            Unavailable: no connection in time.
        """
        try:
            return await self._once(op, "try", answer_timeout)
        except FAILURES as failure:
            attempts = Attempts(self._database, op)
            pause = attempts.after(failure)
            op = fallback_of(op, failure)
        while True:
            await async_sleep(pause)
            try:
                return await self._once(op, attempts.bell, answer_timeout)
            except FAILURES as failure:
                pause = attempts.after(failure)
                op = fallback_of(op, failure)
            except (Conflict, Unavailable) as error:
                if attempts.hides(error):
                    raise attempts.outcome_unknown() from error
                raise

    async def execute_page(
        self, op: Op[Page], position: int, *, answer_timeout: float | None = None
    ) -> Page:
        """Read a page of the log.

        Args:
            op: what to read.
            position: where the reader stands.
            patience: as for `run`.

        Raises:
            HistoryRewritten: the log is not the one that the position belongs to.
            PositionTrimmed: retention has removed events that the reader has not read.
        """
        self._database.check_history(position)
        page = await self.execute(op, answer_timeout=answer_timeout)
        self._database.check_timeline(page.head.timeline, position)
        if page.head.trimmed is not None:
            raise trimmed_error(position, page.head.trimmed)
        return page

    async def execute_apart(self, op: Op[T]) -> T:
        """Run one op, once, on a connection of its own: what takes long holds up nobody.

        Raises:
            PgmemError: what the op's `parse` or the server says.
            Unavailable: no connection in time, or it was lost under way.
        """
        query = self._database.statement(op, "silent", relaxed=False)
        async with await self._database.connect() as link:
            try:
                rows = await fetch(link, query, op.params)
            except psycopg.Error as error:
                raise translate(error, op.action) from None
        return op.parse(rows)

    async def _once(self, op: Op[T], bell: NotifyMode, answer_timeout: float | None = None) -> T:
        database = self._database
        link = await database.acquire(op.action)
        link.answer_timeout = answer_timeout
        try:
            query = database.statement(op, bell, relaxed=database.relaxed or op.async_commit)
            rows = await link.run(query, database.params(op))
            if op.async_commit and len(rows) > 1 and not database.relaxed:
                await self._wait_for_disk(link)
            if link.unconfirmed:
                database.check_confirmed(link, op.action)
        except psycopg.Error as error:
            if is_lost(link, error):
                await link.close()
                raise Lost from error
            raise
        finally:
            link.answer_timeout = None
            await database.give_back(link)
        if op.retry is not Retry.READS:
            database.bell_answered(rows)
        return op.parse(rows)

    async def _wait_for_disk(self, link: AsyncConnection) -> None:
        """Wait until what was committed is safe."""
        try:
            await link.run(self._database.commit_wait, {})
        except psycopg.Error as error:
            # It is committed, and a crash may still undo it: the same as a lost answer.
            await link.close()
            raise Lost from error

    @asynccontextmanager
    async def transaction(
        self, action: str, *, read_committed: bool = False
    ) -> AsyncIterator[AsyncTransactionExecutor]:
        """A transaction of our own: commits at the end, rolls back on any exception.

        Args:
            action: what it is for, for messages.
            read_committed: whatever the server's default: for those that queue for a row lock
                and must then see what the holder before them wrote.

        Raises:
            OutcomeUnknown: the connection was lost during the commit.
            TransactionConflict: the server undid the transaction.
        """
        link = await self._begin(action, read_committed=read_committed)
        executor = AsyncTransactionExecutor(self._database, link)
        try:
            try:
                yield executor
            except BaseException:
                executor.finish()
                await _roll_back(link)
                raise
            executor.finish()
            await self._commit(link, action)
        finally:
            await self._database.give_back(link)

    async def _begin(self, action: str, *, read_committed: bool) -> AsyncConnection:
        begin = b"BEGIN ISOLATION LEVEL READ COMMITTED" if read_committed else b"BEGIN"
        if self._database.relaxed:
            begin += b"; SET LOCAL synchronous_commit = off"
        for _ in range(MAX_REPEATS):
            link = await self._database.acquire(action)
            begun = False
            try:
                await link.execute(begin, prepare=False)
                begun = True
            except psycopg.Error as error:
                if not is_lost(link, error):
                    raise translate(error, action) from None
            finally:
                # Also when we are cancelled: a connection that is not given back is lost for all.
                if not begun:
                    await link.close()
                    await self._database.give_back(link)
            if begun:
                return link
        raise Unavailable(f"{action}: the server ended {MAX_REPEATS} connections in a row")

    async def _commit(self, link: AsyncConnection, action: str) -> None:
        status = link.info.transaction_status
        if status == TransactionStatus.INERROR:
            await _roll_back(link)
            raise TransactionConflict(
                f"{action}: a statement in it failed and the error was caught, so nothing could "
                f"be committed and all was rolled back. Use a savepoint for what may fail"
            )
        if status == TransactionStatus.IDLE:
            raise InvalidOption(
                f"{action}: it was ended inside its block through tx.connection: leave commit "
                f"and rollback to the block"
            )
        try:
            await link.commit()
        except psycopg.Error as error:
            if is_lost(link, error):
                await link.close()
                raise OutcomeUnknown(
                    f"{action}: the connection to {self._database.where} was lost during the "
                    f"commit: it may or may not have happened. Read back before doing it again, "
                    f"or put an idempotency key into the transaction"
                ) from None
            if is_repeatable(error):
                raise translate(error, action) from None
            raise  # A deferred constraint of the user's own: theirs to see as it is.
        self._database.check_confirmed(link, action)


async def _roll_back(link: AsyncConnection) -> None:
    try:
        await link.rollback()
    except psycopg.Error:
        # The server rolls back what a lost connection left open.
        log.debug("rollback failed, closing the connection", exc_info=True)
        await link.close()


class AsyncTransactionExecutor:
    """Runs ops in a transaction that somebody else ends: a block of ours, or a caller's own."""

    bound = True

    def __init__(self, database: AsyncDatabase, source: Any) -> None:
        self._database = database
        self._source = source
        self._savepoints = 0
        self._finished = False

    def finish(self) -> None:
        """The transaction is over: refuse what comes later."""
        self._finished = True

    async def connection(self) -> psycopg.AsyncConnection[Any]:
        """The psycopg connection that the transaction runs on.

        Raises:
            NotOpen: the transaction is over.
            InvalidOption: there is no such connection, or it commits each statement by itself.
        """
        if self._finished:
            raise NotOpen("this transaction is over: use what comes from transaction() inside it")
        link = await async_driver_connection(self._source)
        if link.autocommit and link.info.transaction_status == TransactionStatus.IDLE:
            raise InvalidOption(
                "the connection given to using() is in autocommit mode and no transaction is "
                "open: each statement would commit by itself. Open one first "
                "(`with connection.transaction():`), or use memory.transaction()"
            )
        return link

    async def usable(self) -> bool:
        """Whether the transaction can still commit."""
        link = await async_driver_connection(self._source)
        return link.info.transaction_status == TransactionStatus.INTRANS

    async def execute(self, op: Op[T]) -> T:
        """Run one op in the transaction.

        Raises:
            PgmemError: what the op's `parse` or the server says.
        """
        link = await self.connection()
        query = self._database.statement(op, "ring", relaxed=False)
        for _ in range(MAX_RACES):
            try:
                rows = await fetch(link, query, self._database.params(op))
                self._database.bell_answered(rows)
                return op.parse(rows)
            except RetryStatement as race:
                op = fallback_of(op, race)
                query = self._database.statement(op, "ring", relaxed=False)
            except psycopg.Error as error:
                raise self._fault(link, op, error) from None
        raise serialization_conflict(op.action)

    def _fault(
        self, link: psycopg.AsyncConnection[Any], op: Op[Any], error: psycopg.Error
    ) -> PgmemError | RetryStatement:
        if is_version_race(error):
            return RetryStatement()
        if is_lost(link, error):
            return Unavailable(
                f"{op.action}: the connection was lost, and the transaction with it: nothing of "
                f"it was committed. Run the whole transaction again"
            )
        return translate(error, op.action)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo, on any exception, what was done in the block, and leave the transaction usable.

        Plain statements, because psycopg's own block would commit a transaction that has not
        begun yet.
        """
        link = await self.connection()
        name = f"pgmem_{self._savepoints}".encode()
        self._savepoints += 1
        await link.execute(b"SAVEPOINT " + name, prepare=False)
        try:
            yield
        except BaseException:
            if not link.closed:
                await link.execute(b"ROLLBACK TO SAVEPOINT " + name, prepare=False)
                await link.execute(b"RELEASE SAVEPOINT " + name, prepare=False)
            raise
        finally:
            self._savepoints -= 1
        await link.execute(b"RELEASE SAVEPOINT " + name, prepare=False)
