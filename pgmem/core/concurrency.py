"""Do in pairs what tasks and threads do differently.

The async modules use the names that begin with `Async` or `async_`. `tools/generate_sync.py`
replaces them with their twins in `pgmem._sync`. No other module imports asyncio.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import math
import os
import select
import signal
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


def async_current_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop. Futures and sockets belong to one loop."""
    return asyncio.get_running_loop()


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
        if self._waiter is None:
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
            return bool(await waiter)
        except asyncio.CancelledError:
            # A call that came together with the cancellation is kept for the next wait.
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

    async def wait(self, socket: int, timeout: float) -> None:
        """Wait up to `timeout` seconds."""
        if socket != self._socket:
            self.forget()
            # Once, and not for every wait: each change is a call of the kernel.
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(socket, self._ready)
            self._socket = socket
        self._waiting = True
        try:
            await self._wakeup.wait(timeout)
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

    def wait(self, socket: int, timeout: float) -> None:
        """Wait up to `timeout` seconds."""
        if socket != self._socket:
            self.forget()
            self._poll.register(socket, select.POLLIN)
            self._socket = socket
        for ready, _ in self._poll.poll(max(0.0, timeout * 1000)):
            if ready == self._read:
                os.read(self._read, 1024)

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
    """Wait until one socket has something to read, at the least cost for each wait.

    The socket stays registered with the loop between waits, and one timer serves many of them.
    """

    def __init__(self, socket: int) -> None:
        self._socket = socket
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._fires = math.inf

    async def wait(self, deadline: float | None) -> bool:
        """Wait until there is something to read, or until a time of the monotonic clock.

        Returns:
            False if the time has come.
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
    """Wait until one socket has something to read."""

    def __init__(self, socket: int) -> None:
        self._poll = select.poll()
        self._poll.register(socket, select.POLLIN)

    def wait(self, deadline: float | None) -> bool:
        """Wait until there is something to read, or until a time of the monotonic clock.

        Returns:
            False if the time has come.
        """
        if deadline is None:
            self._poll.poll()
            return True
        return bool(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def forget(self) -> None:
        """Do nothing, because several readers can wait for one socket."""


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

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class ProcessSignals:
    """Stop everything that runs in this process at the first SIGTERM or SIGINT.

    There is one for the process, `SIGNALS`. It takes the signals while something that asked for it
    runs, and calls the handler that was there before it. A second signal has that handler only. It
    works in the main thread only, because Python delivers signals there.
    """

    def __init__(self) -> None:
        self._stops: dict[object, Callable[[], None]] = {}
        self._asking: set[object] = set()
        self._before: dict[signal.Signals, Any] = {}

    def add(self, key: object, stop: Callable[[], None], *, handle: bool) -> None:
        """Call `stop`, which only posts, at the first signal.

        Args:
            key: names it for `remove`.
            stop: stops what runs. It is called in the main thread, between any two instructions.
            handle: take the signals. If nothing that runs asked for it, they are left alone.
        """
        self._stops[key] = stop
        if not handle or threading.current_thread() is not threading.main_thread():
            return
        self._asking.add(key)
        if not self._before:
            for number in _STOPPING:
                self._before[number] = signal.signal(number, self._hear)

    def remove(self, key: object) -> None:
        """Forget what `add` added. The last one that asked for it restores the handlers."""
        self._stops.pop(key, None)
        self._asking.discard(key)
        if not self._asking and threading.current_thread() is threading.main_thread():
            self._restore()

    def _hear(self, number: int, frame: Any) -> None:
        before = self._before.get(signal.Signals(number))
        self._restore()
        for stop in list(self._stops.values()):
            stop()
        if callable(before) and not _ends_process(before):
            before(number, frame)

    def _restore(self) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            # A handler that was installed later stays.
            if signal.getsignal(number) == self._hear:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _ends_process(handler: Any) -> bool:
    """Return True for the handlers with which Python and asyncio end a program at once."""
    owner = getattr(getattr(handler, "func", None), "__self__", None)
    return isinstance(owner, asyncio.Runner) or handler is signal.default_int_handler


SIGNALS = ProcessSignals()


class AsyncStopSignals:
    """Stop what runs in the block at a signal; see `ProcessSignals`.

    Args:
        stop: called in the loop.
        handle: take the signals. False: only if another one in this process does.
    """

    def __init__(self, stop: Callable[[], None], *, handle: bool) -> None:
        self._stop = stop
        self._handle = handle
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        SIGNALS.add(self, self._post, handle=self._handle)

    def _post(self) -> None:
        with suppress(RuntimeError):  # The loop is closed.
            self._loop.call_soon_threadsafe(self._stop)

    def __exit__(self, *_: object) -> None:
        SIGNALS.remove(self)


class StopSignals:
    """Stop what runs in the block at a signal; see `ProcessSignals`.

    Args:
        stop: called in a thread.
        handle: take the signals. False: only if another one in this process does.
    """

    def __init__(self, stop: Callable[[], None], *, handle: bool) -> None:
        self._stop = stop
        self._handle = handle

    def __enter__(self) -> None:
        SIGNALS.add(self, self._post, handle=self._handle)

    def _post(self) -> None:
        # In another thread, because `stop` may want a lock that the interrupted one holds.
        threading.Thread(target=self._stop, name="pgmem-stop").start()

    def __exit__(self, *_: object) -> None:
        SIGNALS.remove(self)


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
