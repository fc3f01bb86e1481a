"""Pairs of what tasks and threads do differently.

The async modules use the names that begin with `Async` or `async_`. `tools/generate_sync.py`
replaces them with their twins when it makes `pgmem._sync`. No other module imports asyncio.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from pgmem.errors import InvalidInput

R = TypeVar("R")

AsyncLock = asyncio.Lock
Lock = threading.Lock

async_sleep = asyncio.sleep
sleep = time.sleep


class AsyncWakeup:
    """Wakes the one task that waits, from any thread; a call while nobody waits is kept."""

    def __init__(self) -> None:
        self._called = False
        self._waiter: asyncio.Future[bool] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def set(self) -> None:
        """Wake who waits, or the next one who does."""
        if self._loop is None:
            self._called = True
            if self._loop is None:
                return
            # Somebody has begun to wait meanwhile, and may have looked before the call.
        if threading.get_ident() == self._thread:
            self._set()
        else:
            with suppress(RuntimeError):  # The loop is closed: nobody waits.
                self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if self._waiter is None:
            self._called = True
        elif not self._waiter.done():
            self._waiter.set_result(True)

    async def wait(self, timeout: float | None) -> bool:
        """Wait for a call, at most `timeout` seconds (None: for ever); tells whether one came."""
        loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._loop = loop
        if self._called:
            self._called = False
            return True
        if timeout is not None and timeout <= 0:
            return False
        waiter = self._waiter = loop.create_future()
        timer = None if timeout is None else loop.call_later(timeout, _expire, waiter)
        try:
            return bool(await waiter)
        except asyncio.CancelledError:
            # A call that came together with the cancellation is kept for the next one.
            self._called = bool(waiter.done() and not waiter.cancelled() and waiter.result())
            raise
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class Wakeup:
    """Wakes the one thread that waits, from any thread; a call while nobody waits is kept."""

    def __init__(self) -> None:
        self._called = threading.Lock()  # taken: nobody has called
        self._called.acquire()

    def set(self) -> None:
        """Wake who waits, or the next one who does."""
        with suppress(RuntimeError):  # Called already.
            self._called.release()

    def wait(self, timeout: float | None) -> bool:
        """Wait for a call, at most `timeout` seconds (None: for ever); tells whether one came."""
        return self._called.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


class AsyncReadable:
    """Waits until a socket has something to read, or somebody calls."""

    def __init__(self) -> None:
        self._wakeup = AsyncWakeup()

    def set(self) -> None:
        """Wake who waits, from any thread."""
        self._wakeup.set()

    async def wait(self, socket: int, timeout: float) -> None:
        """Wait at most `timeout` seconds."""
        loop = asyncio.get_running_loop()
        loop.add_reader(socket, self._wakeup.set)
        try:
            await self._wakeup.wait(timeout)
        finally:
            loop.remove_reader(socket)

    def close(self) -> None:
        """Nobody waits any more."""


class Readable:
    """Waits until a socket has something to read, or somebody calls."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._lock = threading.Lock()  # `set` must not write to a number that is a new file's
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._socket = -1

    def set(self) -> None:
        """Wake who waits, from any thread."""
        with self._lock:
            if self._write >= 0:
                with suppress(BlockingIOError):  # Full: it is awake.
                    os.write(self._write, b"!")

    def wait(self, socket: int, timeout: float) -> None:
        """Wait at most `timeout` seconds."""
        if socket != self._socket:
            if self._socket >= 0:
                with suppress(KeyError):
                    self._poll.unregister(self._socket)
            self._poll.register(socket, select.POLLIN)
            self._socket = socket
        for ready, _ in self._poll.poll(max(0.0, timeout * 1000)):
            if ready == self._read:
                os.read(self._read, 1024)

    def close(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            read, write = self._read, self._write
            self._read = self._write = -1
        if write >= 0:
            os.close(read)
            os.close(write)


class AsyncWorker:
    """A task in the background, which ends when its function returns."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._task = asyncio.get_running_loop().create_task(run(), name=name)

    @property
    def here(self) -> bool:
        """Whether the caller is the worker itself."""
        return asyncio.current_task() is self._task

    @property
    def alive(self) -> bool:
        """Whether it still runs, in a loop that still runs."""
        return not self._task.done() and not self._task.get_loop().is_closed()

    async def join(self, answer_timeout: float) -> None:
        """Wait until it ends; after `patience` seconds, cancel it."""
        if self._task.get_loop() is asyncio.get_running_loop():
            done, _ = await asyncio.wait([self._task], timeout=answer_timeout)
            if not done:
                self._task.cancel()
                await asyncio.wait([self._task])


class Worker:
    """A thread in the background, which ends when its function returns."""

    def __init__(self, run: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether the caller is the worker itself."""
        return threading.current_thread() is self._thread

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def join(self, answer_timeout: float) -> None:
        """Wait until it ends, at most `patience` seconds."""
        self._thread.join(answer_timeout)


_STOPPING = (signal.SIGTERM, signal.SIGINT)


class AsyncStopSignals:
    """Calls a function once, when the process is told to end; a second signal does what it did.

    Only in the main thread: elsewhere signals are not ours to take.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                before = signal.getsignal(number)
                # A loop that is nobody's main one, or not of this platform, takes no signals: then
                # they end the process as they always did, and leases run out.
                with suppress(NotImplementedError, ValueError, RuntimeError):
                    self._loop.add_signal_handler(number, self._hear)
                    self._before[number] = before

    def _hear(self) -> None:
        self.__exit__()
        self._stop()

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, handler)


class StopSignals:
    """Calls a function once, when the process is told to end; a second signal does what it did.

    Only in the main thread: elsewhere signals are not ours to take.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                self._before[number] = signal.signal(number, self._hear)

    def _hear(self, *_: object) -> None:
        self.__exit__()
        # In a thread of its own: what this one holds while it is interrupted, `stop` may want.
        threading.Thread(target=self._stop, name="pgmem-stop").start()

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)


