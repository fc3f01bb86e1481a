"""A new reader catches up: everything from the beginning, one event after the other.

Each round is a process of its own, so that its peak of memory is the reader's. The bare arm reads
the same columns of the same rows page by page, decodes the payload and makes one named tuple for
each event: what a program without pgmem would do.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from benchmarks.audit import Faults
from benchmarks.crew import crew, until
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.scenarios._base import AGENT, STREAM, TYPE, Bare, Bench, Entry, bare, encoded
from pgmem import Memory

PAGE = 2_000
MEBIBYTE = 1024 * 1024

# The payload of `_base.payload`, with the number filled in by the server.
_FILL = (
    "INSERT INTO pgmem.events (stream, type, payload, agent_id)"
    " SELECT %(stream)s, %(type)s,"
    " replace(%(payload)s, '\"n\":0,', '\"n\":' || n || ',')::json, %(agent_id)s"
    " FROM generate_series(1, %(count)s) AS n ORDER BY n"
)
_SELECT = (
    b"SELECT position, stream, stream_version, type, payload::text, agent_id, metadata::text,"
    b" recorded_at FROM pgmem.events WHERE position > %s ORDER BY position LIMIT 2000"
)


class BareEvent(NamedTuple):
    """An event of the bare arm."""

    position: int
    stream: str
    version: int | None
    type: str
    payload: Any
    agent_id: str | None
    metadata: Any
    recorded_at: datetime


class Read(NamedTuple):
    """What a reader found.

    Attributes:
        took: seconds.
        right: how many events came in their turn.
        doubled, behind: how many came again, or too late.
        megabytes: the process's peak of memory.
        before: the same before it read.
    """

    took: float
    right: int
    doubled: int
    behind: int
    megabytes: float
    before: float


class CatchUp:
    """A process that reads the log once; the argument is how many events there are."""

    def __init__(self, number: int, url: str) -> None:
        self._url = url

    def go(self, order: str, start: float, argument: float) -> Read:
        """Read everything, with a Memory or with a bare connection."""
        read = {"pgmem": self.pgmem, "bare": self.bare}[order]
        before = _peak()
        until(start)
        begun = time.perf_counter()
        right, doubled, behind = read(int(argument))
        return Read(time.perf_counter() - begun, right, doubled, behind, _peak(), before)

    def pgmem(self, count: int) -> tuple[int, int, int]:
        """Through `subscribe`."""
        with Memory(self._url) as memory, memory.events.subscribe(after=0) as events:
            return _check((event.payload["n"] for event in events), count)

    def bare(self, count: int) -> tuple[int, int, int]:
        """Page by page."""
        with bare(self._url) as connection:
            return _check((event.payload["n"] for event in _pages(connection)), count)

    def close(self) -> None:
        """Nothing is open."""


def _pages(connection: Bare) -> Iterator[BareEvent]:
    after = 0
    while rows := connection.execute(_SELECT, (after,)).fetchall():
        for row in rows:
            metadata = None if row[6] is None else orjson.loads(row[6])
            yield BareEvent._make((*row[:4], orjson.loads(row[4]), row[5], metadata, row[7]))
        after = rows[-1][0]


def _check(numbers: Iterator[int], count: int) -> tuple[int, int, int]:
    """How many came in their turn, again, and too late; ends with the last one."""
    right = doubled = behind = highest = 0
    for number in numbers:
        if number > highest:
            highest = number
            right += 1
            if number == count:
                break
        elif number == highest:
            doubled += 1
        else:
            behind += 1
    return right, doubled, behind


def _peak() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (MEBIBYTE if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def catchup(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Read a million events from the beginning."""
    count = 100_000 if bench.quick else 1_000_000
    with bench.postgres.database() as url:
        with bare(url) as connection:
            values = {"stream": STREAM, "type": TYPE, "payload": encoded(0), "agent_id": AGENT}
            connection.execute(_FILL, {**values, "count": count})
            connection.execute("VACUUM (FREEZE, ANALYZE) pgmem.events")
            connection.execute("CHECKPOINT")

        def arm(name: str, note: str) -> Arm:
            return Arm(name, lambda: _once(url, name, count), note)

        yield [
            Scenario(
                "catchup",
                f"read {count:,} events of 200 B from the beginning, connecting included",
                "events/s",
                [
                    arm("pgmem", "`for event in subscribe(after=0)`"),
                    arm("bare", f"SELECT … LIMIT {PAGE:,}, payload decoded, a named tuple each"),
                ],
                [
                    Comparison("pgmem", "bare", at_least=0.8),
                    Comparison("pgmem", "bare", figure="peak of memory, MB"),
                ],
                rounds=bench.counted(3, 3),
            )
        ]


def _once(url: str, order: str, count: int) -> Sample:
    with crew(CatchUp, 1, url) as reader:
        read: Read
        [read] = reader.run(order, count)
    faults = Faults(lost=count - read.right, duplicated=read.doubled, reordered=read.behind)
    figures = {"peak of memory, MB": read.megabytes, "before reading, MB": read.before}
    return Sample(count / read.took, faults, figures)


ENTRIES = (
    Entry(
        "catchup",
        "catch up with 1,000,000 events beside a bare loop over the same rows",
        catchup,
        (55, 12),
    ),
)
