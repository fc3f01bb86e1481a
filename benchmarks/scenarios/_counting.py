"""Run writers that increment counters: with pgmem, with Redis done right, and as published.

A process has up to four writers for each arm, as threads; each has a connection of its own. They
count what was acknowledged and what was refused. `contention` audits the stores.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, Protocol, TypeVar

from benchmarks.arms import published, records, right
from benchmarks.arms.published import ConcurrentModificationError, Published
from benchmarks.arms.right import Right
from benchmarks.crew import until
from pgmem import Memory
from pgmem.errors import VersionConflict

PROCESSES = 8
THREADS = 4
RETRIES = 1_000
"""The number of races that an update may lose."""

T = TypeVar("T")


class Urls(NamedTuple):
    """Hold where the stores are."""

    postgres: str
    always: str
    everysec: str
    prefix: str


class GaveUp(Exception):
    """Raised if an update was not made, and its writer got an error."""


class Counter(Protocol):
    """Define a writer's access to a store."""

    def increment(self, key: str, stream: str) -> int:
        """Add one, with the event; return the number of races that were lost first.

        Args:
            key: the counter.
            stream: the stream of the event, if it does not follow from the key.

        Raises:
            GaveUp: the update was not made.
        """

    def close(self) -> None:
        """Close the connection."""


class Counted(Generic[T]):
    """Count the calls of a change, which runs again after each lost race.

    Attributes:
        calls: the number of calls.
    """

    def __init__(self, change: Callable[[T], T]) -> None:
        self._change = change
        self.calls = 0

    def __call__(self, value: T) -> T:
        self.calls += 1
        return self._change(value)


class MemoryCounter:
    """Use `memory.state.update`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def increment(self, key: str, stream: str) -> int:
        """Add one; see `Counter`. The event goes to the key's own stream."""
        add = Counted[int](lambda value: value + 1)
        try:
            self._memory.state.update(key, add, max_retries=RETRIES)
        except VersionConflict:
            raise GaveUp from None
        return add.calls - 1

    def close(self) -> None:
        """Do nothing: the memory belongs to the process."""


class RightCounter:
    """Use `Right.update`: read, then Lua compare-and-set, again with the conflict's entry."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = right.connect(url)
        self._right = Right(self._client, prefix=prefix, agent_id="writer")

    def increment(self, key: str, stream: str) -> int:
        """Add one; see `Counter`."""
        add = Counted[int](lambda value: value + 1)
        try:
            self._right.update(key, add, max_retries=RETRIES, stream=stream)
        except records.Conflict:
            raise GaveUp from None
        return add.calls - 1

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class PublishedCounter:
    """Use `update_with_version`, three tries each, as in the article. It writes no event."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client = published.connect(url)
        self._published = Published(self._client, prefix=prefix)

    def increment(self, key: str, stream: str) -> int:  # no events
        """Add one; see `Counter`."""
        add = Counted[published.Fields](
            lambda current: {"value": int(current.get(b"value", 0)) + 1}
        )
        try:
            self._published.update_with_version(key, add)
        except ConcurrentModificationError:
            raise GaveUp from None
        return add.calls - 1

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class Done(NamedTuple):
    """Hold what one writer did in a round.

    Attributes:
        times: nanoseconds of each successful update.
        retries: races that were lost before them.
        gave_up: updates that were not made.
        by_key: successful updates of each key.
        start, end: from when to when, by `time.monotonic`.
    """

    times: list[int]
    retries: int
    gave_up: int
    by_key: dict[str, int]
    start: float
    end: float


class Writers:
    """Run one process: up to four writers for each arm."""

    def __init__(self, urls: Urls, number: int, url: str) -> None:
        assert url == urls.postgres
        self._number = number
        self._stack = contextlib.ExitStack()
        # The threads are kept, because the processor time of ended threads cannot be read.
        self._pool = self._stack.enter_context(ThreadPoolExecutor(THREADS))
        agent = f"writers-{number}"
        strict = self._stack.enter_context(Memory(url, pool=THREADS, agent_id=agent))
        relaxed = self._stack.enter_context(
            Memory(url, pool=THREADS, agent_id=agent, durability="relaxed")
        )
        self._counters: dict[str, list[Counter]] = {
            "pgmem": [MemoryCounter(strict)] * THREADS,
            "pgmem relaxed": [MemoryCounter(relaxed)] * THREADS,
            "redis always": [RightCounter(urls.always, urls.prefix) for _ in range(THREADS)],
            "redis everysec": [RightCounter(urls.everysec, urls.prefix) for _ in range(THREADS)],
            "published always": [
                PublishedCounter(urls.always, urls.prefix) for _ in range(THREADS)
            ],
        }

    def go(self, order: str, start: float, argument: float) -> list[Done]:
        """Increment for `argument` seconds, with this process's share of the writers."""
        arm, run, writers, keys = order.split("/")
        counters = names(run, int(keys))
        works = []
        mine = range(self._number, int(writers), PROCESSES)
        for counter, writer in zip(self._counters[arm], mine, strict=False):
            first = writer * len(counters) // int(writers)  # Each one begins at another key.
            turn = [*counters[first:], *counters[:first]]
            end = start + argument
            works.append(self._pool.submit(write, counter, run, turn, start, end))
        return [work.result() for work in works]

    def close(self) -> None:
        """Close all connections."""
        for counters in self._counters.values():
            for counter in counters:
                counter.close()
        self._stack.close()


def names(run: str, keys: int) -> list[str]:
    """Return the counters of a run."""
    return [f"{run}:{number}" for number in range(keys)]


def write(counter: Counter, run: str, keys: Sequence[str], start: float, end: float) -> Done:
    """Increment the keys in turn, from `start` to `end`."""
    times: list[int] = []
    retries = gave_up = 0
    by_key: dict[str, int] = {}
    clock = time.perf_counter_ns
    until(start)
    for key in itertools.cycle(keys):
        begun = clock()
        try:
            retries += counter.increment(key, run)
        except GaveUp:
            gave_up += 1
        else:
            times.append(clock() - begun)
            by_key[key] = by_key.get(key, 0) + 1
        if time.monotonic() >= end:
            break
    return Done(times, retries, gave_up, by_key, start, time.monotonic())
