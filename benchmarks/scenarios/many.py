"""Measure many subscriptions in one process: the cost of the 50th for the others and the database.

One writer writes at a steady rate, and every subscription follows everything. For each event the
first and the last subscription to have it are timed. The server's work is the number of
transactions that it has committed in the readers' database, less the writer's: each statement of
pgmem's is one, and so is each notification to a listening connection.
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
    ROUND_TIMEOUT,
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
"""Seconds until a server process that only does the safety poll has reported its statistics."""


class Writer:
    """Run the writer's process, with a Memory for each of the readers' databases."""

    def __init__(self, urls: Mapping[str, str], number: int, url: str) -> None:
        self._memories = {kind: Memory(at, pool=1).open() for kind, at in urls.items()}
        self._next = 0

    def go(self, order: str, start: float, argument: float) -> range:
        """Append a number of events; return their numbers."""
        memory = self._memories[order]
        numbers = range(self._next, self._next + int(argument))
        self._next = numbers.stop

        def append(event: dict[str, Any]) -> None:
            memory.events.append(STREAM, Event(type=TYPE, payload=event, agent_id=AGENT))

        pace(append, numbers, start, 1 / RATE)
        with memory.transaction() as tx:
            # Otherwise the server reports the last statistics only after a while.
            tx.connection.execute("SELECT pg_stat_force_next_flush()")
        return numbers

    def close(self) -> None:
        """Close the memories."""
        for memory in self._memories.values():
            memory.close()


class Threads(SyncProcess):
    """Run a `Memory` with a subscription in each of `argument` threads."""

    def go(self, order: str, start: float, argument: float) -> list[Received]:
        """Follow until the last event of the one writer."""
        trays = [Tray(1) for _ in range(int(argument))]
        with ThreadPoolExecutor(len(trays)) as pool:
            positions = pool.map(functools.partial(follow, self._memory, self._position), trays)
            self._position = max(positions)
        time.sleep(FLUSH)
        return [tray.received() for tray in trays]


class Tasks(AsyncProcess):
    """Run an `AsyncMemory` with a subscription in each of `argument` tasks."""

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
    """Run 1 and 50 subscriptions in a process of threads, and in one of tasks."""
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
                    f"{size} × `for event in subscribe()`: the last subscription to have it",
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
    """Run a round with a number of subscriptions of one kind."""

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
        # The writer's transactions: its events and their notifications.
        transactions = self._committed() - before - self.count - 1
        faults = sum((received.audit([acknowledged]) for received in took), NO_FAULTS)
        first, last = _first_and_last(took)
        if not first:
            return Sample(ROUND_TIMEOUT * 1e6, faults)
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
    """Return the times of each event to the first subscription and to the last one."""
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
