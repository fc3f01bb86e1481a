"""Do in pairs what tasks and threads do differently.

The async modules use the names that begin with `Async` or `async_`. `tools/generate_sync.py`
replaces them with their twins in `pgmem._sync`. `pgmem.core.sockets` and `pgmem.core.signals` hold
the pairs for sockets and signals.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from pgmem.errors import InvalidInput

R = TypeVar("R")

GRACE = 0.5
"""Seconds, at most, that a caller waits for the end of what it gives up."""

AsyncLock = asyncio.Lock
Lock = threading.Lock

async_sleep = asyncio.sleep
sleep = time.sleep

async_drive = psycopg.waiting.wait_async
drive = psycopg.waiting.wait


async_current_loop = asyncio.get_running_loop
"""Return the running event loop. Futures and sockets belong to one loop."""


def current_loop() -> object:
    """Return None: a thread may use what another one has made."""
    return None


class AsyncWakeup:
    """Wake the one waiting task, from any thread. A call while none waits is kept.

    Attributes:
        rouse: called after `set`, for a task that waits for something else besides.
    """

    rouse: Callable[[], None] | None = None

    def __init__(self) -> None:
        self._called = False
        self._waiter: asyncio.Future[bool] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def set(self) -> None:
        """Wake the waiting task, or the next one that waits."""
        if self._loop is None:
            self._called = True
            if self._loop is None:
                return
            # A task has begun to wait meanwhile, and may have checked before the call.
        if threading.get_ident() == self._thread:
            self._set()
        else:
            with suppress(RuntimeError):  # The loop is closed: no task waits.
                self._loop.call_soon_threadsafe(self._set)

    @property
    def called(self) -> bool:
        """True if there was a call since the last wait."""
        return self._called

    def _set(self) -> None:
        if self._waiter is None or (self._waiter.done() and not _was_called(self._waiter)):
            # The wait is over, also if its task has not run yet.
            self._called = True
        elif not self._waiter.done():
            self._waiter.set_result(True)
        if self.rouse is not None:
            self.rouse()

    async def wait(self, timeout: float | None) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for a call. Return True if one came."""
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
            called = await waiter or self._called
        except asyncio.CancelledError:
            # A call that came together with the cancellation is kept for the next wait.
            self._called = self._called or (waiter.done() and _was_called(waiter))
            raise
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        self._called = False
        return called


def _was_called(waiter: asyncio.Future[bool]) -> bool:
    """Return True if a finished wait ended with a call, False after a timeout or cancellation."""
    return not waiter.cancelled() and waiter.result()


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


class Wakeup:
    """Wake the one waiting thread, from any thread. A call while none waits is kept.

    Attributes:
        rouse: called after `set`, for a thread that waits for something else besides.
    """

    rouse: Callable[[], None] | None = None

    def __init__(self) -> None:
        self._called = threading.Lock()  # taken: there was no call
        self._called.acquire()

    def set(self) -> None:
        """Wake the waiting thread, or the next one that waits."""
        with suppress(RuntimeError):  # Called already.
            self._called.release()
        rouse = self.rouse
        if rouse is not None:
            rouse()

    @property
    def called(self) -> bool:
        """True if there was a call since the last wait."""
        return not self._called.locked()

    def wait(self, timeout: float | None) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for a call. Return True if one came."""
        return self._called.acquire(timeout=-1 if timeout is None else max(0.0, timeout))


class AsyncWorker:
    """Run a function in a background task."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._task = asyncio.get_running_loop().create_task(run(), name=name)

    @property
    def is_current(self) -> bool:
        """True if the caller is the worker itself."""
        return asyncio.current_task() is self._task

    @property
    def alive(self) -> bool:
        """True if it still runs, in a loop that still runs."""
        return not self._task.done() and not self._task.get_loop().is_closed()

    async def join(self, timeout: float) -> None:
        """Wait until it ends. Cancel it after `timeout` seconds."""
        if self._task.get_loop() is asyncio.get_running_loop():
            done, _ = await asyncio.wait([self._task], timeout=timeout)
            if not done:
                self._task.cancel()
                await asyncio.wait([self._task])


