"""From append to the hands of a reader in another process, at a steady rate.

Equal promises are compared: pgmem strict with `appendfsync always`, pgmem relaxed with
`everysec`. Each of pgmem's arms has a database of its own, because a bell wakes every listener of
its database. Not how many events a second there can be: the writers are paced.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.crew import Crew, WorkFactory, crew, together
from benchmarks.harness import Arm, Comparison, Kind, Sample, Scenario, Tier
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import Bench, Entry
from benchmarks.scenarios._following import (
    AsyncReader,
    BareReader,
    Lane,
    RedisReader,
    SyncReader,
    Writer,
    as_sample,
)


class _Way(NamedTuple):
    """One way from a writer to a reader.

    Attributes:
        lane: how writers append.
        reader: the process that follows.
        note: what it is, for the report.
        kind, tier, prepare: as an `Arm` has them.
    """

    lane: Lane
    reader: WorkFactory
    note: str
    kind: Kind = "pgmem"
    tier: Tier = "strict"
    prepare: Callable[[], None] | None = None


# writers: events a second of all of them, and which ways are taken.
RATES = {1: 400, 16: 1_700}
STRICT = ("pgmem", "redis always")
RELAXED = ("pgmem relaxed", "redis everysec")
ALONE = ("pgmem async", "bare")  # for one writer only
ASKED = (
    Comparison(*STRICT, at_most=1.0),
    Comparison(*STRICT, at_most=1.2, figure="p99"),
    Comparison(*RELAXED, at_most=1.3),
    Comparison(*RELAXED, figure="p99"),
)


@contextlib.contextmanager
def fanout(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """1 writer at 400/s, and 16 at 1,700/s in all, each followed by one reader."""
    with contextlib.ExitStack() as stack:
        strict, relaxed = bench.redis("strict"), bench.redis("relaxed")
        databases = [stack.enter_context(bench.postgres.database()) for _ in range(4)]
        ways = _ways(databases, strict, relaxed)
        lanes = {name: way.lane for name, way in ways.items()}
        readers = {
            (way.reader, way.lane.url): stack.enter_context(crew(way.reader, 1, way.lane.url))
            for way in {(way.reader, way.lane.url): way for way in ways.values()}.values()
        }
        scenarios = []
        for size, rate in RATES.items():
            writers = stack.enter_context(crew(functools.partial(Writer, lanes), size))
            count = round((1.0 if bench.quick else 2.0) * rate / size)
            measure = _Measure(writers, readers, size, rate, count)
            chosen = {name: way for name, way in ways.items() if size == 1 or name not in ALONE}
            arms = [
                Arm(
                    name,
                    functools.partial(measure, name, way),
                    way.note,
                    kind=way.kind,
                    tier=way.tier,
                    prepare=way.prepare,
                )
                for name, way in chosen.items()
            ]
            scenarios.append(_scenario(bench, measure, arms))
        yield scenarios


def _ways(databases: Sequence[str], always: Redis, everysec: Redis) -> dict[str, _Way]:
    strict, followed_async, relaxed, floor = databases
    blocked = "XADD, one process blocked in XREAD, appendfsync "
    return {
        "pgmem": _Way(
            Lane("pgmem", strict), SyncReader, "events.append, `for event in subscribe()`, strict"
        ),
        "redis always": _Way(
            Lane("redis", always.url),
            RedisReader,
            f"{blocked}always",
            "redis",
            "strict",
            always.prepare,
        ),
        "pgmem relaxed": _Way(
            Lane("pgmem", relaxed, "relaxed"),
            SyncReader,
            'the same, durability="relaxed"',
            tier="relaxed",
        ),
        "redis everysec": _Way(
            Lane("redis", everysec.url),
            RedisReader,
            f"{blocked}everysec",
            "redis",
            "relaxed",
            everysec.prepare,
        ),
        "pgmem async": _Way(
            Lane("pgmem", followed_async), AsyncReader, "strict, followed by an AsyncMemory"
        ),
        "bare": _Way(
            Lane("bell", floor),
            BareReader,
            "psycopg: pgmem's statement, LISTEN, poll(), strict",
            "floor",
        ),
    }


@dataclass(frozen=True, slots=True)
class _Measure:
    """Runs a round of one way.

    Attributes:
        writers, readers: the processes.
        size: how many writers.
        rate: events a second of all of them.
        count: events of one of them in a round.
    """

    writers: Crew
    readers: Mapping[tuple[WorkFactory, str], Crew]
    size: int
    rate: int
    count: int

    def __call__(self, name: str, way: _Way) -> Sample:
        [received], acknowledged = together(
            (self.readers[way.reader, way.lane.url], "follow", self.size),
            (self.writers, f"pace/{name}/{self.count}", self.size / self.rate),
        )
        return as_sample(received, acknowledged)


def _scenario(bench: Bench, measure: _Measure, arms: Sequence[Arm]) -> Scenario:
    further = (
        [
            Comparison("pgmem async", "redis always"),
            Comparison("bare", "redis always"),
            Comparison("pgmem", "bare"),
        ]
        if measure.size == 1
        else []
    )
    writers = "1 writer" if measure.size == 1 else f"{measure.size} writer processes"
    return Scenario(
        f"fanout/{measure.size}",
        f"append to delivery in another process, p50: {writers}, {measure.rate:,}/s in all "
        f"({measure.size * measure.count:,} events a round)",
        "µs",
        arms,
        [*ASKED, *further],
        rounds=bench.counted(15, 3),
    )


ENTRIES = (
    Entry(
        "fanout",
        "append to delivery in another process, beside XADD to a blocked XREAD",
        fanout,
        (340, 60),
    ),
)
