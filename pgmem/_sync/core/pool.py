# Generated from pgmem/core/pool.py by tools/generate_sync.py. Do not edit.
"""Keep the connections of one process to one server.

psycopg's pool makes, limits and replaces connections. A few idle ones stay in a list in front of
it, because taking one from the pool costs a fifth of a short read::

    acquire ──► an idle connection? ──► else register as a waiter and ask the pool
    release ──► a waiter, due, not idle, or enough idle ones? ──► the pool
                else ──► the list of idle connections

Release publishes the connection, then checks for waiters. Acquire registers as a waiter, then
rechecks. So neither can miss the other.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from pgmem.core.arrays import register
from pgmem.core.concurrency import Lock
from pgmem.core.libpq import Session
from pgmem.core.op import Row
from pgmem.errors import NotOpen, Unavailable

R = TypeVar("R")

MAX_IDLE = 4
DUE_AFTER = 300.0
"""Seconds after which a connection goes back to the pool, which replaces old ones."""

CANCEL_TIMEOUT = 1.0
"""Seconds to wait for the server to take a cancel request."""

_NOT_READY = 0  # psycopg's Ready.NONE: nothing came for a tenth of a second


class AnswerTimeoutError(psycopg.OperationalError):
    """The server did not answer within `answer_timeout`. The connection counts as lost."""


def _run_within(generator: Generator[Any, Any, R], seconds: float) -> Generator[Any, Any, R]:
    """Run one of psycopg's generators for at most `seconds`."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(generator)
        while True:
            ready = yield wanted
            if ready == _NOT_READY and time.monotonic() > deadline:
                raise AnswerTimeoutError(f"no answer from the server within {seconds:g} s")
            wanted = generator.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


class Connection(psycopg.Connection[TupleRow]):
    """A connection that executes short statements cheaply and detects that it is broken.

    Attributes:
        unconfirmed: True if the last commit was not confirmed by its synchronous standby. If that
            wait is cancelled, the server reports success with a warning, and a failover may lose
            the commit.
        due: when the connection next goes back to the pool, by the monotonic clock.
        answer_timeout: seconds in which the server must answer; None for no limit.
    """

    unconfirmed = False
    due = 0.0
    answer_timeout: float | None = None

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one of psycopg's generators, for at most `answer_timeout` seconds."""
        if self.answer_timeout is not None:
            gen = _run_within(gen, self.answer_timeout)
        return super().wait(gen, *args, **kwargs)

    def _deallocate(self, name: bytes | None) -> PQGen[None]:
        # After a rollback psycopg deallocates all statements, not only its own. Inside a
        # transaction it would be too late to find that out: the error ends the transaction.
        if name is None:
            self._session.forget_prepared()
        return super()._deallocate(name)

    def prepare_for_use(self) -> None:
        """Make what every statement uses."""
        self.add_notice_handler(self._notice)
        register(self.adapters)
        self._session = Session(self, prepare=self.prepare_threshold is not None)
        self._poll = select.poll()
        self._poll.register(self.pgconn.socket, select.POLLIN)
        self.due = time.monotonic() + DUE_AFTER

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        # The function that raised it, because the text depends on the server's language.
        if diagnostic.source_function == "SyncRepWaitForLSN":
            self.unconfirmed = True

    def run(self, query: bytes, params: dict[str, Any]) -> Sequence[Row]:
        """Execute one statement and return its rows."""
        generator = self._session.execute(query, params)
        if self.answer_timeout is not None:
            generator = _run_within(generator, self.answer_timeout)
        rows: Sequence[Row] = super().wait(generator)
        return rows

    def abandon(self) -> None:
        """Close the connection, and ask the server to cancel a statement that is under way.

        Without that the statement would go on, and hold its locks.
        """
        if not self.closed and self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=CANCEL_TIMEOUT)
        self.close()

    def is_stale(self) -> bool:
        """Return True if the server has closed the idle connection, without a round trip.

        An idle connection has nothing to read, except a notice or the end of the connection. Before
        a statement is sent, another connection can take it safely.
        """
        try:
            for _ in range(10):
                if not self._poll.poll(0):
                    return False
                self.pgconn.consume_input()
        except (psycopg.Error, OSError):
            return True
        return self.pgconn.status != ConnStatus.OK


