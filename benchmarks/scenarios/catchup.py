"""Measure how a new reader catches up: everything from the beginning, one event at a time.

Each round is a process of its own, so that its peak of memory is the reader's. The bare arm reads
the same columns of the same rows page by page, decodes the payload and makes a named tuple for each
event, as a program without pgmem would. Redis done right does the same with XRANGE. The published
stream was silently trimmed while it was written, so its reader finds the last 10,000 events only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from benchmarks.arms import published, records, right
from benchmarks.arms.published import Published
from benchmarks.arms.right import Right
from benchmarks.audit import Faults
from benchmarks.crew import crew, until
from benchmarks.harness import Arm, Comparison, Kind, Sample, Scenario
from benchmarks.meter import Store, costs
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import (
    AGENT,
    STREAM,
    TYPE,
    Bare,
    Bench,
    Entry,
    bare,
    encoded,
    payload,
)
from pgmem import Memory

COUNTS = (1_000_000, 100_000)
"""Events, full and quick."""
PAGE = 2_000
FILL = 1_000
"""Events in one round trip while Redis is filled."""
MEBIBYTE = 1024 * 1024

# The payload of `_base.payload`; the server fills in the number.
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
    """Hold an event of the bare arm."""

    position: int
    stream: str
    version: int | None
    type: str
    payload: Any
    agent_id: str | None
    metadata: Any
    recorded_at: datetime


class Read(NamedTuple):
    """Hold what a reader found.

    Attributes:
        took: seconds.
        right: the number of events in order.
        doubled, behind: the numbers of repeated and of late events.
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
    """Read the log once in a process; the argument is the number of events.

    The URL is of Postgres or of Redis, as the order needs it.
    """

    def __init__(self, number: int, url: str) -> None:
        self._url = url

    def go(self, order: str, start: float, argument: float) -> Read:
        """Read everything; the order is an arm's name, and for Redis the prefix of its keys."""
        name, _, prefix = order.partition(" ")
        reads: dict[str, Callable[[int], tuple[int, int, int]]] = {
            "pgmem": self.pgmem,
            "psycopg": self.psycopg,
            "redis": functools.partial(self.redis, prefix),
            "published": functools.partial(self.published, prefix),
        }
        read = reads[name]
        before = _peak()
        until(start)
        begun = time.perf_counter()
        right, doubled, behind = read(int(argument))
        return Read(time.perf_counter() - begun, right, doubled, behind, _peak(), before)

    def pgmem(self, count: int) -> tuple[int, int, int]:
        """Read by `subscribe`."""
        with Memory(self._url) as memory, memory.events.subscribe(after=0) as events:
            return _check((event.payload["n"] for event in events), count)

    def psycopg(self, count: int) -> tuple[int, int, int]:
        """Read page by page."""
        with bare(self._url) as connection:
            return _check((event.payload["n"] for event in _pages(connection)), count)

    def redis(self, prefix: str, count: int) -> tuple[int, int, int]:
        """Read page by page, by XRANGE."""
        with contextlib.closing(right.connect(self._url)) as client:
            memory = Right(client, prefix=prefix)

            def events() -> Iterator[records.Recorded]:
                after = b"0"
                while found := memory.read(after, PAGE):
                    yield from found
                    after = found[-1].id

            return _check((event.payload["n"] for event in events()), count)

    def published(self, prefix: str, count: int) -> tuple[int, int, int]:
        """Read a hundred at a time, the default of the article's method."""
        with contextlib.closing(published.connect(self._url)) as client:
            memory = Published(client, prefix=prefix)

            def events() -> Iterator[Any]:
                after = b"0"
                while found := memory.read_events(after):
                    [(_, entries)] = found
                    yield from (json.loads(fields[b"payload"]) for _, fields in entries)
                    after = entries[-1][0]

            return _check((value["n"] for value in events()), count)

    def close(self) -> None:
        """Do nothing: each order closes its connection."""


def _pages(connection: Bare) -> Iterator[BareEvent]:
    after = 0
    while rows := connection.execute(_SELECT, (after,)).fetchall():
        for row in rows:
            metadata = None if row[6] is None else orjson.loads(row[6])
            yield BareEvent._make((*row[:4], orjson.loads(row[4]), row[5], metadata, row[7]))
        after = rows[-1][0]


