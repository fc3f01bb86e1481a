"""Many subscriptions in one process: what the 50th adds for the others and for the database.

One writer at a steady rate; every subscription follows everything. For each event the first and
the last of them to have it are timed. What the server did is counted by the transactions that it
has committed in the readers' database, less the writer's: each statement of pgmem's own is one,
and so is each bell that a listening connection hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from benchmarks.audit import NO_FAULTS
from benchmarks.crew import Crew, WorkFactory, crew, together
from benchmarks.figures import percentile
from benchmarks.harness import Arm, Comparison, Limit, Sample, Scenario
from benchmarks.scenarios._base import AGENT, STREAM, TYPE, Bare, Bench, Entry, bare
from benchmarks.scenarios._following import (
    PATIENCE,
    WARM_EVENTS,
    AsyncProcess,
    Received,
    SyncProcess,
    Tray,
    follow,
    follow_async,
    pace,
)
from pgmem import Event, Memory

MANY, RATE = 50, 100
SPREAD, TRANSACTIONS = "last / first", "transactions per event"
FLUSH = 2.5
"""Seconds until a server process that does nothing but the safety poll has told what it did."""


class Writer:
    """The writer's process, with a Memory for each of the readers' databases."""

    def __init__(self, urls: Mapping[str, str], number: int, url: str) -> None:
        self._memories = {kind: Memory(at, pool=1).open() for kind, at in urls.items()}
        self._next = 0

    def go(self, order: str, start: float, argument: float) -> range:
        """Append as many events as told; tells their numbers."""
        memory = self._memories[order]
        numbers = range(self._next, self._next + int(argument))
        self._next = numbers.stop

        def append(event: dict[str, Any]) -> None:
            memory.events.append(STREAM, Event(type=TYPE, payload=event, agent_id=AGENT))

        pace(append, numbers, start, 1 / RATE)
        with memory.transaction() as tx:
            # Else the server tells of the last of them only after a while.
            tx.connection.execute("SELECT pg_stat_force_next_flush()")
        return numbers

    def close(self) -> None:
        """Close the memories."""
        for memory in self._memories.values():
            memory.close()


class Threads(SyncProcess):
    """One process with a `Memory`: as many threads with a subscription as the argument says."""

    def go(self, order: str, start: float, argument: float) -> list[Received]:
        """Follow until the last event of the one writer."""
        trays = [Tray(1) for _ in range(int(argument))]
        with ThreadPoolExecutor(len(trays)) as pool:
            positions = pool.map(functools.partial(follow, self._memory, self._position), trays)
            self._position = max(positions)
        time.sleep(FLUSH)
        return [tray.received() for tray in trays]


class Tasks(AsyncProcess):
    """The same with an `AsyncMemory` and tasks."""

    def go(self, order: str, start: float, argument: float) -> list[Received]:
        """Follow until the last event of the one writer."""
        trays = [Tray(1) for _ in range(int(argument))]
        self._position = self._loop.run(self._follow(trays))
        return [tray.received() for tray in trays]

    async def _follow(self, trays: Sequence[Tray]) -> int:
        following = (follow_async(self._memory, self._position, tray) for tray in trays)
        positions = await asyncio.gather(*following)
        await asyncio.sleep(FLUSH)
        return max(positions)


@contextlib.contextmanager
def many(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """1 and 50 subscriptions in a process of threads, and in one of tasks."""
    count = 200 if bench.quick else 400
    kinds: dict[str, WorkFactory] = {"tasks": Tasks, "threads": Threads}
    with contextlib.ExitStack() as stack:
        urls = {kind: stack.enter_context(bench.postgres.database()) for kind in kinds}
        watching = stack.enter_context(bare(bench.postgres.url))  # not in their databases
        writer = stack.enter_context(crew(functools.partial(Writer, urls), 1))
        arms = []
        for kind, make in kinds.items():
            reader = stack.enter_context(crew(make, 1, urls[kind]))
            measure = _Measure(kind, urls[kind], reader, writer, watching, count)
            arms += [
                Arm(
                    f"{size} {kind}",
                    functools.partial(measure, size),
                    f"{size} × `for event in subscribe()`: the last one to have it",
                )
                for size in (1, MANY)
            ]
        yield [_scenario(bench, arms, count)]


def _scenario(bench: Bench, arms: Sequence[Arm], count: int) -> Scenario:
    kinds = ("tasks", "threads")
    return Scenario(
        "many",
        f"append to delivery to the last of many subscriptions in a process, p50: 1 writer at "
        f"{RATE}/s ({count} events a round)",
        "µs",
        arms,
        [
            Comparison(f"{MANY} {kind}", f"1 {kind}", at_most=at_most, figure=figure)
            for kind in kinds
            for figure, at_most in ((None, None), (TRANSACTIONS, 1.1))
        ],
        [Limit(f"{MANY} {kind}", SPREAD, 2.0) for kind in kinds],
        rounds=bench.counted(3, 2),
    )


@dataclass(frozen=True, slots=True)
class _Measure:
    """Runs a round with so many subscriptions of one kind."""

    kind: str
    url: str
    reader: Crew
    writer: Crew
    watching: Bare
    count: int

    def __call__(self, size: int) -> Sample:
        before = self._committed()
        [took], [acknowledged] = together(
            (self.reader, "follow", size), (self.writer, self.kind, self.count)
        )
        # The writer's: its events, and telling of them.
        transactions = self._committed() - before - self.count - 1
        faults = sum((received.audit([acknowledged]) for received in took), NO_FAULTS)
        first, last = _first_and_last(took)
        if not first:
            return Sample(PATIENCE * 1e6, faults)
        figures = {
            "first": statistics.median(first),
            SPREAD: statistics.median(last) / statistics.median(first),
            "p99": percentile(last, 0.99),
            TRANSACTIONS: transactions / self.count,
        }
        return Sample(statistics.median(last), faults, figures)

    def _committed(self) -> int:
        row = self.watching.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = %s",
            (conninfo_to_dict(self.url)["dbname"],),
        ).fetchone()
        assert row is not None
        return int(row[0])


def _first_and_last(took: Sequence[Received]) -> tuple[list[float], list[float]]:
    """How long each event was on its way to the first who had it, and to the last."""
    ways: dict[int, list[float]] = {}
    for received in took:
        for number, latency in zip(received.numbers, received.latencies(), strict=True):
            ways.setdefault(number, []).append(latency)
    measured = [ways[number] for number in sorted(ways)[WARM_EVENTS:]]
    return [min(way) for way in measured], [max(way) for way in measured]


ENTRIES = (
    Entry(
        "many",
        "50 subscriptions in one process beside one: latency, and the server's work",
        many,
        (95, 60),
        quick=False,
    ),
)
