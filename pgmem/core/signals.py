"""Stop what runs at a signal, in pairs for tasks and threads; see `pgmem.core.concurrency`."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

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
