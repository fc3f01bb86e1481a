"""Measure latencies with ten thousand, a million and ten million events in the log.

Each size has a database of its own on one server, with the same 1,000 streams, types and agents,
vacuumed and analysed. The arms of an operation are the sizes. Redis has no arm: what grows there
is memory, and each byte of it is in the figures of `append`.

Agents append, and read the end of the log; these latencies must stay flat. Reads anywhere in a log
that is larger than the server's memory come from the disk, however good the index is. They stand
beside the others, without a target.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import figures, meter
from benchmarks.audit import Faults
from benchmarks.harness import Arm, Comparison, Sample, Scenario, of_times
from benchmarks.scenarios._base import AGENT, TYPE, Bench, Entry, Log, bare, encoded, payload
from pgmem import Event, Memory

SIZES = (10_000, 1_000_000, 10_000_000)
QUICK_SIZES = (10_000, 100_000)
STREAMS = 1_000
CALLS = 200
FLAT = 1.1
CHUNK = 500_000

_FILL = (
    "INSERT INTO pgmem.events (stream, type, payload, agent_id)"
    " SELECT 'order-' || (n %% %(streams)s)::text, %(type)s || '.' || (n %% 20)::text,"
    " replace(%(payload)s, '\"n\":0,', '\"n\":' || n || ',')::json, %(agent)s || (n %% 50)::text"
    " FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n ORDER BY n"
)


def fill(url: str, count: int) -> None:
    """Store a log of `count` events; the first is number 1, and stands at position 1."""
    with bare(url) as connection:
        values = {"streams": STREAMS, "type": TYPE, "payload": encoded(0), "agent": AGENT}
        for first in range(1, count + 1, CHUNK):
            last = min(first + CHUNK - 1, count)
            connection.execute(_FILL, {**values, "first": first, "last": last})
        connection.execute("VACUUM (FREEZE, ANALYZE) pgmem.events")
        connection.execute("CHECKPOINT")


@dataclass(frozen=True, slots=True)
class Filled:
    """Work on a log of some size.

    Attributes:
        size: the number of events that it was filled with.
        memory: the Memory on it.
        log: reads back what was appended.
        rng: chooses where to read, the same places in every run.
    """

    size: int
    memory: Memory
    log: Log
    rng: random.Random

    def append(self) -> Sample:
        """Append one event at a time."""
        head = self.log.head()
        numbers = [number + self.size for number in self.log.take(CALLS)]

        def once(number: int) -> None:
            event = Event(type=TYPE, payload=payload(number), agent_id=AGENT)
            self.memory.events.append(f"order-{number % STREAMS}", event)

        with meter.costs() as spent:
            times = meter.timed(once, numbers)
        faults = self.log.audit(head, numbers)
        return of_times(figures.histogram(times), faults, spent.figures(CALLS))

    def read_end(self) -> Sample:
        """Read the last 100 events that the log was filled with."""
        return self._read([self.size - 100] * CALLS)

    def read_anywhere(self) -> Sample:
        """Read 100 events from some position on."""
        return self._read([self.rng.randrange(self.size - 100) for _ in range(CALLS)])

    def _read(self, starts: Sequence[int]) -> Sample:
        found: list[list[int]] = []

        def once(after: int) -> None:
            events = self.memory.events.read(after=after, limit=100)
            found.append([event.payload["n"] for event in events])

        times = meter.timed(once, starts)
        wrong = sum(
            numbers != list(range(after + 1, after + 101))
            for after, numbers in zip(starts, found, strict=True)
        )
        return of_times(figures.histogram(times), Faults(lost=wrong))

    def read_stream(self) -> Sample:
        """Read the newest event of a stream."""
        found: list[tuple[str, list[str]]] = []

        def once(stream: str) -> None:
            events = self.memory.events.read(stream, reverse=True, limit=1)
            found.append((stream, [event.stream for event in events]))

        streams = [f"order-{self.rng.randrange(STREAMS)}" for _ in range(CALLS)]
        times = meter.timed(once, streams)
        wrong = sum(got != [stream] for stream, got in found)
        return of_times(figures.histogram(times), Faults(lost=wrong))


# Operation, description, and True if its latency must stay flat.
OPERATIONS: dict[str, tuple[str, Callable[[Filled], Sample], bool]] = {
    "append": ("append one event of 200 B, strict", Filled.append, True),
    "read": ("read 100 events at the end of the log", Filled.read_end, True),
    "anywhere": ("read 100 events from a random position on", Filled.read_anywhere, False),
    "newest": ("read the newest event of one of 1,000 streams", Filled.read_stream, False),
}


@contextlib.contextmanager
def scale(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run the same calls on logs of different sizes."""
    sizes = QUICK_SIZES if bench.quick else SIZES
    if bench.quick:
        bench.leave_out("logs of 1,000,000 and 10,000,000 events", "--quick stops at 100,000")
    with contextlib.ExitStack() as stack:
        logs = []
        for size in sizes:
            url = stack.enter_context(bench.postgres.database())
            fill(url, size)
            memory = stack.enter_context(Memory(url))
            log = stack.enter_context(contextlib.closing(Log(url)))
            logs.append(Filled(size, memory, log, random.Random(size)))  # noqa: S311  # no secret
        yield [
            Scenario(
                f"scale/{name}",
                f"{title}, 1 client ({CALLS} calls a round)",
                "µs",
                [
                    Arm(
                        f"{filled.size:,} events",
                        functools.partial(operation, filled),
                        f"a log of {filled.size:,} events in {STREAMS:,} streams",
                        tier="strict",
                    )
                    for filled in logs
                ],
                [
                    Comparison(
                        f"{filled.size:,} events",
                        f"{sizes[0]:,} events",
                        at_most=FLAT if flat and filled.size == sizes[-1] else None,
                    )
                    for filled in logs[1:]
                ],
                rounds=bench.counted(6, 3),
                warmup=2,
            )
            for name, (title, operation, flat) in OPERATIONS.items()
        ]


ENTRIES = (
    Entry(
        "scale",
        "append and read with 10,000, 1,000,000 and 10,000,000 events in the log",
        scale,
        (240, 15),
    ),
)
