"""Measure from append to readers in other processes: 1 → 1, 1 → 10, 16 → 1, 16 → 16.

Equal promises are compared: pgmem strict with `appendfsync always`, pgmem relaxed with `everysec`.
Redis without persistence and the published approach are for information. Every reader gets all
events, and is audited by itself. Each of pgmem's ways has a database of its own, because a
notification wakes every listener of its database.

There are three ways to write:

- paced: at a steady rate, independent of earlier events (open loop);
- saturated: each writer as fast as it can, while the readers follow;
- a backlog: more than the published code keeps, written while the reader is busy elsewhere.

16 → 16 are 32 processes and 16 deliveries of each event, paced so that two processors can serve it.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.audit import NO_FAULTS
from benchmarks.crew import together
from benchmarks.figures import histogram, percentile
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.meter import Spent, costs
from benchmarks.scenarios._base import Bench, Entry
from benchmarks.scenarios._following import ROUND_TIMEOUT, Received, as_sample_of
from benchmarks.scenarios._ways import (
    ALL,
    ALWAYS,
    ASYNC,
    EQUAL,
    EVERYSEC,
    FLOOR,
    FROM_16,
    FURTHER,
    ONE,
    PUBLISHED,
    RELAXED,
    SHAPES,
    STRICT,
    Cast,
    Shape,
    Stage,
    Way,
    compared,
)

BUSY, BACKLOG = FROM_16, 12_800
"""The shape of the backlog and its events; the published code keeps 10,000 to 10,100."""


@contextlib.contextmanager
def fanout(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run each shape paced and saturated, and the backlog."""
    with contextlib.ExitStack() as stack:
        stage = Stage(bench, stack)
        scenarios = []
        for shape in SHAPES:
            if bench.quick and shape == ALL:
                bench.leave_out(f"fanout/{shape.name}", "a quick run leaves it out")
                continue
            scenarios += [_paced(bench, stage, shape), _saturated(bench, stage, shape)]
            if shape == BUSY and not bench.quick:
                scenarios.append(_backlog(bench, stage, shape))
        if bench.quick:
            bench.leave_out("fanout/backlog", "a quick run is too short for its events")
            bench.leave_out(
                "fanout, relaxed, to many readers or saturated", "a quick run leaves it out"
            )
        yield scenarios


def _arms(bench: Bench, ways: Sequence[Way], measure: Measure) -> list[Arm]:
    return [
        Arm(
            way.name,
            functools.partial(measure, way.name),
            way.note,
            way.kind,
            way.tier,
            bench.redis(way.tier).prepare if way.kind in ("redis", "published") else None,
        )
        for way in ways
    ]


@dataclass(frozen=True, slots=True)
class Measure(abc.ABC):
    """Run a round of one way.

    Attributes:
        stage: has the processes.
        shape: the numbers of processes.
    """

    stage: Stage
    shape: Shape

    def __call__(self, way: str) -> Sample:
        cast = self.stage.cast(self.shape)
        with costs(cast.stores[way]) as spent:
            received, acknowledged = self.follow(cast, way)
        return self.sample(received, acknowledged, spent)

    @abc.abstractmethod
    def follow(self, cast: Cast, way: str) -> tuple[list[Received], list[Sequence[int]]]:
        """Have events written and followed."""

    @abc.abstractmethod
    def sample(
        self, received: Sequence[Received], acknowledged: Sequence[Sequence[int]], spent: Spent
    ) -> Sample:
        """Return the sample of the round."""


