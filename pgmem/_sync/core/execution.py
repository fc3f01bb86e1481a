# Generated from pgmem/core/execution.py by tools/generate_sync.py. Do not edit.
"""Execute an `Op` on a pooled connection or inside a transaction.

The pool executor gives each op a short transaction of its own, and executes again what may be
executed again; see `pgmem._sync.core.retry`. The transaction executor works in a transaction that its
owner ends, so an error of the server ends the transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from pgmem._sync.core.coalesce import Coalescer, ExecuteAloneError
from pgmem._sync.core.connection import AnswerTimeoutError, Connection
from pgmem._sync.core.database import Database, fetch
from pgmem._sync.core.retry import (
    FAILURES,
    LEAST_TIMEOUT,
    MAX_RACES,
    MAX_REPEATS,
    Attempts,
    ConnectionLostError,
    fallback_of,
    is_lost,
    is_timeout,
)
from pgmem.core.call_queue import CallQueue
from pgmem.core.concurrency import GRACE, Background, sleep
from pgmem.core.libpq import Call
from pgmem.core.op import Op, RefusedError, Retry, RetryStatement, Row
from pgmem.core.sources import begin_nested, driver_connection
from pgmem.core.sqlstates import (
    is_full_queue,
    is_refused,
    is_repeatable,
    is_rolled_back,
    is_unprepared,
    is_version_race,
    translate,
)
from pgmem.core.statements import INLINE, INLINE_ALL, NotifyMode
from pgmem.core.transaction_block import HARMLESS, TransactionBlock
from pgmem.errors import (
    Conflict,
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


class Executor(Protocol):
    """Execute ops."""

    @property
    def bound(self) -> bool:
        """True if the ops join a transaction that its owner ends."""

    def execute(self, op: Op[T]) -> T:
        """Execute an op and return its result."""


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


class PoolExecutor:
    """Execute each op in a short transaction of its own.

    Attributes:
        database: the connections.
        open_blocks: the open `transaction()` blocks of the memory.
    """

    bound = False

    def __init__(self, database: Database) -> None:
        self.database = database
        self._coalescer = Coalescer(database, self._execute_merged)
        self.open_blocks: set[TransactionBlock] = set()

    @property
    def background(self) -> Background:
        """Runs what is left to do after a call was cancelled."""
        return self.database.background

    @property
    def sessions(self) -> int:
        """How many connections were made. A new one may lead to a server that has crashed."""
        return self.database.sessions

    def execute(self, op: Op[T], *, answer_timeout: float | None = None) -> T:
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
        deadline = time.monotonic() + self.database.timeout
        queue = self._coalescer.queue_of(op) if answer_timeout is None else None
        try:
            if queue is None:
                return self._execute_once(op, "if_free", deadline, answer_timeout)
            if not queue.admit():
                return self._execute_queued(queue, op, deadline)
            try:
                return self._execute_once(op, "if_free", deadline, None)
            finally:
                queue.leave()
        except FAILURES as failure:
            if not op.bounded and not is_timeout(failure):
                deadline = time.monotonic() + self.database.timeout
            attempts = Attempts(self.database, op, deadline)
            pause = attempts.after(failure)
            op = fallback_of(op, failure)
        while True:
            sleep(pause)
            try:
                return self._execute_once(op, attempts.notify, deadline, answer_timeout)
            except FAILURES as failure:
                pause = attempts.after(failure)
                op = fallback_of(op, failure)
            except (Conflict, Unavailable) as error:
                if attempts.hides_success(error):
                    raise attempts.outcome_unknown() from error
                raise

    def _execute_queued(self, queue: CallQueue, op: Op[T], deadline: float) -> T:
        """Execute an op together with others."""
        # In a forked child none of those under way ever ends, and a lock may be taken for ever.
        self.database.require_open(op.action)
        try:
            return op.parse(queue.wait(queue.join(op, deadline)))
        except ExecuteAloneError:
            return self._execute_once(op, "if_free", deadline, None)

    def _execute_merged(self, op: Op[T], deadline: float) -> T:
        return self._execute_once(op, "if_free", deadline, None)

    def execute_apart(self, op: Op[T]) -> T:
        """Execute a long op once, on a connection of its own, so that it occupies none of the pool.

        Raises:
            PgmemError: the error of the op's `parse`, or of the server.
            Unavailable: no connection in time, or it was lost under way.
        """
        query = self.database.statement(op, "never", relaxed=False)
        connection = self.database.connect()
        try:
            rows = connection.run(query, op.params, check=self.database.check_alive)
        except psycopg.Error as error:
            raise translate(error, op.action) from None
        finally:
            connection.give_up()
        return op.parse(rows)

    def _execute_once(
        self, op: Op[T], notify: NotifyMode, deadline: float, answer_timeout: float | None
    ) -> T:
        database = self.database
        connection = database.acquire(op.action, deadline)
        if op.bounded:
            remaining = max(LEAST_TIMEOUT, deadline - time.monotonic())
            connection.answer_timeout = remaining
            if answer_timeout is not None:
                connection.answer_timeout = min(answer_timeout, remaining)
                connection.grace = 0.0
        asked_at = time.monotonic()
        try:
            query = database.statement(op, notify, relaxed=database.relaxed or op.async_commit)
            check = None if op.bounded else database.check_alive
            rows = connection.run(query, database.params(op), check=check)
            if op.async_commit and len(rows) > 1 and not database.relaxed:
                self._wait_for_flush(connection)
            if connection.unconfirmed:
                database.check_confirmed(connection, op.action)
        except psycopg.Error as error:
            if is_lost(connection, error):
                connection.give_up()
                if answer_timeout is not None and isinstance(error, AnswerTimeoutError):
                    database.discard_unused(asked_at)
                raise ConnectionLostError from error
            raise
        finally:
            connection.answer_timeout, connection.grace = None, GRACE
            database.release(connection)
        if op.retry is not Retry.READ:
            database.check_notify_result(rows)
        return op.parse(rows)

    def _wait_for_flush(self, connection: Connection) -> None:
        """Wait until the WAL of what was committed is flushed."""
        try:
            connection.run(self.database.commit_wait, {})
        except psycopg.Error as error:
            # The commit is visible and a crash may still undo it: the same as a lost answer.
            connection.give_up()
            raise ConnectionLostError from error

    def execute_together(self, ops: Sequence[Op[Any]], action: str) -> list[Any]:
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
        deadline = time.monotonic() + database.timeout
        connection = database.acquire(action, deadline)
        connection.answer_timeout = max(LEAST_TIMEOUT, deadline - time.monotonic())
        try:
            rows = self._run_unit(connection, calls, action)
            database.check_confirmed(connection, action)
        finally:
            connection.answer_timeout = None
            database.release(connection)
        results = rows[-1 - len(ops) : -1]
        for found in results:
            database.check_notify_result(found)
        return [op.parse(found) for op, found in zip(ops, results, strict=True)]

    def _run_unit(
        self, connection: Connection, calls: Sequence[Call], action: str
    ) -> list[Sequence[Row]]:
        try:
            (answer,) = connection.run_units([calls])
        except psycopg.Error as error:
            answer = error
        if not isinstance(answer, psycopg.Error):
            return answer
        if is_lost(connection, answer):
            connection.give_up()
            raise lost_in_commit(action, self.database.where) from None
        _roll_back(connection)
        if is_refused(answer):
            raise RefusedError
        if is_full_queue(answer):
            self.database.pause_notify()
        if is_full_queue(answer) or is_version_race(answer) or is_unprepared(answer):
            raise RetryStatement
        raise translate(answer, action) from None

    @contextmanager
    def transaction(
        self, action: str, *, read_committed: bool = False
    ) -> Iterator[TransactionExecutor]:
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
        connection = self.database.acquire(action)
        connection.deferred = self._begin(read_committed=read_committed)
        executor = TransactionExecutor(self.database, connection, owned=connection)
        try:
            try:
                yield executor
            except Exception:
                connection = executor.finish(connection)
                connection.answer_timeout = self.database.timeout
                _roll_back(connection)
                raise
            except BaseException:
                # A cancelled task must not wait: the server rolls back when the connection ends.
                executor.finish(connection).give_up()
                raise
            self._commit(executor.finish(connection), action)
            executor.committed = True
        finally:
            executor.release()

    def _begin(self, *, read_committed: bool) -> list[Call]:
        begin = b"BEGIN ISOLATION LEVEL READ COMMITTED" if read_committed else b"BEGIN"
        calls: list[Call] = [(begin, None)]
        if self.database.relaxed:
            calls.append((b"SET LOCAL synchronous_commit = off", None))
        return calls

    def _commit(self, connection: Connection, action: str) -> None:
        status = connection.info.transaction_status
        if status == TransactionStatus.INERROR:
            _roll_back(connection)
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
        try:
            connection.run_deferred((b"COMMIT", None))
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
            _roll_back(connection)
            if is_repeatable(error):
                raise translate(error, action) from None
            raise  # A deferred constraint of the user's own schema.
        finally:
            connection.answer_timeout = None
        self.database.check_confirmed(connection, action)


def _roll_back(connection: Connection) -> None:
    connection.deferred = []
    if connection.info.transaction_status == TransactionStatus.IDLE:
        return
    try:
        connection.rollback()
    except psycopg.Error:
        # The server rolls back what a lost connection left open.
        connection.give_up()


class TransactionExecutor:
    """Execute ops in a transaction that its owner ends: `transaction()`'s block, or the caller.

    Args:
        database: the connections.
        source: what `using()` takes.
        owned: the connection if it is the pool's; None for the caller's own.

    Attributes:
        committed: the transaction was committed. Stays False for the caller's own.
    """

    bound = True

    def __init__(self, database: Database, source: Any, *, owned: Connection | None = None) -> None:
        self._database = database
        self._source = source
        self._owned = owned
        self._exposed = False
        self._savepoints = 0
        self._inlined = 0
        self._finished = False
        self.committed = False

    def finish(self, first: Connection) -> Connection:
        """Refuse further ops, because the transaction is over. Return its connection.

        Args:
            first: the connection that it began on.
        """
        self._finished = True
        return self._source if isinstance(self._source, Connection) else first

    def release(self) -> None:
        """Give the connection back to the pool."""
        connection, self._owned = self._owned, None
        if connection is not None:
            connection.answer_timeout = None
            connection.deferred = []
            self._database.release(connection)

    def expose(self) -> psycopg.Connection[Any]:
        """Return the connection, and keep it from now on: the caller's own statements use it."""
        self._exposed = True
        connection: psycopg.Connection[Any] = self._source
        return connection

    def connection(self) -> psycopg.Connection[Any]:
        """Return the psycopg connection of the transaction.

        Raises:
            NotOpen: the transaction is over.
            InvalidInput: there is no such connection, it commits each statement by itself, or it
                is in pipeline mode.
        """
        if self._finished:
            raise NotOpen("this transaction is over: use what comes from transaction() inside it")
        connection = driver_connection(self._source)
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

    def usable(self) -> bool:
        """Return True if the transaction can still commit."""
        connection = driver_connection(self._source)
        status = connection.info.transaction_status
        return status == TransactionStatus.INTRANS or (
            status == TransactionStatus.IDLE and not _is_idle(connection)
        )

    def defer(self, op: Op[None]) -> None:
        """Execute an op together with the next statement, or with the commit.

        On the caller's own connection it is executed now.
        """
        connection = self.connection()
        if not isinstance(connection, Connection):
            self.execute(op)
            return
        query = self._database.statement(op, "always", relaxed=False)
        connection.deferred.append((query, self._database.params(op)))

    def execute(self, op: Op[T]) -> T:
        """Execute an op in the transaction.

        Raises:
            PgmemError: the error of the op's `parse`, or of the server.
        """
        connection = self.connection()
        op = self._within_limit(op)
        # A transaction that has notified cannot be prepared for a two-phase commit.
        notify: NotifyMode = "never" if connection._tpc else "always"
        query = self._database.statement(op, notify, relaxed=False)
        for _ in range(MAX_RACES):
            try:
                rows = self._fetch(connection, query, op)
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

    def _fetch(
        self, connection: psycopg.Connection[Any], query: bytes, op: Op[Any]
    ) -> Sequence[Row]:
        if not isinstance(connection, Connection):
            # The caller's connection: its own settings bound the statement.
            return fetch(connection, query, self._database.params(op))
        return self._fetch_here(connection, query, op)

    def _fetch_here(self, connection: Connection, query: bytes, op: Op[Any]) -> Sequence[Row]:
        """Execute on pgmem's own connection, or on another one if BEGIN was lost."""
        repeats = 0
        while True:
            with connection.lock:  # Another task may use `tx.connection`.
                if self._owned is None or connection is self._owned:
                    deferred = list(connection.deferred)
                    try:
                        return self._run(connection, query, op)
                    except psycopg.Error as error:
                        repeats += 1
                        if repeats > MAX_REPEATS or not self._has_not_begun(
                            connection, deferred, error
                        ):
                            raise
                    connection = self._replace(connection, deferred, op.action)
                else:
                    connection = self._owned

    def _run(self, connection: Connection, query: bytes, op: Op[Any]) -> Sequence[Row]:
        check = None if op.bounded else self._database.check_alive
        connection.answer_timeout = self._database.timeout if op.bounded else None
        try:
            return connection.run(query, self._database.params(op), check=check)
        finally:
            connection.answer_timeout = None

    def _has_not_begun(
        self, connection: Connection, deferred: Sequence[Call], error: psycopg.Error
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

    def _replace(self, connection: Connection, deferred: list[Call], action: str) -> Connection:
        """Begin on another connection of the pool, and return it.

        Raises:
            Unavailable: there is none in time, or the caller took `tx.connection` meanwhile.
        """
        connection.give_up()
        self.release()  # First, because a pool of one has no other.
        other = self._database.acquire(action)
        if self._exposed:
            self._database.release(other)
            raise lost_in_block(action)
        other.deferred = deferred
        self._owned = self._source = other
        return other

    def _fault(
        self, connection: psycopg.Connection[Any], op: Op[Any], error: psycopg.Error
    ) -> PgmemError | RetryStatement:
        if is_version_race(error):
            return RetryStatement()
        if is_lost(connection, error):
            return lost_in_block(op.action)
        return translate(error, op.action)

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Undo a block of the caller's code on any exception and leave the transaction usable.

        It is a savepoint of the caller's framework, if there is one: SQLAlchemy expires the objects
        that the block changed, Django drops its `on_commit` callbacks.
        """
        with begin_nested(self._source) or self.savepoint():
            yield

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo statements of pgmem's own on any exception and leave the transaction usable.

        It uses plain statements, because psycopg's own block would commit a transaction that has
        not begun yet.
        """
        connection = self.connection()
        name = f"pgmem_{self._savepoints}".encode()
        self._savepoints += 1
        begin: Call = (b"SAVEPOINT " + name, None)
        release: Call = (b"RELEASE SAVEPOINT " + name, None)
        _send(connection, begin)
        try:
            yield
        except BaseException:
            connection = self._current(connection)
            if not connection.closed:
                _undo(connection, begin, (b"ROLLBACK TO SAVEPOINT " + name, None), release)
            raise
        finally:
            self._savepoints -= 1
        _send(self._current(connection), release)

    def _current(self, connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
        """Return the pool's connection that has replaced a lost one, or `connection`."""
        return connection if self._owned is None else self._owned


def _is_idle(connection: psycopg.Connection[Any]) -> bool:
    """Return True if the next statement would commit by itself."""
    return (
        connection.autocommit
        and connection.info.transaction_status == TransactionStatus.IDLE
        and not (isinstance(connection, Connection) and connection.deferred)
    )


def _send(connection: psycopg.Connection[Any], call: Call) -> None:
    """Execute a statement that returns nothing: on pgmem's connection, with the next one."""
    if isinstance(connection, Connection):
        connection.deferred.append(call)
    else:
        connection.execute(call[0], prepare=False)


def _undo(connection: psycopg.Connection[Any], begin: Call, roll_back: Call, release: Call) -> None:
    """Undo what came after a savepoint."""
    if not isinstance(connection, Connection):
        connection.execute(roll_back[0], prepare=False)
        connection.execute(release[0], prepare=False)
    elif begin in connection.deferred:
        del connection.deferred[connection.deferred.index(begin) :]
    else:
        connection.deferred = []
        connection.run_deferred(roll_back, release)