class Pool:
    """A pool of connections, with a few idle ones in front of it.

    Args:
        options: psycopg's connection parameters.
        where: the server, for messages.
        sizes: the least and the most connections.
        timeout: seconds to wait for one.
        on_connect: called with each new connection.
    """

    def __init__(
        self,
        options: dict[str, Any],
        *,
        where: str,
        sizes: tuple[int, int],
        timeout: float,
        on_connect: Callable[[psycopg.Connection[Any]], None],
    ) -> None:
        self._options = options
        self._on_connect = on_connect
        self._where = where
        self._sizes = sizes
        self._timeout = timeout
        self._pool: ConnectionPool[Connection] | None = None
        self._pid = 0
        self._idle: list[Connection] = []
        self._waiting = 0
        self._lock = Lock()

    @property
    def opened(self) -> bool:
        """True between `open` and `close`."""
        return self._pool is not None

    def open(self, *, prepare: bool) -> None:
        """Open the least number of connections.

        Args:
            prepare: prepare statements on them.

        Raises:
            Unavailable: they were not opened in time.
        """
        least, most = self._sizes
        pool = ConnectionPool(
            "",
            connection_class=Connection,
            kwargs={
                **self._options,
                "autocommit": True,
                "prepare_threshold": 1 if prepare else None,
            },
            min_size=least,
            max_size=most,
            timeout=self._timeout,
            configure=self._configure,
            open=False,
            name="pgmem",
        )
        filled = False
        try:
            pool.open(wait=True, timeout=self._timeout)
            filled = True
        except PoolTimeout:
            raise Unavailable(
                f"opened one connection to {self._where}, but not {least} within "
                f"{self._timeout:g} s. Lower pool=, or raise the server's max_connections"
            ) from None
        finally:
            if not filled:
                pool.close()
        self._pool = pool
        self._pid = os.getpid()

    def _configure(self, connection: Connection) -> None:
        connection.prepare_for_use()
        self._on_connect(connection)

    def close(self) -> None:
        """Close every connection. A connection in use is closed when it is released."""
        pool, self._pool = self._pool, None
        if pool is None or self._pid != os.getpid():
            return
        while connection := self._take():
            pool.putconn(connection)
        pool.close()

    def acquire(self, action: str, deadline: float = 0.0) -> Connection:
        """Return a live connection, for `release`.

        Args:
            action: what it is for, for messages.
            deadline: give up at this time of the monotonic clock; 0 for `timeout` seconds from now.

        Raises:
            NotOpen: not opened, closed, or in a forked child.
            Unavailable: none was free, or the server could not be reached, in time.
        """
        pool = self._require_pool(action)
        while True:
            connection = self._take()
            if connection is None:
                deadline = deadline or time.monotonic() + self._timeout
                connection = self._wait(pool, action, deadline)
            if not connection.is_stale():
                return connection
            self._discard(pool, connection)

    @staticmethod
    def _discard(pool: ConnectionPool[Connection], connection: Connection) -> None:
        try:
            connection.close()
        finally:
            pool.putconn(connection)

    def _take(self) -> Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _wait(self, pool: ConnectionPool[Connection], action: str, deadline: float) -> Connection:
        with self._lock:
            self._waiting += 1
        try:
            # A release may have published one before this registered.
            return self._take() or pool.getconn(max(0.05, deadline - time.monotonic()))
        except (PoolTimeout, TooManyRequests):
            raise Unavailable(
                f"{action}: no connection to {self._where} within {self._timeout:g} s. The server "
                f"is down, or the pool of {self._sizes[1]} is too small"
            ) from None
        except PoolClosed:
            raise NotOpen(f"{action}: this memory was closed") from None
        finally:
            with self._lock:
                self._waiting -= 1

    def require_open(self, action: str) -> None:
        """Raise if there are no connections.

        Raises:
            NotOpen: not opened, closed, or in a forked child.
        """
        self._require_pool(action)

    def _require_pool(self, action: str) -> ConnectionPool[Connection]:
        if self._pool is None:
            raise NotOpen(f"{action}: open the memory first (`with Memory(…) as memory:`)")
        if self._pid != os.getpid():
            raise NotOpen(
                f"{action}: this memory was opened in process {self._pid} and this is "
                f"{os.getpid()}. Connections do not survive a fork: open a memory in each process"
            )
        return self._pool

    def release(self, connection: Connection) -> None:
        """Give a connection back."""
        pool = self._pool
        if pool is None:
            connection.close()
            return
        now = time.monotonic()
        if (
            self._waiting
            or len(self._idle) >= MAX_IDLE
            or now > connection.due
            or connection.pgconn.transaction_status != TransactionStatus.IDLE
        ):
            connection.due = now + DUE_AFTER
            pool.putconn(connection)
            return
        self._idle.append(connection)
        if self._waiting or self._pool is None:
            # A waiter registered, or the pool was closed, after the check above.
            while taken := self._take():
                pool.putconn(taken)
