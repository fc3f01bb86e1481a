"""Wait for sockets, in pairs for tasks and threads; see `pgmem.core.concurrency`."""

from __future__ import annotations

import asyncio
import math
import os
import select
import threading
import time
from contextlib import suppress

import psycopg
from psycopg.pq.abc import PGconn

from pgmem.core.concurrency import AsyncWakeup


class AsyncReadable:
    """Wait until a socket has something to read, or `set` is called."""

    def __init__(self) -> None:
        self._wakeup = AsyncWakeup()
        self._waiting = False
        self._socket = -1
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self) -> None:
        """Wake the waiter, from any thread."""
        self._wakeup.set()

    async def wait(self, socket: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds. Return False after that."""
        if socket != self._socket:
            self.forget()
            # Once, and not for every wait: each change is a call of the kernel.
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(socket, self._ready)
            self._socket = socket
        self._waiting = True
        try:
            return await self._wakeup.wait(timeout)
        finally:
            self._waiting = False

    def _ready(self) -> None:
        if self._waiting:
            self._wakeup.set()
        else:
            self.forget()  # Else the loop would call this all the time until it is read.

    def forget(self) -> None:
        """Forget the socket, before it is closed."""
        if self._socket >= 0 and self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket = -1

    def close(self) -> None:
        """Release the descriptors. Nothing may wait any more."""
        self.forget()


class Readable:
    """Wait until a socket has something to read, or `set` is called."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._lock = threading.Lock()  # `set` must not write to a number that is a new file's
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._socket = -1

    def set(self) -> None:
        """Wake the waiter, from any thread."""
        with self._lock:
            if self._write >= 0:
                with suppress(BlockingIOError):  # Full: it is awake.
                    os.write(self._write, b"!")

    def wait(self, socket: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds. Return False after that."""
        if socket != self._socket:
            self.forget()
            self._poll.register(socket, select.POLLIN)
            self._socket = socket
        found = self._poll.poll(max(0.0, timeout * 1000))
        for ready, _ in found:
            if ready == self._read:
                os.read(self._read, 1024)
        return bool(found)

    def forget(self) -> None:
        """Forget the socket, before it is closed."""
        if self._socket >= 0:
            with suppress(KeyError):
                self._poll.unregister(self._socket)
        self._socket = -1

    def close(self) -> None:
        """Release the descriptors. Nothing may wait any more."""
        with self._lock:
            read, write = self._read, self._write
            self._read = self._write = -1
        if write >= 0:
            os.close(read)
            os.close(write)


class AsyncSocketReader:
    """Read the socket of one connection into libpq, at the least cost for each wait.

    The socket stays registered with the loop between waits, and one timer serves many of them. It
    is read as soon as the loop reports it. If the waiting task read it, the loop would report it
    once more before that task runs, and wake the next wait for nothing.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        self._socket = pgconn.socket
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._fires = math.inf

    async def wait(self, deadline: float | None) -> bool:
        """Read until libpq has a result, or until a time of the monotonic clock.

        Returns:
            False if the time has come.

        Raises:
            psycopg.OperationalError: the connection is lost.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.forget()
            loop.add_reader(self._socket, self._ready)
            self._loop = loop
        self._deadline = math.inf if deadline is None else deadline
        if self._deadline < self._fires:
            self._start_timer(loop)
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        try:
            return await waiter
        finally:
            self._waiter = None

    def _ready(self) -> None:
        if self._waiter is None:
            # The server has closed an idle connection. Left registered, it would be reported in
            # each turn of the loop.
            self.forget()
        elif not self._waiter.done():
            try:
                self._pgconn.consume_input()
            except psycopg.OperationalError as error:
                self._waiter.set_exception(error)
            else:
                if not self._pgconn.is_busy():
                    self._waiter.set_result(True)

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires = self._deadline
        self._timer = loop.call_later(max(0.0, self._fires - time.monotonic()), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._fires = math.inf
        if self._waiter is None or self._waiter.done():
            return
        if time.monotonic() >= self._deadline:
            self._waiter.set_result(False)
        elif self._deadline < math.inf:
            self._start_timer(loop)  # The timer was an earlier wait's.

    def forget(self) -> None:
        """Register anew at the next wait, because another reader has replaced this one."""
        loop, self._loop = self._loop, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._fires = math.inf
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._socket)


class SocketReader:
    """Read the socket of one connection into libpq."""

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        self._poll = poll.poll

    def wait(self, deadline: float | None) -> bool:
        """Read once something has come, or wait until a time of the monotonic clock.

        Returns:
            False if the time has come.

        Raises:
            psycopg.OperationalError: the connection is lost.
        """
        if deadline is None:
            self._poll()
        else:
            left = (deadline - time.monotonic()) * 1000
            if not self._poll(left if left > 0 else 0):
                return False
        self._pgconn.consume_input()
        return True

    def forget(self) -> None:
        """Do nothing, because several readers can wait for one socket."""