class Worker:
    """Run a function in a background thread."""

    def __init__(self, run: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """True if the caller is the worker itself."""
        return threading.current_thread() is self._thread

    @property
    def alive(self) -> bool:
        """True if it still runs."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait until it ends, up to `timeout` seconds."""
        self._thread.join(timeout)


class AsyncBackground:
    """Run short functions beside the caller, which does not wait for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run a function in a task of its own. It handles its own errors."""
        self._start(function, args)

    def _start(
        self, function: Callable[..., Coroutine[Any, Any, None]], args: tuple[Any, ...]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(function(*args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run_for(
        self, seconds: float, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Run a function in a task of its own, and wait up to `seconds` for its end.

        A cancellation ends the wait, not the function.
        """
        await asyncio.wait([self._start(function, args)], timeout=seconds)

    async def join(self, timeout: float) -> None:
        """Wait until all have ended, up to `timeout` seconds."""
        if tasks := self._of_this_loop():
            await asyncio.wait(tasks, timeout=timeout)

    async def end(self, timeout: float) -> None:
        """Wait until all have ended. Cancel them after `timeout` seconds."""
        await self.join(timeout)
        for task in self._of_this_loop():
            task.cancel()
        self._tasks.clear()

    def _of_this_loop(self) -> list[asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        return [task for task in self._tasks if task.get_loop() is loop]


class Background:
    """Run short functions beside the caller, which does not wait for them."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    def run(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function in a thread of its own. It handles its own errors."""
        self._start(function, args)

    def _start(self, function: Callable[..., None], args: tuple[Any, ...]) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._threads.add(thread)
        thread.start()
        return thread

    def run_for(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """Run a function in a thread of its own, and wait up to `seconds` for its end."""
        self._start(function, args).join(seconds)

    def _run(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        finally:
            self._threads.discard(threading.current_thread())

    def join(self, timeout: float) -> None:
        """Wait until all have ended, up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def end(self, timeout: float) -> None:
        """Wait until all have ended, up to `timeout` seconds."""
        self.join(timeout)


INTERRUPTS = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)
"""Exceptions that end what runs, and say nothing about it."""


class AsyncCaller:
    """Call functions of users: coroutine functions in the loop, plain ones in a thread.

    A plain function in the loop would stop everything else in it.

    Args:
        most: the most plain functions that run at the same time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: ThreadPoolExecutor | None = None

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function, and return what it returns."""
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # an object with an async __call__
        ):
            return await function(*args)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="pgmem-handler")
        run = functools.partial(contextvars.copy_context().run, function, *args)
        return await maybe_await(
            await asyncio.get_running_loop().run_in_executor(self._threads, run)
        )

    def close(self) -> None:
        """Let the threads end when their functions have."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)


class Caller:
    """Call functions of users.

    Args:
        most: is not needed in threads.
    """

    def __init__(self, most: int) -> None:
        del most

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function, and return what it returns."""
        return passthrough(function(*args))

    def close(self) -> None:
        """Do nothing."""


async def run_in_thread(function: Callable[..., R], *args: Any) -> R:
    """Run a function that works on files or computes for long in a thread, beside the loop."""
    return await asyncio.to_thread(function, *args)


def run_inline(function: Callable[..., R], *args: Any) -> R:
    """Run a function in this thread."""
    return function(*args)


async def maybe_await(value: Any) -> Any:
    """Return what a user's function returned, awaited if it is awaitable."""
    return await value if isinstance(value, Awaitable) else value


def passthrough(value: Any) -> Any:
    """Return what a user's function returned.

    Raises:
        InvalidInput: it is a coroutine, which would never run.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise InvalidInput(
            "Memory was given an async function. Give a plain function, or use AsyncMemory"
        )
    return value
