"""Measure deliveries and jobs beside other libraries: from a writer's process to a reader's.

As in `benchmarks.scenarios.peers`, whose `--peers` selects these too. What was acknowledged is
compared with what the reader received.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.crew import Team, WorkFactory, crew, together
from benchmarks.figures import histogram
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.peers.process import peer
from benchmarks.scenarios._base import Bench, Entry, payload
from benchmarks.scenarios._following import (
    WARM_EVENTS,
    Lane,
    Received,
    SyncReader,
    Tray,
    Writer,
    as_sample,
    follow_as,
)
from benchmarks.scenarios.peers import BESIDE_EVENTSOURCING, FUNCTION, kind_of
from pgmem import Memory

CONSUMER = "bench"


class DurableReader:
    """Follow with a durable subscription: its position is stored as it goes on."""

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=1).open()

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow until every writer has sent its last event."""
        tray = Tray(int(argument))
        with self._memory.events.subscribe(durable=CONSUMER) as events:
            follow_as(events, tray)
        return tray.received()

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()


@dataclass(frozen=True, slots=True)
class _Way:
    """Describe one way from a writer process to a reader process.

    Attributes:
        writer, reader: the processes.
        order: the writer's, without the count.
        note: a description for the report.
    """

    writer: Team
    reader: Team
    order: str
    note: str

    def arm(self, name: str, rate: float, count: int) -> Arm:
        """Return an arm that sends events at a rate."""

        def once() -> Sample:
            [received], [written] = together(
                (self.reader, "follow", 1), (self.writer, f"{self.order}/{count}", 1 / rate)
            )
            if isinstance(received, dict):
                received = Received(**received)
                written = range(written["first"], written["stop"])
            times = [latency * 1_000 for latency in received.latencies()[WARM_EVENTS:]]
            return replace(as_sample(received, [written]), times=histogram(times))

        return Arm(name, once, self.note, kind=kind_of(name), tier="strict")


def _stamped() -> dict[str, Any]:
    # As `stamped` makes them: the stamps replace the note.
    event = payload(0)
    del event["note"]
    return event


def _pgmem_way(
    stack: contextlib.ExitStack,
    url: str,
    reader: WorkFactory,
    note: str,
) -> _Way:
    lanes = {"pgmem": Lane("pgmem", url)}
    return _Way(
        stack.enter_context(crew(functools.partial(Writer, lanes), 1)),
        stack.enter_context(crew(reader, 1, url)),
        "pace/pgmem",
        note,
    )


def _peer_way(stack: contextlib.ExitStack, url: str, works: tuple[str, str], note: str) -> _Way:
    # The writer creates the tables, so it comes first.
    writer, reader = (stack.enter_context(peer(work, url, _stamped())) for work in works)
    return _Way(writer, reader, "pace", note)


FANOUT_RATE = 200
QUEUE_RATE = 50


@contextlib.contextmanager
def peer_fanout(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run append to delivery in another process, beside eventsourcing's subscription."""
    count = round((1.0 if bench.quick else 2.0) * FANOUT_RATE)
    with contextlib.ExitStack() as stack:
        databases = [stack.enter_context(bench.postgres.database()) for _ in range(3)]
        subscribed = "recorder.insert_events, `for event in recorder.subscribe()`"
        ways = {
            "pgmem": _pgmem_way(
                stack,
                databases[0],
                SyncReader,
                "events.append, `for event in subscribe()`, strict",
            ),
            "eventsourcing": _peer_way(stack, databases[1], ("eventsourcing",) * 2, subscribed),
            "eventsourcing-functions": _peer_way(
                stack, databases[2], ("eventsourcing-functions",) * 2, FUNCTION
            ),
        }
        yield [
            Scenario(
                "peer_fanout",
                f"append to delivery in another process, p50: 1 writer, {FANOUT_RATE}/s "
                f"({count} events a round)",
                "µs",
                [way.arm(name, FANOUT_RATE, count) for name, way in ways.items()],
                BESIDE_EVENTSOURCING,
                rounds=bench.counted(10, 3),
            )
        ]


@contextlib.contextmanager
def peer_queue(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run enqueue to start in another process: PgQueuer, procrastinate, a subscription of pgmem."""
    count = round((3.0 if bench.quick else 5.0) * QUEUE_RATE)
    with contextlib.ExitStack() as stack:
        databases = [stack.enter_context(bench.postgres.database()) for _ in range(3)]
        ways = {
            "pgmem": _pgmem_way(
                stack,
                databases[0],
                DurableReader,
                "events.append, one durable subscription, no group",
            ),
            "pgqueuer": _peer_way(
                stack,
                databases[1],
                ("pgqueuer", "pgqueuer-worker"),
                "enqueue over a pool of asyncpg, PgQueuer.run() on one connection, uvloop",
            ),
            "procrastinate": _peer_way(
                stack,
                databases[2],
                ("procrastinate", "procrastinate-worker"),
                "defer with SyncPsycopgConnector, run_worker_async(concurrency=10)",
            ),
        }
        yield [
            Scenario(
                "peer_queue",
                f"enqueue to start of the job in another process, p50: 1 producer, "
                f"{QUEUE_RATE}/s ({count} jobs a round)",
                "µs",
                [way.arm(name, QUEUE_RATE, count) for name, way in ways.items()],
                [
                    Comparison("pgmem", "pgqueuer", at_most=0.4),
                    Comparison("pgmem", "procrastinate", at_most=0.4),
                ],
                rounds=bench.counted(10, 3),
            )
        ]


ENTRIES = (
    Entry(
        "peer_fanout",
        "append to delivery in another process, beside eventsourcing's subscription",
        peer_fanout,
        (85, 25),
        peers=True,
    ),
    Entry(
        "peer_queue",
        "enqueue to start in another process, beside PgQueuer and procrastinate",
        peer_queue,
        (130, 35),
        peers=True,
    ),
)
