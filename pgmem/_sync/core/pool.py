# Generated from pgmem/core/pool.py by tools/generate_sync.py. Do not edit.
"""The connections of one process to one server.

psycopg's pool makes, limits and replaces them. In front of it a few stay at hand, because taking
one from the pool costs a fifth of a short read::

    acquire ──► at hand? ──► else ask the pool, as one who waits
    give back ──► somebody waits, it is due, not idle, or enough are at hand? ──► the pool
                  else ──► at hand

Whoever gives back looks for waiters after it has put the connection at hand, and whoever waits
looks at hand after it has said that it waits: one of the two always sees the other.

Knows nothing of statements.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from pgmem.core.arrays import register
from pgmem.core.concurrency import Lock
from pgmem.core.op import Row
from pgmem.errors import NotOpen, Unavailable

R = TypeVar("R")

KEPT_ROWS = 200
AT_HAND = 4
DUE_AFTER = 300.0
"""Seconds after which a connection passes through the pool, which replaces those of old age."""


_NOT_READY = 0  # psycopg's Ready.NONE: a tenth of a second has passed and nothing came


class NoAnswer(psycopg.OperationalError):
    """The server did not answer within the link's patience: the connection counts as lost."""


def _within(generator: Generator[Any, Any, R], seconds: float) -> Generator[Any, Any, R]:
    """Run a generator of psycopg's, and wait so long for its end and no longer."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(generator)
        while True:
            ready = yield wanted
            if ready == _NOT_READY and time.monotonic() > deadline:
                raise NoAnswer(f"no answer from the server within {seconds:g} s")
            wanted = generator.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


class Connection(psycopg.Connection[TupleRow]):
    """A connection of ours, with what makes a short statement cheap and a broken one known.

    Attributes:
        unconfirmed: the last commit was not confirmed by the standby that it must wait for. When
            that wait is cancelled, the server reports success and a mere warning: the commit may
            be lost with this server.
        due: when (by the monotonic clock) the connection next passes through the pool.
        patience: seconds in which the server must answer; None for ever. Only for statements that
            may be given up and run again.
    """

    unconfirmed = False
    due = 0.0
    answer_timeout: float | None = None

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a generator of psycopg's, as long as there is patience."""
        if self.answer_timeout is not None:
            gen = _within(gen, self.answer_timeout)
        return super().wait(gen, *args, **kwargs)

    def prepare_for_use(self) -> None:
        """Set up what every statement would otherwise make anew."""
        self.add_notice_handler(self._notice)
        register(self.adapters)
        self._kept = self.cursor(row_factory=tuple_row)
        self._poll = select.poll()
        self._poll.register(self.pgconn.socket, select.POLLIN)
        self.due = time.monotonic() + DUE_AFTER

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        # By the function that raised it: the text depends on the server's language.
        if diagnostic.source_function == "SyncRepWaitForLSN":
            self.unconfirmed = True

    def run(self, query: bytes, params: dict[str, Any]) -> Sequence[Row]:
        """Run one statement and fetch its rows."""
        cursor = self._kept
        cursor.execute(query, params)
        rows = cursor.fetchall()
        if len(rows) > KEPT_ROWS:
            # A cursor holds on to its last result: do not keep a large one in memory.
            self._kept = self.cursor(row_factory=tuple_row)
        return rows

    def is_stale(self) -> bool:
        """Whether the server has closed the connection while it was idle; costs no round trip.

        An idle connection has nothing to read. If it does, that is a notice, or the end. Finding
        out before a statement is sent means that it can safely go out on another connection.
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
    """The pool, and the few connections at hand in front of it.

    Args:
        options: psycopg's connection parameters.
        where: the server, for messages.
        sizes: the least and the most connections.
        timeout: seconds to wait for one.
        on_connect: is called with each new connection.
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
        self._at_hand: list[Connection] = []
        self._waiting = 0
        self._lock = Lock()

    @property
    def opened(self) -> bool:
        """Whether `open` was called, and `close` not yet."""
        return self._pool is not None

    def open(self, *, prepare: bool) -> None:
        """Make the least number of connections.

        Args:
            prepare: whether statements are prepared on them.

        Raises:
            Unavailable: not so many in time.
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
                f"{self._timeout:g} s: lower pool=, or raise the server's max_connections"
            ) from None
        finally:
            if not filled:
                pool.close()
        self._pool = pool
        self._pid = os.getpid()

    def _configure(self, link: Connection) -> None:
        link.prepare_for_use()
        self._on_connect(link)

    def close(self) -> None:
        """Close every connection; those that are in use, when they are given back."""
        pool, self._pool = self._pool, None
        if pool is None or self._pid != os.getpid():
            return
        while link := self._take():
            pool.putconn(link)
        pool.close()

    def acquire(self, action: str) -> Connection:
        """A live connection; give it back with `give_back`.

        Raises:
            NotOpen: not opened, closed, or in a forked child.
            Unavailable: none is free, or the server cannot be reached, in time.
        """
        pool = self._require_pool(action)
        deadline = 0.0
        while True:
            link = self._take()
            if link is None:
                deadline = deadline or time.monotonic() + self._timeout
                link = self._wait(pool, action, deadline)
            if not link.is_stale():
                return link
            self._discard(pool, link)

    @staticmethod
    def _discard(pool: ConnectionPool[Connection], link: Connection) -> None:
        try:
            link.close()
        finally:
            pool.putconn(link)

    def _take(self) -> Connection | None:
        try:
            return self._at_hand.pop()
        except IndexError:
            return None

    def _wait(self, pool: ConnectionPool[Connection], action: str, deadline: float) -> Connection:
        with self._lock:
            self._waiting += 1
        try:
            # Somebody may have put one there before we said that we wait.
            return self._take() or pool.getconn(max(0.05, deadline - time.monotonic()))
        except (PoolTimeout, TooManyRequests):
            raise Unavailable(
                f"{action}: no connection to {self._where} within {self._timeout:g} s: the "
                f"server is down or the pool of {self._sizes[1]} too small"
            ) from None
        except PoolClosed:
            raise NotOpen(f"{action}: this memory was closed") from None
        finally:
            with self._lock:
                self._waiting -= 1

    def require_open(self, action: str) -> None:
        """Refuse what cannot be done without connections.

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
                f"{os.getpid()}: connections do not survive a fork, open a memory in each process"
            )
        return self._pool

    def give_back(self, link: Connection) -> None:
        """Return a connection."""
        pool = self._pool
        if pool is None:
            link.close()
            return
        now = time.monotonic()
        if (
            self._waiting
            or len(self._at_hand) >= AT_HAND
            or now > link.due
            or link.pgconn.transaction_status != TransactionStatus.IDLE
        ):
            link.due = now + DUE_AFTER
            pool.putconn(link)
            return
        self._at_hand.append(link)
        if self._waiting or self._pool is None:
            # Somebody began to wait, or closed us, after we had looked.
            while taken := self._take():
                pool.putconn(taken)