def _each(spent: Spent, acknowledged: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the cost of each event, with all of its deliveries."""
    figures = spent.figures(sum(map(len, acknowledged)))
    del figures["per second"]  # the time contains waiting
    return figures


# Paced


@dataclass(frozen=True, slots=True)
class Paced(Measure):
    """Write at a steady rate.

    Attributes:
        count: events of one writer in a round.
    """

    count: int

    def follow(self, cast: Cast, way: str) -> tuple[list[Received], list[Sequence[int]]]:
        """Have events written and followed."""
        interval = self.shape.writers / self.shape.rate
        received, acknowledged = together(
            (cast.readers, way, self.shape.writers),
            (cast.writers, f"pace/{way}/{self.count}", interval),
        )
        return received, acknowledged

    def sample(
        self, received: Sequence[Received], acknowledged: Sequence[Sequence[int]], spent: Spent
    ) -> Sample:
        """Return the times from append to delivery."""
        return as_sample_of(received, acknowledged, _each(spent, acknowledged))


def _paced(bench: Bench, stage: Stage, shape: Shape) -> Scenario:
    ways = compared(bench, shape)
    seconds = 0.3 if bench.quick else 1.2
    count = max(10, round(seconds * shape.rate / shape.writers))
    target = {ONE: 1.0, FROM_16: 0.8}.get(shape)
    comparisons = [
        Comparison(STRICT.name, ALWAYS.name, at_most=target),
        Comparison(STRICT.name, ALWAYS.name, at_most=target, figure="p99"),
        Comparison(STRICT.name, ALWAYS.name, figure="p99 from due"),
    ]
    if RELAXED in ways:
        comparisons += [
            Comparison(RELAXED.name, EVERYSEC.name, at_most=target),
            Comparison(RELAXED.name, EVERYSEC.name, at_most=target, figure="p99"),
        ]
    if shape == ONE:
        comparisons += [
            Comparison(ASYNC.name, ALWAYS.name),
            Comparison(FLOOR.name, ALWAYS.name),
            Comparison(STRICT.name, FLOOR.name),
        ]
    return Scenario(
        f"fanout/{shape.name}",
        f"append to delivery in another process, p50: {shape.text}, {shape.rate:,}/s in all "
        f"({shape.writers * count:,} events a round)",
        "µs",
        _arms(bench, (*ways, *FURTHER.get(shape, ())), Paced(stage, shape, count)),
        comparisons,
        rounds=bench.counted(shape.rounds, 1),
        warmup=0,
    )


# Saturated


@dataclass(frozen=True, slots=True)
class Saturated(Measure):
    """Write as fast as the writers can.

    Attributes:
        seconds: the duration.
    """

    seconds: float

    def follow(self, cast: Cast, way: str) -> tuple[list[Received], list[Sequence[int]]]:
        """Have events written and followed."""
        received, acknowledged = together(
            (cast.readers, way, self.shape.writers), (cast.writers, f"rush/{way}", self.seconds)
        )
        return received, acknowledged

    def sample(
        self, received: Sequence[Received], acknowledged: Sequence[Sequence[int]], spent: Spent
    ) -> Sample:
        """Return the events a second that reached every reader."""
        faults = sum((found.audit(acknowledged) for found in received), NO_FAULTS)
        if not all(found.numbers for found in received):
            return Sample(0.0, faults)
        first = min(min(found.sent) for found in received)
        last = max(found.at[-1] for found in received)
        lags = [latency / 1e6 for found in received for latency in found.latencies()]
        figures = {
            "written/s": sum(map(len, acknowledged)) / self.seconds,
            "worst lag, s": max(lags),
            "p50 of the lag, s": percentile(lags, 0.5),
            **_each(spent, acknowledged),
        }
        delivered = min(len(set(found.numbers)) for found in received) / (last - first)
        return Sample(delivered, faults, figures, histogram(lag * 1e9 for lag in lags))


def _saturated(bench: Bench, stage: Stage, shape: Shape) -> Scenario:
    seconds = 0.2 if bench.quick else 1.0
    ways = (*(EQUAL[:2] if bench.quick else EQUAL), PUBLISHED)
    pairs = [(STRICT, ALWAYS), (RELAXED, EVERYSEC), (STRICT, PUBLISHED)]
    return Scenario(
        f"fanout/{shape.name} saturated",
        f"events delivered to every reader: {shape.text}, writers as fast as they can "
        f"({seconds:g} s a round)",
        "events/s",
        _arms(bench, ways, Saturated(stage, shape, seconds)),
        [
            Comparison(arm.name, base.name, figure=figure)
            for arm, base in pairs
            if arm in ways
            for figure in (None, "worst lag, s")
        ],
        rounds=bench.counted(2, 1),
        warmup=0,
    )


# Backlog


@dataclass(frozen=True, slots=True)
class Backlog(Measure):
    """Write everything before the reader starts."""

    def follow(self, cast: Cast, way: str) -> tuple[list[Received], list[Sequence[int]]]:
        """Have events written, then followed."""
        acknowledged = cast.writers.run(f"pace/{way}/{BACKLOG // self.shape.writers}", 0.0)
        return cast.readers.run(way, self.shape.writers), acknowledged

    def sample(
        self, received: Sequence[Received], acknowledged: Sequence[Sequence[int]], spent: Spent
    ) -> Sample:
        """Return the speed of the slowest reader, and all faults."""
        faults = sum((found.audit(acknowledged) for found in received), NO_FAULTS)
        rates = [
            len(found.numbers) / (found.at[-1] - found.at[0] if found.at else ROUND_TIMEOUT)
            for found in received
        ]
        return Sample(min(rates), faults, _each(spent, acknowledged))


def _backlog(bench: Bench, stage: Stage, shape: Shape) -> Scenario:
    return Scenario(
        "fanout/backlog",
        f"events read by a reader that was busy while {shape.writers} processes wrote {BACKLOG:,}",
        "events/s",
        _arms(bench, (RELAXED, EVERYSEC, PUBLISHED), Backlog(stage, shape)),
        [Comparison(RELAXED.name, EVERYSEC.name)],
        rounds=bench.counted(2, 1),
        warmup=0,
    )


ENTRIES = (
    Entry(
        "fanout",
        "append to delivery in other processes, beside XADD to a blocked XREAD: 1 and 16 writers, "
        "1 to 16 readers, paced and saturated",
        fanout,
        (290, 35),
    ),
)
