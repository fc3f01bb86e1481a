"""Keep the connections of one process to one server.

::

    acquire ──► an idle connection? ──► else register as a waiter
    release ──► is it still good? ──► the list of idle connections
    serve   ──► idle connections to the waiters, in order; a new one for each waiter that is left

Release publishes the connection, then checks for waiters. Acquire registers as a waiter, then
rechecks. So neither can miss the other.

Connections are made in the background. So a caller waits no longer than its deadline, however long
a silent server takes, and a caller that is cancelled while it waits has nothing to clean up. While
a caller waits, a failed try is repeated after `RETRY` seconds. So a server that was restarted is
found at once.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from os import getpid
from time import monotonic
from typing import Any

from psycopg.pq import TransactionStatus

from pgmem.core.concurrency import GRACE, AsyncBackground, AsyncWakeup, Lock, async_current_loop
from pgmem.core.connection import AsyncConnection
from pgmem.core.outage import Outage, reason_of
from pgmem.errors import NotOpen, Unavailable

LIFETIME = 3600.0
"""Seconds, at most, that a connection is used. An old session keeps memory on the server."""

UNUSED = 600.0
"""Seconds after which a connection that was not needed is closed, down to the least number."""

RETRY = 0.1
"""Seconds, at most, between two tries to connect while a caller waits."""

_IDLE = int(TransactionStatus.IDLE)

CLOSING = 1.0
"""Seconds, at most, that `close` waits for what runs in the background."""


class _Waiter:
    """A call that waits for a connection."""

    def __init__(self) -> None:
        self.wakeup = AsyncWakeup()
        self.connection: AsyncConnection | None = None


class AsyncPool:
    """A pool of connections.

    Args:
        options: psycopg's connection parameters.
        where: the server, for messages.
        sizes: the least and the most connections.
        timeout: seconds to wait for one.
        on_connect: called with each new connection.
        outage: is told when the server cannot be reached, and when it can again.
    """

    def __init__(
        self,
        options: dict[str, Any],
        *,
        where: str,
        sizes: tuple[int, int],
        timeout: float,
        on_connect: Callable[[AsyncConnection], Awaitable[None]],
        outage: Outage,
    ) -> None:
        self._options = options
        self._on_connect = on_connect
        self._where = where
        self._least, self._most = sizes
        self._timeout = timeout
        self._outage = outage
        self._opened = False
        self._generation = 0
        self._pid = 0
        self._loop: object = None
        self._prepare = False
        self._lock = Lock()
        self._idle: list[AsyncConnection] = []
        self._waiters: deque[_Waiter] = deque()
        self._size = 0  # how many connections there are, also in use or being made
        self._connecting = 0
        self._failure: Exception | None = None
        self._retry_at = 0.0
        self.background = AsyncBackground()

    @property
    def size(self) -> int:
        """The most connections."""
        return self._most

    @property
    def opened(self) -> bool:
        """True between `open` and `close`."""
        return self._opened

    async def open(self, *, prepare: bool) -> None:
        """Open the least number of connections.

        Args:
            prepare: prepare statements on them.

        Raises:
            Unavailable: they were not opened in time.
        """
        self._opened, self._prepare = True, prepare
        self._generation += 1
        self._pid, self._loop = getpid(), async_current_loop()
        self._size = self._connecting = 0
        self._retry_at = 0.0
        deadline = monotonic() + self._timeout
        taken: list[AsyncConnection] = []
        filled = False
        try:
            while len(taken) < self._least:
                taken.append(await self.acquire("open the pool", deadline))
            filled = True
        except Unavailable:
            if not taken:
                raise
            raise Unavailable(
                f"opened {len(taken)} connections to {self._where}, but not {self._least} within "
                f"{self._timeout:g} s. Lower pool=, or raise the server's max_connections"
            ) from None
        finally:
            for connection in taken:
                self.release(connection)
            if not filled:
                await self.close()

    async def close(self) -> None:
        """Close every connection. A connection in use is closed when it is released."""
        if not self._opened:
            return
        if self._pid != getpid():
            self._opened = False
            self._idle.clear()
            return
        await self.background.join(GRACE)  # What it releases needs a connection.
        self._opened = False
        with self._lock:
            waiters = list(self._waiters)
        for waiter in waiters:
            waiter.wakeup.set()
        while connection := self._take():
            connection.finish()
        await self.background.end(CLOSING)

    async def acquire(self, action: str, deadline: float = 0.0) -> AsyncConnection:
        """Return a live connection, for `release`.

        Args:
            action: what it is for, for messages.
            deadline: give up at this time of the monotonic clock; 0 for `timeout` seconds from now.

        Raises:
            NotOpen: not opened, closed, in a forked child, or in another event loop.
            Unavailable: none was free, or the server could not be reached, in time.
        """
        if not self._opened or self._pid != getpid() or self._loop is not async_current_loop():
            self.require_open(action)
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break  # Another thread has taken it.
            if not connection.unread(0) or not connection.is_stale():
                return connection
            self._discard(connection)
        return await self._wait(action, deadline or monotonic() + self._timeout)

    def take_idle(self) -> AsyncConnection | None:
        """Return a live idle connection, for `release`; None if there is none. It never waits."""
        while connection := self._take():
            if not connection.is_stale():
                return connection
            self._discard(connection)
        return None

    def _take(self) -> AsyncConnection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    async def _wait(self, action: str, deadline: float) -> AsyncConnection:
        waiter = _Waiter()
        with self._lock:
            self._waiters.append(waiter)
        try:
            while self._opened:
                self._serve()
                connection, waiter.connection = waiter.connection, None
                if connection is not None:
                    if not connection.is_stale():
                        return connection
                    with self._lock:
                        self._waiters.appendleft(waiter)
                    self._discard(connection)
                    continue
                now = monotonic()
                if now >= deadline:
                    raise self._unavailable(action)
                # After a failure each waiter sees to it that there is another try.
                until = self._retry_at if self._retry_at > now else deadline
                await waiter.wakeup.wait(min(until, deadline) - now)
            raise NotOpen(f"{action}: this memory was closed")
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                connection = waiter.connection
            if connection is not None:  # It came together with a cancellation or Ctrl-C.
                self.release(connection)

    def _unavailable(self, action: str) -> Unavailable:
        if self._failure is not None:
            return Unavailable(
                f"{action}: cannot connect to {self._where} (tried for {self._timeout:g} s): "
                f"{reason_of(self._failure)}. Check that the server runs and that the URL is right"
            )
        if self._connecting:
            return Unavailable(
                f"{action}: no connection to {self._where} within {self._timeout:g} s. The server "
                f"does not answer"
            )
        return Unavailable(
            f"{action}: no connection to {self._where} within {self._timeout:g} s: all "
            f"connections of the pool of {self._most} are in use. Raise pool=, or hold "
            f"transactions for less time"
        )

    def _serve(self) -> None:
        """Give idle connections to the waiters, and connect for those that are left."""
        with self._lock:
            while self._waiters:
                connection = self._take()
                if connection is None:
                    break
                waiter = self._waiters.popleft()
                waiter.connection = connection
                waiter.wakeup.set()
            new = min(len(self._waiters) - self._connecting, self._most - self._size)
            if new <= 0 or not self._opened or monotonic() < self._retry_at:
                return
            self._connecting += new
            self._size += new
        for _ in range(new):
            self.background.run(self._connect, self._generation)

    async def _connect(self, generation: int) -> None:
        """Make a connection for the first waiter."""
        failure: Exception | None = None
        connection: AsyncConnection | None = None
        began = monotonic()
        try:
            connection = await self._make()
        except Exception as error:
            failure = error
        finally:
            waiters = self._connected(connection, failure, generation, began)
        for waiter in waiters:
            waiter.wakeup.set()

    def _connected(
        self,
        connection: AsyncConnection | None,
        failure: Exception | None,
        generation: int,
        began: float,
    ) -> list[_Waiter]:
        """Take over a new connection. Return the waiters that must learn of a failure."""
        if not self._opened or generation != self._generation:
            if connection is not None:
                connection.finish()
            return []
        with self._lock:
            self._connecting -= 1
            self._failure = failure
            if connection is None:
                self._size -= 1
                self._retry_at = monotonic() + RETRY * random.uniform(0.5, 1.0)  # noqa: S311
            else:
                self._retry_at = 0.0
                self._idle.append(connection)
            waiters = list(self._waiters)
        if connection is not None:
            self._outage.end("pool")
            self._serve()
            return []
        if failure is not None:
            self._outage.begin("pool", reason_of(failure), began)
        return waiters

    async def _make(self) -> AsyncConnection:
        connection = await AsyncConnection.connect(
            **self._options, autocommit=True, prepare_threshold=1 if self._prepare else None
        )
        try:
            connection.answer_timeout = self._timeout
            connection.prepare_for_use(self.background)
            await self._on_connect(connection)
        except BaseException:
            connection.finish()
            raise
        connection.check_after = self._timeout / 2
        connection.answer_timeout, connection.generation = None, self._generation
        now = connection.used_at = monotonic()
        connection.due = now + LIFETIME * random.uniform(0.9, 1.0)  # noqa: S311  # not all at once
        return connection

    def require_open(self, action: str) -> None:
        """Raise if there are no connections that the caller may use.

        Raises:
            NotOpen: not opened, closed, in a forked child, or in another event loop.
        """
        if not self._opened:
            raise NotOpen(f"{action}: open the memory first (`with Memory(…) as memory:`)")
        if self._pid != getpid():
            raise NotOpen(
                f"{action}: this memory was opened in process {self._pid} and this is "
                f"{getpid()}. Connections do not survive a fork: open a memory in each process"
            )
        if self._loop is not async_current_loop():
            raise NotOpen(
                f"{action}: this memory was opened in another event loop, and its connections "
                f"belong to that loop. Close it and open it in this one, or make a memory in each "
                f"loop (each asyncio.run() has a new loop)"
            )

    def release(self, connection: AsyncConnection) -> None:
        """Give a connection back. It waits for nothing, so it works after a cancellation."""
        now = monotonic()
        if (
            not self._opened
            or connection.given_up
            or now > connection.due
            or connection.pgconn.transaction_status != _IDLE
        ):
            self._discard(connection)
            return
        connection.used_at = now
        self._idle.append(connection)
        if self._waiters:
            self._serve()
        elif not self._opened:
            # It was closed after the check above.
            while taken := self._take():
                taken.finish()
        elif len(self._idle) > self._least:
            self._close_unused(now)

    def discard_unused(self, since: float) -> None:
        """Close the idle connections that were last used before a time.

        The server has not answered another connection since then. They may be as silent: a firewall
        or a failover drops all of them without a word. Each one would cost its caller a timeout.

        Args:
            since: the time, by the monotonic clock.
        """
        kept: list[AsyncConnection] = []
        while connection := self._take():
            if connection.used_at < since:
                self._discard(connection)
            else:
                kept.append(connection)
        for connection in reversed(kept):
            self._idle.append(connection)
        if self._waiters:
            self._serve()

    def _close_unused(self, now: float) -> None:
        """Close the connection that was not used for the longest time, if that is long."""
        try:
            if now - self._idle[0].used_at > UNUSED:
                self._discard(self._idle.pop(0))
        except IndexError:
            pass  # Another thread has taken it.

    def _discard(self, connection: AsyncConnection) -> None:
        """Close a connection, and make room for another one."""
        connection.give_up()
        if connection.generation == self._generation:
            with self._lock:
                self._size -= 1
        if self._waiters:
            self._serve()