async def run_in_thread(function: Callable[..., R], *args: Any) -> R:
    """Run what works on files, or computes for long, where it holds nobody else up."""
    return await asyncio.to_thread(function, *args)


def run_inline(function: Callable[..., R], *args: Any) -> R:
    """Run what works on files, or computes for long: a thread waits for itself alone."""
    return function(*args)


async def maybe_await(value: Any) -> Any:
    """What a user's function gave, awaited if it is awaitable."""
    return await value if isinstance(value, Awaitable) else value


def passthrough(value: Any) -> Any:
    """What a user's function gave.

    Raises:
        InvalidInput: it is a coroutine, which nobody would ever run.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise InvalidInput("Memory was given an async function: use AsyncMemory for those")
    return value


_USING = (
    "using() takes a psycopg {connection}, or a SQLAlchemy {alchemy} on the psycopg driver "
    "(postgresql+psycopg://), got {got}"
)


async def async_driver_connection(source: Any) -> psycopg.AsyncConnection[Any]:
    """The psycopg connection below what a caller gave to `AsyncMemory.using`.

    Raises:
        InvalidInput: there is none below it.
    """
    found = source
    alchemy = sys.modules.get("sqlalchemy.ext.asyncio")
    if alchemy is not None:
        # A Session takes its connection, and begins its transaction, when first asked.
        if isinstance(source, alchemy.AsyncSession | alchemy.async_scoped_session):
            source = await source.connection()
        if isinstance(source, alchemy.AsyncConnection):
            found = (await source.get_raw_connection()).driver_connection
    if not isinstance(found, psycopg.AsyncConnection):
        raise InvalidInput(
            _USING.format(
                connection="AsyncConnection",
                alchemy="AsyncConnection or AsyncSession",
                got=type(found).__name__,
            )
        )
    return found


def driver_connection(source: Any) -> psycopg.Connection[Any]:
    """The psycopg connection below what a caller gave to `Memory.using`.

    Raises:
        InvalidInput: there is none below it.
    """
    found = source
    if "sqlalchemy.orm" in sys.modules:
        orm = sys.modules["sqlalchemy.orm"]
        if isinstance(source, orm.Session | orm.scoped_session):
            found = source = source.connection()
    if "sqlalchemy" in sys.modules:
        alchemy = sys.modules["sqlalchemy"]
        if isinstance(source, alchemy.Connection):
            found = source.connection.driver_connection
    if not isinstance(found, psycopg.Connection):
        raise InvalidInput(
            _USING.format(
                connection="Connection",
                alchemy="Connection or Session",
                got=type(found).__name__,
            )
        )
    return found
