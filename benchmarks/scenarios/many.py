"""Many subscriptions in one process: what the 50th adds for the others and for the database.

One writer at a steady rate; every subscription follows everything. For each event the first and
the last of them to have it are timed. What the server was asked is counted by the transactions
that it has committed in the readers' database, less the writer's: each statement of pgmem's own
is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.audit import NO_FAULTS
from benchmarks.crew import Crew, crew, together
from benchmarks.harness import Arm, Comparison, Limit, Sample, Scenario, percentile
from benchmarks.scenarios._base import Bare, Bench, Entry, bare
from benchmarks.scenarios._following import (
    PATIENCE,
    WARM_EVENTS,
    Lane,
    Received,
    Tray,
    Writer,
    follow,
    follow_async,
)
from pgmem import AsyncMemory, Memory

MANY, RATE = 50, 100
FLUSH = 2.5
"""Seconds until a server process that does nothing but the safety poll has told what it did."""


class Threads:
    """One process with a `Memory`: as many threads with a subscription as the argument says."""

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=1).open()
        with self._memory.events.subscribe(after="now") as events:
            self._position = events.position

    def go(self, order: str, start: float, argument: float) -> list[Received]:
        """Follow until the last event of the one writer."""
        trays = [Tray(1) for _ in range(int(argument))]
        with ThreadPoolExecutor(len(trays)) as pool:
            positions = pool.map(functools.partial(follow, self._memory, self._position), trays)
            self._position = max(positions)
        return [tray.received() for tray in trays]

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()


class Tasks:
    """The same with an `AsyncMemory` and tasks."""

    def __init__(self, number: int, url: str) -> None:
        self._loop = asyncio.Runner()
        self._memory = self._loop.run(AsyncMemory(url, pool=1).open())
        self._position = self._loop.run(self._now())

    async def _now(self) -> int:
        async with self._memory.events.subscribe(after="now") as events:
            return events.position

    def go(self, order: str, start: float, argument: float) -> list[Received]:
        """Follow until the last event of the one writer."""
        trays = [Tray(1) for _ in range(int(argument))]
        self._position = self._loop.run(self._follow(trays))
        return [tray.received() for tray in trays]

    async def _follow(self, trays: Sequence[Tray]) -> int:
        following = (follow_async(self._memory, self._position, tray) for tray in trays)
        return max(await asyncio.gather(*following))

    def close(self) -> None:
        """Close the memory."""
        self._loop.run(self._memory.close())
        self._loop.close()


@contextlib.contextmanager
def many(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """1 and 50 subscriptions in a process of threads, and in one of tasks."""
    events = 200 if bench.quick else 400
    kinds = {"tasks": Tasks, "threads": Threads}
    with contextlib.ExitStack() as stack:
        urls = {kind: stack.enter_context(bench.postgres.database()) for kind in kinds}
        # From elsewhere: looking must not count.
        watching = stack.enter_context(bare(bench.postgres.url))
        lanes = {kind: Lane("pgmem", url) for kind, url in urls.items()}
        writer = stack.enter_context(crew(functools.partial(Writer, lanes), 1))
        arms = []
        for kind, make in kinds.items():
            reader = stack.enter_context(crew(make, 1, urls[kind]))
            measure = _Measure(kind, reader, writer, watching, stack.enter_context(bare(urls[kind])), events)
            arms += [
                Arm(
                    f"{size} {kind}",
                    functools.partial(measure, size),
                    f"{size} × `for event in subscribe()`, the last one to have it",
                )
                for size in (1, MANY)
            ]
        yield [
            Scenario(
                "many",
                f"append to delivery to the last of many subscriptions in a process, p50: 1 writer"
                f" at {RATE}/s ({events} events a round)",
                "µs",
                arms,
                [
                    Comparison(f"{MANY} {kind}", f"1 {kind}", figure=figure)
                    for kind in kinds
                    for figure in (None, "queries per event")
                ],
                [Limit(f"{MANY} {kind}", "last / first", 2.0) for kind in kinds],
                rounds=bench.counted(7, 2),
            )
        ]


