"""Writers and subscribers in the background, and a comparison of their events with the log."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from contextlib import contextmanager

import psycopg

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import OutcomeUnknown, Unavailable
from tests.support.waiting import wait_until

LISTENER = "pgmem-listener"
"""The application name of a subscriber's listening session."""


class Follower:
    """A subscription of either form, with its own thread and memory.

    Attributes:
        got: position, payload and time of arrival of each event, in the order of arrival.
        error: the error that ended the subscription.
    """

    def __init__(self, form: str, url: str, *, subscribe=None, prepare=None, **options) -> None:
        self.got: list[tuple[int, object, float]] = []
        self.error: BaseException | None = None
        self._subscribe = subscribe or {}
        self._prepare = prepare
        self._url = url
        self._options = {"timeout": 2, **options}
        self._ready = threading.Event()
        self._stopping = False
        run = self._follow if form == "sync" else lambda: asyncio.run(self._follow_async())
        self._thread = threading.Thread(target=self._guard, args=(run,), daemon=True)
        self._thread.start()
        assert self._ready.wait(30), "the follower did not begin"

    def _guard(self, run) -> None:
        try:
            run()
        except BaseException as error:  # The test reads it from `error`.
            self.error = error
        finally:
            self._ready.set()

    def _name(self, memory) -> None:
        memory._database.listen_options["application_name"] = LISTENER
        if self._prepare:
            self._prepare(memory)

    def _take(self, events) -> None:
        now = time.monotonic()
        self.got += [(event.position, event.payload, now) for event in events]

    def _follow(self) -> None:
        with Memory(self._url, **self._options) as memory:
            self._name(memory)
            with memory.events.subscribe(**self._subscribe) as subscription:
                self._ready.set()
                while not self._stopping:
                    self._take(subscription.receive(500, timeout=0.1))

    async def _follow_async(self) -> None:
        async with AsyncMemory(self._url, **self._options) as memory:
            self._name(memory)
            async with memory.events.subscribe(**self._subscribe) as subscription:
                self._ready.set()
                while not self._stopping:
                    self._take(await subscription.receive(500, timeout=0.1))

    @property
    def positions(self) -> list[int]:
        return [position for position, _, _ in self.got]

    def wait(self, until, timeout: float = 30, what: str = "the follower") -> None:
        """Wait until `until()` is true; raise the error that ended the subscription."""
        wait_until(lambda: self.error is not None or until(), timeout, what)
        if self.error is not None:
            raise self.error

    def wait_for_error(self, timeout: float = 30) -> BaseException:
        """Wait until an error ends the subscription; return it."""
        wait_until(lambda: self.error is not None, timeout, "an error")
        return self.error

    def arrival_after(self, moment: float) -> float | None:
        """Return the time of arrival of the first event that was appended after `moment`."""
        return next((at for _, sent, at in list(self.got) if sent and sent > moment), None)

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the follower did not end"

    def finish(self, url: str, after: int = 0) -> None:
        """Check that each event of the log arrived once and in order, and end the subscription."""
        try:
            logged = positions(url, after)
            self.wait(lambda: len(self.got) >= len(logged), what=f"{len(logged)} events")
        finally:
            self.stop()
        if self.error is not None:
            raise self.error
        assert self.positions == logged, differences(self.positions, logged)


def positions(url: str, after: int = 0) -> list[int]:
    """Read the positions of the log."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT position FROM pgmem.events WHERE position > %s ORDER BY position", [after]
        )
        return [position for (position,) in rows]


def differences(got: list[int], logged: list[int]) -> str:
    missed = sorted(set(logged) - set(got))
    twice = len(got) - len(set(got))
    disorder = sum(1 for a, b in itertools.pairwise(got) if b <= a)
    return f"missed {missed[:20]} of {len(logged)}, twice {twice}, out of order {disorder}"


class Writers:
    """Threads that append the current time and continue after an error."""

    def __init__(self, url: str, count: int = 3, *, pause: float = 0.01, **options) -> None:
        self.acknowledged: list[int] = []
        self.failed: list[BaseException] = []
        self._stopping = False
        self._pause = pause
        self._memory = Memory(url, **{"pool": count, "timeout": 1, **options}).open()
        self._threads = [threading.Thread(target=self._write) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _write(self) -> None:
        while not self._stopping:
            try:
                receipt = self._memory.events.append("s", Event(type="t", payload=time.monotonic()))
                self.acknowledged.append(receipt.position)
            except (OutcomeUnknown, Unavailable) as error:
                self.failed.append(error)
            time.sleep(self._pause)

    def wait_for(self, more: int, timeout: float = 30) -> None:
        """Wait until `more` further appends are acknowledged."""
        wanted = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= wanted, timeout, f"{more} more appends")

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(30)
        self._memory.close()


@contextmanager
def writing(url: str, count: int = 3, **options):
    """Run writers until the end of the block."""
    writers = Writers(url, count, **options)
    try:
        yield writers
    finally:
        writers.stop()


def listeners(admin) -> list[int]:
    """Read the pids of the subscribers' listening sessions in this database."""
    rows = admin.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s "
        "AND datname = current_database()",
        [LISTENER],
    )
    return [pid for (pid,) in rows]


def percentile(values, share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
