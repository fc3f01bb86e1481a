"""Measure what a subscriber costs thirty-two writer processes.

Beside them run 32 bare processes without a subscriber, in a database of their own, with the least
that an append can be. The compared figure is the sum over all processes. The subscriber must
receive everything, once and in order, and must never be far behind.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

from benchmarks.audit import compare_each
from benchmarks.crew import Crew, crew, together
from benchmarks.figures import percentile
from benchmarks.harness import Arm, Comparison, Limit, Sample, Scenario
from benchmarks.scenarios._base import Bench, Entry, bare
from benchmarks.scenarios._following import Lane, SyncReader, Writer

PROCESSES = 32


@contextlib.contextmanager
def followed(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run 32 processes with a Memory each and one subscriber, beside 32 bare ones without."""
    seconds = 1.0 if bench.quick else 3.0
    with (
        bench.postgres.database() as url,
        bench.postgres.database() as alone,
        crew(SyncReader, 1, url) as reader,
        crew(
            functools.partial(Writer, {"pgmem": Lane("pgmem", url), "bare": Lane("bare", alone)}),
            PROCESSES,
        ) as writers,
    ):
        yield [
            Scenario(
                "followed",
                f"append by {PROCESSES} processes with one subscriber ({seconds:g} s a round)",
                "events/s",
                [
                    Arm(
                        "pgmem, followed",
                        functools.partial(_followed, writers, reader, seconds),
                        "memory.events.append, one process with `for event in subscribe()`",
                    ),
                    Arm(
                        "bare, no notification",
                        functools.partial(_alone, writers, alone, seconds),
                        "INSERT … RETURNING position, no subscriber",
                    ),
                ],
                [Comparison("pgmem, followed", "bare, no notification", at_most=1 / 0.7)],
                [Limit("pgmem, followed", "worst lag, s", 1.0, always=True)],
                rounds=bench.counted(5, 3),
            )
        ]


def _followed(writers: Crew, reader: Crew, seconds: float) -> Sample:
    [received], acknowledged = together(
        (reader, "follow", PROCESSES), (writers, "rush/pgmem", seconds)
    )
    lags = [latency / 1e6 for latency in received.latencies()]
    figures = {"worst lag, s": max(lags), "p50 of the lag, s": percentile(lags, 0.5)}
    return Sample(sum(map(len, acknowledged)) / seconds, received.audit(acknowledged), figures)


def _alone(writers: Crew, url: str, seconds: float) -> Sample:
    with bare(url) as connection:
        row = connection.execute("SELECT coalesce(max(position), 0) FROM pgmem.events").fetchone()
        assert row is not None
        acknowledged = writers.run("rush/bare", seconds)
        found = connection.execute(
            "SELECT (payload->>'n')::bigint FROM pgmem.events WHERE position > %s"
            " ORDER BY position",
            row,
        ).fetchall()
    faults = compare_each(acknowledged, [number for (number,) in found])
    return Sample(sum(map(len, acknowledged)) / seconds, faults)


ENTRIES = (
    Entry(
        "followed",
        "append by 32 processes with one subscriber, beside 32 without notification or reader",
        followed,
        (50, 30),
        quick=False,
    ),
)
