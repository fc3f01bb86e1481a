"""Measure reads of one, a hundred and ten thousand events in one call.

A read starts after a position, as a reader does that continues. The small ones begin anywhere in
the log. Every arm decodes each payload and returns its number. Redis's own stream has one entry an
event. The published one is cut at about 10,000, so it holds all events here.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from benchmarks.arms import records, right
from benchmarks.arms.published import Published
from benchmarks.arms.right import Right
from benchmarks.audit import NO_FAULTS, Faults, compare
from benchmarks.harness import Comparison, Sample, Scenario
from benchmarks.meter import Store
from benchmarks.scenarios._base import (
    AGENT,
    STREAM,
    TYPE,
    Bare,
    Bench,
    Entry,
    Side,
    bare,
    calling,
    payload,
)
from pgmem import Event, Memory
from pgmem.core import statements as sql

EVENTS = 10_000
"""Events in the log; the published stream is cut at more."""
FILL = 1_000
CALLS = {1: (500, 100), 100: (100, 20), EVENTS: (3, 2)}
"""Events in a call to the calls of a round, full and quick."""

TARGETS = {EVENTS: 0.5}

Read = Callable[[int, int], list[int]]
"""Return the numbers of a count of events after a position."""


def by_pgmem(memory: Memory) -> Read:
    """Fill a Memory; use `events.read`."""
    positions = [0]
    for start in range(0, EVENTS, FILL):
        batch = [
            Event(type=TYPE, payload=payload(number), agent_id=AGENT)
            for number in range(start, start + FILL)
        ]
        positions += [done.position for done in memory.events.append(STREAM, batch)]

    def read(behind: int, count: int) -> list[int]:
        events = memory.events.read(STREAM, after=positions[behind], limit=count)
        return [event.payload["n"] for event in events]

    return read


def by_psycopg(connection: Bare) -> Read:
    """Use the same SELECT on a bare connection to a log that is filled."""
    select = sql.statement(
        "event_read",
        sql.Dialect("pgmem"),
        (("filter", "AND stream = %(stream)s"), ("direction", "ASC")),
    )
    rows = connection.execute("SELECT position FROM pgmem.events ORDER BY position").fetchall()
    positions = [0, *(position for (position,) in rows)]

    def read(behind: int, count: int) -> list[int]:
        window = {
            "after": positions[behind],
            "until": 2**63 - 1,
            "stream": STREAM,
            "limit": count,
        }
        events = [
            (*row[:4], orjson.loads(row[4]), row[5], row[6] and orjson.loads(row[6]), *row[7:])
            for row in connection.execute(select, window).fetchall()
        ]
        return [event[4]["n"] for event in events]

    return read


def by_redis(client: Any, prefix: str) -> Read:
    """Fill a stream; use XRANGE after an id."""
    memory = Right(client, prefix=prefix)
    ids = [b"0"]
    for start in range(0, EVENTS, FILL):
        batch = [
            records.Event(TYPE, payload(number), AGENT) for number in range(start, start + FILL)
        ]
        ids += memory.append(batch)

    def read(behind: int, count: int) -> list[int]:
        return [event.payload["n"] for event in memory.read(ids[behind], count)]

    return read


def by_published(client: Any, prefix: str) -> Read:
    """Fill a stream; use XREAD after an id, and decode the payload as it was encoded."""
    memory = Published(client, prefix=prefix)
    for number in range(EVENTS):
        memory.write_event(AGENT, TYPE, payload(number))
    ids = [b"0", *(identity for identity, _ in client.xrange(memory.stream_key))]

    def read(behind: int, count: int) -> list[int]:
        [(_, entries)] = memory.read_events(ids[behind], count)
        return [json.loads(fields[b"payload"])["n"] for _, fields in entries]

    return read


def reading(store: Store, read: Read, calls: int, count: int) -> Sample:
    """Run one round of calls, spread over the log."""
    room = EVENTS - count + 1
    starts = [call * 7_919 % room for call in range(calls)]
    found: list[list[int]] = []

    def audit() -> Faults:
        wanted = (range(start, start + count) for start in starts)
        return sum(map(compare, wanted, found), NO_FAULTS)

    return calling(store, lambda start: found.append(read(start, count)), starts, audit, each=count)


@contextlib.contextmanager
def read(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Store the same 10,000 events of 200 B in each store."""
    with contextlib.ExitStack() as stack:
        ways = list(_filled(bench, stack))
        yield [
            Scenario(
                f"read/{count}",
                f"read {count:,} event{'s' * (count > 1)} of 200 B in one call, 1 client"
                f" ({calls[bench.quick]} calls a round)",
                "µs",
                [
                    side.arm(
                        functools.partial(reading, store, way, calls[bench.quick], count), store
                    )
                    for side, store, way in ways
                ],
                [
                    Comparison("pgmem", "redis", at_most=TARGETS.get(count)),
                    Comparison("pgmem", "psycopg"),
                    Comparison("pgmem", "published"),
                ],
                rounds=bench.counted(20, 3),
            )
            for count, calls in CALLS.items()
        ]


def _filled(bench: Bench, stack: contextlib.ExitStack) -> Iterator[tuple[Side, Store, Read]]:
    redis, postgres = bench.redis("relaxed"), bench.postgres
    client = stack.enter_context(contextlib.closing(right.connect(redis.url)))
    side = Side("published", "published", "relaxed", "XREAD COUNT, decoded by json")
    yield side, redis, by_published(client, redis.key("read:published:"))
    side = Side("redis", "redis", "relaxed", "XRANGE (id + COUNT")
    yield side, redis, by_redis(client, redis.key("read:right:"))
    url = stack.enter_context(postgres.database())
    memory = stack.enter_context(Memory(url))
    side = Side("pgmem", "pgmem", "relaxed", "memory.events.read(stream, after=, limit=)")
    yield side, postgres, by_pgmem(memory)
    connection = stack.enter_context(bare(url))
    connection.execute("VACUUM ANALYZE pgmem.events")
    side = Side("psycopg", "floor", "relaxed", "the same SELECT, payload and metadata decoded")
    yield side, postgres, by_psycopg(connection)


ENTRIES = (Entry("read", "read of 1 to 10,000 events in one call", read, (45, 9)),)
