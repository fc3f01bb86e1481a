"""Measure a log that is kept short: the size of its tables, and the cost of an append.

Two databases take the same load: a steady writer, a reader that follows, and a group of one member.
In one a maintenance pass keeps the newest 10,000 events; the other keeps everything. Each step
measures the sizes of the log and its indexes, and the latency of its appends. The arms take turns,
a step at a time.

It takes minutes, so it runs only by name. Redis has no arm: its MAXLEN waits for no reader.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

from benchmarks.audit import Faults
from benchmarks.figures import histogram
from benchmarks.harness import Arm, Comparison, Course, Limit, Sample, Scenario, of_times
from benchmarks.scenarios._base import Bare, Bench, Entry, bare
from pgmem import Event, Memory, RecordedEvent, Subscription

STEP = 50_000
ROUNDS = 20
KEPT = 10_000
SINGLE = 500
"""Appends of one event in a step, which are timed. The rest comes in batches between them."""
SETTLED = 4
STREAM = "steady"
PASSES = 5
"""Passes of maintenance in a step, beside the writer."""
PAYLOAD = {"text": "x" * 100}
GREW = "size / size of the fourth step"

_SIZES = (
    b"SELECT pg_relation_size('pgmem.events'), pg_indexes_size('pgmem.events'),"
    b" (SELECT n_dead_tup FROM pg_stat_user_tables"
    b"  WHERE schemaname = 'pgmem' AND relname = 'events')"
)


class Load:
    """Load one database, with or without retention.

    Args:
        url: the database.
        kept: the number of events that a pass keeps; None: no pass.
        stack: closes what is opened.
    """

    def __init__(self, url: str, kept: int | None, stack: contextlib.ExitStack) -> None:
        self._kept = kept
        self._connection: Bare = stack.enter_context(bare(url))
        self._memory = stack.enter_context(Memory(url, pool=(1, 6)))
        self._writer = stack.enter_context(Memory(url, pool=1))
        if kept is not None:
            self._memory.retention.set(max_events=kept)
        self._followed: Subscription[RecordedEvent] = stack.enter_context(
            self._memory.events.subscribe(STREAM, after=0)
        )
        self._group = self._memory.groups.create("steady", stream=STREAM, exist_ok=True)
        self._sizes: list[int] = []
        self._written = self._read = self._taken = 0

    def __call__(self) -> Sample:
        """Run one step: write, follow and deliver its events, and remove the old ones."""
        self._written += STEP
        threads = [
            threading.Thread(target=work) for work in (self._follow, self._take, self._maintain)
        ]
        for thread in threads:
            thread.start()
        times = self._write()
        for thread in threads:
            thread.join()
        if self._kept is not None:
            self._memory.retention.maintain()
        faults = Faults(lost=2 * self._written - self._read - self._taken)
        timed = of_times(histogram(times), faults, self._figures())
        return Sample(self._sizes[-1] / 2**20, faults, timed.figures)

    def _write(self) -> list[int]:
        """Write a step; return the nanoseconds of the appends of one event."""
        times: list[int] = []
        batch = [Event(type="t", payload=PAYLOAD)] * (STEP // SINGLE - 1)
        for _ in range(SINGLE):
            self._writer.events.append(STREAM, batch)
            started = time.perf_counter_ns()
            self._writer.events.append(STREAM, batch[0])
            times.append(time.perf_counter_ns() - started)
        return times

    def _follow(self) -> None:
        while self._read < self._written:
            found = self._followed.receive(5_000, timeout=10)
            if not found:
                return
            self._read += len(found)

    def _take(self) -> None:
        while self._taken < self._written:
            found = self._group.read("member", 500, timeout=10)
            if not found:
                return
            self._group.ack(found)
            self._taken += len(found)

    def _maintain(self) -> None:
        for _ in range(PASSES):
            time.sleep(0.5)
            if self._kept is not None:
                self._memory.retention.maintain()

    def _figures(self) -> dict[str, float]:
        table, indexes, dead = self._connection.execute(_SIZES).fetchone() or (0, 0, 0)
        self._sizes.append(table + indexes)
        return {
            "table, MB": table / 2**20,
            "indexes, MB": indexes / 2**20,
            "dead rows": dead,
            GREW: self._sizes[-1] / self._sizes[:SETTLED][-1],
        }


@contextlib.contextmanager
def retention(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run a log of which the newest 10,000 are kept, beside one that keeps everything."""
    with contextlib.ExitStack() as stack:

        def load(kept: int | None) -> Load:
            return Load(stack.enter_context(bench.postgres.database()), kept, stack)

        rounds = bench.counted(ROUNDS, 4)
        short, whole = f"{KEPT:,} kept", "all kept"
        yield [
            Scenario(
                "retention",
                f"the log and its indexes beside a steady writer, a reader and a group, after each "
                f"{STEP:,} events ({rounds * STEP:,} in all); p99 of appends of one event, µs",
                "MB",
                [
                    Arm(short, load(KEPT), "a pass of maintenance every half second"),
                    Arm(whole, load(None), "no retention"),
                ],
                [Comparison(short, whole, at_most=1.5, figure="p99")],
                limits=[Limit(short, GREW, 1.5, always=True)],
                rounds=rounds,
                warmup=0,
                course=Course(STEP, "events"),
            )
        ]


ENTRIES = (
    Entry(
        "retention",
        "1,000,000 events of which 10,000 are kept: do the tables level off?",
        retention,
        (420, 60),
        named=True,
    ),
)
