"""Measure how soon `state.get` from the process's own copies returns a new value.

`latest` measures how fast it is. A copy is dropped when the event of its change arrives, so a
change of another process cannot be seen before a subscription would receive it. The polling reader
sleeps a little between its gets: without that, it would keep the thread that follows the log from
running.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.crew import Crew, WorkFactory, crew, together
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.scenarios._base import Bench, Entry
from benchmarks.scenarios._following import (
    ROUND_TIMEOUT,
    Received,
    SyncReader,
    Tray,
    as_sample,
    pace,
)
from pgmem import Memory

COPIES = 10_000
HOT = "account:hot"
RATE = 100
NAP = 50e-6
"""Seconds between two gets of the reader that polls."""


class Writer:
    """Put one entry again and again, in the readers' databases."""

    def __init__(self, urls: Mapping[str, str], number: int, url: str) -> None:
        self._memories = {name: Memory(at, pool=1).open() for name, at in urls.items()}
        self._next = 0

    def go(self, order: str, start: float, argument: float) -> range:
        """Put a number of values; return their numbers."""
        memory = self._memories[order]
        numbers = range(self._next, self._next + int(argument))
        self._next = numbers.stop

        def put(value: dict[str, Any]) -> None:
            memory.state.put(HOT, value)

        pace(put, numbers, start, 1 / RATE)
        return numbers

    def close(self) -> None:
        """Close the memories."""
        for memory in self._memories.values():
            memory.close()


class Poller:
    """Get the entry from the cache until the last value is there."""

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=1, cache=COPIES).open()
        self._version = 0

    def go(self, order: str, start: float, argument: float) -> Received:
        """Poll; record each new value."""
        tray = Tray(1)
        end = time.monotonic() + ROUND_TIMEOUT
        while not tray.complete and time.monotonic() < end:
            entry = self._memory.state.get(HOT)
            if entry is not None and entry.version != self._version:
                tray.put(entry.version, entry.value)
                self._version = entry.version
            time.sleep(NAP)
        return tray.received()

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()


@contextlib.contextmanager
def cached_seen(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Put in one process, and get from the cache or follow by a subscription in another."""
    count = 150 if bench.quick else 300
    kinds: dict[str, WorkFactory] = {"cached": Poller, "subscription": SyncReader}
    notes = {
        "cached": f"memory.state.get in a loop, {NAP * 1e6:g} µs of sleep between two",
        "subscription": "`for event in subscribe()`: the event of the same put",
    }
    with contextlib.ExitStack() as stack:
        # A notification wakes every listener of its database, so each reader has one of its own.
        urls = {kind: stack.enter_context(bench.postgres.database()) for kind in kinds}
        writer = stack.enter_context(crew(functools.partial(Writer, urls), 1))
        arms = []
        for kind, make in kinds.items():
            reader = stack.enter_context(crew(make, 1, urls[kind]))
            run = functools.partial(_seeing, kind, writer, reader, count)
            arms.append(Arm(kind, run, notes[kind]))
        yield [
            Scenario(
                "cached_seen",
                f"put to the new value in another process, p50: {RATE}/s ({count} puts a round)",
                "µs",
                arms,
                [
                    Comparison("cached", "subscription", at_most=1.2),
                    Comparison("cached", "subscription", figure="p99"),
                ],
                rounds=bench.counted(5, 3),
            )
        ]


def _seeing(kind: str, writer: Crew, reader: Crew, count: int) -> Sample:
    [received], [acknowledged] = together((reader, "follow", 1), (writer, kind, count))
    if kind == "cached":
        # A reader that polls may miss values that were overwritten at once. It may not miss the
        # last one, return values out of order, or return one that was not written.
        seen = set(received.numbers)
        acknowledged = [n for n in acknowledged if n in seen or n == acknowledged[-1]]
    return as_sample(received, [acknowledged])


ENTRIES = (
    Entry(
        "cached_seen",
        "how soon a cached get returns what another process has put, beside a subscription",
        cached_seen,
        (40, 20),
        quick=False,
    ),
)
