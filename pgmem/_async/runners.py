"""Who runs an `Op`: the pool, or one transaction.

A pool runner gives each op a short transaction of its own, rings the bell only if it is free, and
repeats what may be repeated. A bound runner works in a transaction that somebody else ends, and
repeats nothing that the server refused::

    lost connection      reads            run again on another connection
                         HARMLESS         run again
                         GUARDED          run again; a conflict then may be our own first run:
                                          OutcomeUnknown
                         HARMFUL          OutcomeUnknown
    serialization/deadlock, full queue    run again (the server undid it)
    lost race                             run again (a new snapshot sees who won)

This module does not know what the ops do.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgmem._async.database import AsyncDatabase, AsyncLink, fetch, log
from pgmem._compat import adriver_connection, asleep
from pgmem.errors import (
    Conflict,
    InvalidOption,
    NotOpen,
    OutcomeUnknown,
    PgmemError,
    TransactionConflict,
    Unavailable,
)
from pgmem.ops import Again, Op
from pgmem.ops.events import LostRace
from pgmem.ops.faults import is_disconnect, is_full_queue, is_repeatable, is_version_race, translate

T = TypeVar("T")

MAX_RACES = 50
MAX_REPEATS = 10


class AsyncRunner(Protocol):
    """Runs ops."""

    @property
    def bound(self) -> bool:
        """Whether the ops join a transaction that somebody else ends."""

    async def run(self, op: Op[T]) -> T:
        """Run one op and give its result."""


def _pause(attempt: int) -> float:
    """Full jitter: up to 2 ms at first, doubling, at most 100 ms."""
    return random.uniform(0, min(0.1, 0.002 * 2**attempt))  # noqa: S311  # no secret


def is_lost(link: psycopg.AsyncConnection[Any], error: psycopg.Error) -> bool:
    """Whether the connection is gone, and with it the answer."""
    return link.closed or is_disconnect(error)


class AsyncPoolRunner:
    """Runs each op in a short transaction of its own."""

    bound = False

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    async def run(self, op: Op[T]) -> T:
        """Run one op, again where that is safe.

        Raises:
            PgmemError: what the op's `parse` or the server says.
            OutcomeUnknown: the connection was lost and a second run could do harm.
            Unavailable: no connection in time.
        """
        attempt = _Attempt(self._database, op)
        while True:
            try:
                return await attempt.go()
            except LostRace:
                await asleep(attempt.after_race())
            except psycopg.Error as error:
                await asleep(attempt.after(error))

    @asynccontextmanager
    async def transaction(
        self, action: str, *, read_committed: bool = False
    ) -> AsyncIterator[AsyncBoundRunner]:
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
        runner = AsyncBoundRunner(self._database, link)
        try:
            try:
                yield runner
            except BaseException:
                runner.finish()
                await _roll_back(link)
                raise
            runner.finish()
            await self._commit(link, action)
        finally:
            await self._database.give_back(link)

    async def _begin(self, action: str, *, read_committed: bool) -> AsyncLink:
        begin = b"BEGIN ISOLATION LEVEL READ COMMITTED" if read_committed else b"BEGIN"
        if self._database.relaxed:
            begin += b"; SET LOCAL synchronous_commit = off"
        for _ in range(MAX_REPEATS):
            link = await self._database.acquire(action)
            try:
                await link.execute(begin, prepare=False)
            except psycopg.Error as error:
                lost = is_lost(link, error)
                await link.close()
                await self._database.give_back(link)
                if not lost:
                    raise translate(error, action) from None
            else:
                return link
        raise Unavailable(f"{action}: the server ended {MAX_REPEATS} connections in a row")

    async def _commit(self, link: AsyncLink, action: str) -> None:
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


class _Attempt(Generic[T]):
    """The runs of one op, and what to do after each way that one can fail."""

    def __init__(self, database: AsyncDatabase, op: Op[T]) -> None:
        self._database = database
        self._op = op
        self._silent = False
        self._unknown = False
        self._repeats = 0
        self._races = 0
        self._lost = False
        self._deadline = 0.0

    async def go(self) -> T:
        """Run the statement once."""
        database, op = self._database, self._op
        query = database.statement(
            op, "silent" if self._silent else "try", relaxed=database.relaxed
        )
        link = await self._acquire()
        try:
            rows = await fetch(link, query, op.params)
            if link.unconfirmed:
                database.check_confirmed(link, op.action)
        except psycopg.Error as error:
            self._lost = is_lost(link, error)
            if self._lost:
                await link.close()
            raise
        finally:
            await database.give_back(link)
        database.bell_answered(rows)
        try:
            return op.parse(rows)
        except Conflict as conflict:
            if self._unknown and op.again is Again.GUARDED:
                raise self._outcome_unknown() from conflict
            raise

    async def _acquire(self) -> AsyncLink:
        try:
            return await self._database.acquire(self._op.action)
        except Unavailable as error:
            if self._unknown and self._op.again is not Again.READS:
                raise self._outcome_unknown() from error
            raise

    def after_race(self) -> float:
        """Another transaction won while the statement ran: how long to wait before the next."""
        self._races += 1
        if self._races > MAX_RACES:
            raise TransactionConflict(
                f"{self._op.action}: lost {MAX_RACES} races in a row. Try again later"
            )
        return 0.0 if self._races == 1 else _pause(min(self._races, 4))

    def after(self, error: psycopg.Error) -> float:
        """The server, or the connection, failed: raise, or say how long to wait."""
        if self._lost:
            return self._after_loss()
        if is_full_queue(error) and not self._silent:
            self._database.rest_bell()
            self._silent = True
            return 0.0
        if is_version_race(error):
            return self.after_race()
        if is_repeatable(error) and self._repeats < MAX_REPEATS:
            self._repeats += 1
            return _pause(self._repeats)
        raise translate(error, self._op.action) from None

    def _after_loss(self) -> float:
        now = time.monotonic()
        if not self._deadline:
            self._deadline = now + self._database.timeout
        if self._op.again is Again.HARMFUL:
            raise self._outcome_unknown() from None
        self._unknown = True
        self._repeats += 1
        if now > self._deadline:
            if self._op.again is Again.READS:
                raise Unavailable(
                    f"{self._op.action}: the connection to {self._database.where} was lost "
                    f"{self._repeats} times within {self._database.timeout:g} s. Try again later"
                ) from None
            raise self._outcome_unknown() from None
        return 0.0 if self._repeats == 1 else _pause(self._repeats)

    def _outcome_unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"{self._op.action}: the connection to {self._database.where} was lost while it was "
            f"under way: it may or may not have happened. Read back before writing again; an "
            f"idempotency key or an expected version makes a repeat harmless"
        )


async def _roll_back(link: AsyncLink) -> None:
    try:
        await link.rollback()
    except psycopg.Error:
        # The server rolls back what a lost connection left open.
        log.debug("rollback failed, closing the connection", exc_info=True)
        await link.close()


class AsyncBoundRunner:
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
        link = await adriver_connection(self._source)
        if link.autocommit and link.info.transaction_status == TransactionStatus.IDLE:
            raise InvalidOption(
                "the connection given to using() is in autocommit mode and no transaction is "
                "open: each statement would commit by itself. Open one first "
                "(`with connection.transaction():`), or use memory.transaction()"
            )
        return link

    async def usable(self) -> bool:
        """Whether the transaction can still commit."""
        link = await adriver_connection(self._source)
        return link.info.transaction_status == TransactionStatus.INTRANS

    async def run(self, op: Op[T]) -> T:
        """Run one op in the transaction.

        Raises:
            PgmemError: what the op's `parse` or the server says.
        """
        link = await self.connection()
        query = self._database.statement(op, "ring", relaxed=False)
        for _ in range(MAX_RACES):
            try:
                rows = await fetch(link, query, op.params)
                self._database.bell_answered(rows)
                return op.parse(rows)
            except LostRace:
                continue
            except psycopg.Error as error:
                raise self._fault(link, op, error) from None
        raise TransactionConflict(
            f"{op.action}: another transaction changed it after this one began and this one, by "
            f"its isolation level, cannot see it. Run the whole transaction again"
        )

    def _fault(
        self, link: psycopg.AsyncConnection[Any], op: Op[Any], error: psycopg.Error
    ) -> PgmemError | LostRace:
        if is_version_race(error):
            return LostRace()
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