def _check(numbers: Iterator[int], count: int) -> tuple[int, int, int]:
    """Count the events in order, the repeated and the late ones; stop at the last event."""
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


def _fill_postgres(url: str, count: int) -> None:
    with bare(url) as connection:
        values = {"stream": STREAM, "type": TYPE, "payload": encoded(0), "agent_id": AGENT}
        connection.execute(_FILL, {**values, "count": count})
        connection.execute("VACUUM (FREEZE, ANALYZE) pgmem.events")
        connection.execute("CHECKPOINT")


def _fill_redis(redis: Redis, count: int) -> dict[str, str]:
    """Fill both streams; return the prefixes of their keys, by arm."""
    prefixes = {name: redis.key(f"catchup:{name}:") for name in ("redis", "published")}
    redis.prepare()
    with contextlib.closing(right.connect(redis.url)) as client:
        memory = Right(client, prefix=prefixes["redis"])
        with client.pipeline(transaction=False) as pipe:
            # The article's own calls, but sent together.
            piped = Published(pipe, prefix=prefixes["published"])
            for start in range(1, count + 1, FILL):
                values = [payload(n) for n in range(start, min(start + FILL, count + 1))]
                memory.append(
                    [records.Event(TYPE, value, AGENT) for value in values], transaction=True
                )
                for value in values:
                    piped.write_event(AGENT, TYPE, value)
                pipe.execute()
    return prefixes


@contextlib.contextmanager
def catchup(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Read a million events from the beginning."""
    count = COUNTS[bench.quick]
    redis = bench.redis("relaxed")
    with bench.postgres.database() as url:
        _fill_postgres(url, count)
        prefixes = _fill_redis(redis, count)

        def arm(name: Kind, note: str) -> Arm:
            run = functools.partial(_once, redis, redis.url, f"{name} {prefixes[name]}", count)
            return Arm(name, run, note, kind=name, tier="relaxed", prepare=redis.prepare)

        yield [
            Scenario(
                "catchup",
                f"read {count:,} events of 200 B from the beginning, connecting included",
                "events/s",
                [
                    arm("published", "XREAD COUNT 100, of a stream with MAXLEN ~ 10,000"),
                    arm("redis", f"XRANGE COUNT {PAGE:,}"),
                    Arm(
                        "pgmem",
                        functools.partial(_once, bench.postgres, url, "pgmem", count),
                        "`for event in subscribe(after=0)`",
                        tier="relaxed",
                    ),
                    Arm(
                        "psycopg",
                        functools.partial(_once, bench.postgres, url, "psycopg", count),
                        f"SELECT … LIMIT {PAGE:,}, payload decoded, a named tuple each",
                        kind="floor",
                        tier="relaxed",
                    ),
                ],
                [
                    Comparison("pgmem", "redis", at_most=0.6),
                    Comparison("pgmem", "psycopg", at_most=1 / 0.8),
                    Comparison("pgmem", "redis", figure="peak of memory, MB"),
                    Comparison("pgmem", "psycopg", figure="peak of memory, MB"),
                ],
                rounds=bench.counted(2, 1),
                warmup=0 if bench.quick else 1,
            )
        ]


def _once(store: Store, url: str, order: str, count: int) -> Sample:
    with crew(CatchUp, 1, url) as reader:
        read: Read
        with costs(store, sizes=False) as spent:
            [read] = reader.run(order, count)
    faults = Faults(lost=count - read.right, duplicated=read.doubled, reordered=read.behind)
    figures = {
        "peak of memory, MB": read.megabytes,
        "before reading, MB": read.before,
        **spent.figures(read.right),
    }
    del figures["per second"]  # By the reader's own clock, without its wait for the start.
    return Sample(read.right / read.took, faults, figures)


ENTRIES = (
    Entry(
        "catchup",
        "catch up with 1,000,000 events: all ways, and a bare loop over the same rows",
        catchup,
        (125, 12),
    ),
)
