"""Measure appends of one event and of many events in one call.

Equal promises are compared with each other, and pgmem with the least that the driver needs: for one
event pgmem's own statement with and without a notification, for more an INSERT of arrays. Redis
takes a batch as a pipeline of XADDs, or as a script. Only the script keeps it together, as pgmem
does, and it is the faster one for large batches. All of them take one round trip.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from benchmarks.arms import floors, records, right
from benchmarks.arms.right import Right
from benchmarks.audit import Faults, compare
from benchmarks.harness import Comparison, Sample, Scenario, Tier
from benchmarks.meter import Store
from benchmarks.redis_server import TIER_NAMES
from benchmarks.scenarios._base import (
    AGENT,
    PLAIN_INSERT,
    SIZES,
    STREAM,
    TYPE,
    Bare,
    Bench,
    Entry,
    Log,
    Side,
    append_statement,
    bare,
    calling,
    clients_of,
    log_of,
    memories_of,
    params,
    payload,
)
from pgmem import Event, Memory

CALLS = {1: (200, 60), 10: (60, 20), 100: (20, 6), 1_000: (5, 2)}
"""Batch size to calls of a round, full and quick."""
SIZED = (1, 100)
"""The batches that are also measured at each payload size."""

LARGE = 4_000
"""From about this many bytes of JSON on, an event is too large for an inline payload."""

SCRIPT_TARGETS = {100: 1.0, 1_000: 1.0}
"""Size of a batch to the target beside one Lua script, which appends all or none, too."""

_INSERT_MANY = (
    b"INSERT INTO pgmem.events (stream, type, payload, agent_id)"
    b" SELECT %(stream)s, batch.type, batch.payload::json, batch.agent_id"
    b" FROM unnest(%(types)b::text[], %(payloads)b::text[], %(agents)b::text[])"
    b" WITH ORDINALITY AS batch (type, payload, agent_id, n) ORDER BY n RETURNING position"
)

Payload = dict[str, Any]


class Way(NamedTuple):
    """Describe a way to append.

    Attributes:
        store: the server that works for it.
        append: appends a batch, and returns when it is acknowledged.
        audit: counts the faults of the numbers that were appended after a position.
    """

    store: Store
    append: Callable[[Sequence[Payload]], object]
    audit: Callable[[int, Sequence[int]], Faults]


def by_redis(store: Store, client: Any, prefix: str, *, transaction: bool) -> Way:
    """Append by a pipeline, or by a script."""
    memory = Right(client, prefix=prefix)

    def append(batch: Sequence[Payload]) -> None:
        events = [records.Event(TYPE, value, AGENT) for value in batch]
        memory.append(events, transaction=transaction)

    def audit(_: int, numbers: Sequence[int]) -> Faults:
        found = [event.payload["n"] for event in memory.read()]
        client.unlink(f"{prefix}{right.EVENTS}")
        return compare(numbers, found)

    return Way(store, append, audit)


def by_pgmem(store: Store, memory: Memory, log: Log) -> Way:
    """Append by `append`, of one event or of a list."""

    def append(batch: Sequence[Payload]) -> None:
        events = [Event(type=TYPE, payload=value, agent_id=AGENT) for value in batch]
        memory.events.append(STREAM, events if len(events) > 1 else events[0])

    return Way(store, append, log.audit)


def by_psycopg(store: Store, connection: Bare, log: Log, statement: bytes) -> Way:
    """Append one event by a statement."""

    def append(batch: Sequence[Payload]) -> None:
        [value] = batch
        connection.execute(statement, params(value)).fetchone()

    return Way(store, append, log.audit)


def by_libpq(store: Store, connection: Bare, log: Log, statement: bytes) -> Way:
    """Append one event by a statement over libpq, without a cursor."""
    names = ["stream", "type", "payload", "agent_id", "metadata"]
    execute = floors.Libpq(connection, floors.numbered(statement, names))

    def append(batch: Sequence[Payload]) -> None:
        [value] = batch
        execute(STREAM.encode(), TYPE.encode(), orjson.dumps(value), AGENT.encode(), None)

    return Way(store, append, log.audit)


def by_socket(store: Store, send: floors.HiredisSocket, client: Any, prefix: str) -> Way:
    """Append one event by XADD over a bare socket."""
    key = f"{prefix}{right.EVENTS}"

    def append(batch: Sequence[Payload]) -> None:
        [value] = batch
        send(("XADD", key, "*", "type", TYPE, "payload", orjson.dumps(value), "agent_id", AGENT))

    return by_redis(store, client, prefix, transaction=False)._replace(append=append)


def by_glide(store: Store, glide: Any, client: Any, prefix: str) -> Way:
    """Append one event by XADD of valkey-glide."""
    key = f"{prefix}{right.EVENTS}"

    def append(batch: Sequence[Payload]) -> None:
        [value] = batch
        fields = [("type", TYPE), ("payload", orjson.dumps(value)), ("agent_id", AGENT)]
        glide.xadd(key, fields)

    return by_redis(store, client, prefix, transaction=False)._replace(append=append)


def by_arrays(store: Store, connection: Bare, log: Log) -> Way:
    """Append a batch by one INSERT."""

    def append(batch: Sequence[Payload]) -> None:
        values = {
            "stream": STREAM,
            "types": [TYPE] * len(batch),
            "payloads": [orjson.dumps(value).decode() for value in batch],
            "agents": [AGENT] * len(batch),
        }
        connection.execute(_INSERT_MANY, values).fetchall()

    return Way(store, append, log.audit)


def appending(way: Way, log: Log, calls: int, batch: int, size: int = 0) -> Sample:
    """Run one round of calls.

    Args:
        way: appends a batch.
        log: provides the numbers.
        calls: the number of calls.
        batch: the events of each call.
        size: of their payloads; see `payload`.
    """
    head = log.head()
    numbers = log.take(calls * batch)
    values = [payload(number, size) for number in numbers]
    batches = [values[start : start + batch] for start in range(0, len(values), batch)]
    return calling(way.store, way.append, batches, lambda: way.audit(head, numbers), each=batch)


def _comparisons(batch: int) -> list[Comparison]:
    one = batch == 1
    found = [
        Comparison("pgmem strict", "redis always", at_most=0.9 if one else None),
        Comparison("pgmem relaxed", "redis everysec", at_most=1.0 if one else None),
    ]
    if one:
        return [
            *found,
            Comparison("pgmem relaxed", "redis none", at_most=1.15),
            Comparison("pgmem strict", "redis glide always"),
            Comparison("pgmem strict", "psycopg strict"),
            Comparison("pgmem strict", "libpq strict"),
            Comparison("redis always", "socket always"),
            Comparison("pgmem strict", "psycopg strict, no notification"),
        ]
    return [
        *found,
        Comparison("pgmem strict", "redis always, script", at_most=SCRIPT_TARGETS.get(batch)),
        Comparison("pgmem strict", "psycopg strict"),
    ]


class Opened(NamedTuple):
    """Hold what the ways work on."""

    bench: Bench
    clients: Mapping[Tier, Any]
    memories: Mapping[Tier, Memory]
    connection: Bare
    log: Log
    send: floors.HiredisSocket
    glide: Any

    def ways(self, batch: int, size: int) -> Iterator[tuple[Side, Way]]:
        """Yield all ways to append such a batch, with their descriptions."""
        for tier, client in self.clients.items():
            redis, name = self.bench.redis(tier), f"redis {TIER_NAMES[tier]}"
            prefix = redis.key("append:")
            side = Side(name, "redis", tier, "XADDs in a pipeline, no MULTI")
            yield side, by_redis(redis, client, prefix, transaction=False)
            if tier == "strict" and batch > 1:
                side = Side(f"{name}, script", "redis", tier, "XADDs in a Lua script")
                yield side, by_redis(redis, client, prefix, transaction=True)
            if tier == "strict" and batch == 1:
                side = Side("socket always", "floor", tier, "XADD, socket + hiredis")
                yield side, by_socket(redis, self.send, client, prefix)
                side = Side("redis glide always", "redis", tier, "XADD, valkey-glide")
                yield side, by_glide(redis, self.glide, client, prefix)
        for tier, memory in self.memories.items():
            side = Side(f"pgmem {tier}", "pgmem", tier, "memory.events.append")
            yield side, by_pgmem(self.bench.postgres, memory, self.log)
        yield from self._floors(batch, size)

    def _floors(self, batch: int, size: int) -> Iterator[tuple[Side, Way]]:
        store, connection, log = self.bench.postgres, self.connection, self.log
        if batch > 1:
            note = "INSERT … SELECT FROM unnest(arrays)"
            side = Side("psycopg strict", "floor", "strict", note)
            yield side, by_arrays(store, connection, log)
            return
        side = Side("psycopg strict", "floor", "strict", "pgmem's statement with its notification")
        notifying = append_statement(connection, "if_free", small=size < LARGE)
        yield side, by_psycopg(store, connection, log, notifying)
        side = Side("libpq strict", "floor", "strict", "the same statement, libpq")
        yield side, by_libpq(store, connection, log, notifying)
        side = Side(
            "psycopg strict, no notification", "floor", "strict", "INSERT … RETURNING position"
        )
        yield side, by_psycopg(store, connection, log, PLAIN_INSERT)


@contextlib.contextmanager
def append(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Append batches of 1 to 1,000 events of 200 B, and some of other sizes."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        memories = memories_of(url, stack)
        connection = stack.enter_context(bare(url))
        log = stack.enter_context(log_of(url))
        clients, url = clients_of(bench, stack), bench.redis("strict").url
        send = stack.enter_context(floors.hiredis_socket(url))
        glide = stack.enter_context(floors.glide(url))
        opened = Opened(bench, clients, memories, connection, log, send, glide)
        scenarios = [_scenario(opened, batch, calls[bench.quick]) for batch, calls in CALLS.items()]
        if bench.quick:
            bench.leave_out(f"append of {', '.join(SIZES)}", "not in a quick run")
        else:
            scenarios += [
                _scenario(opened, batch, CALLS[batch][0] // 2, name)
                for batch in SIZED
                for name in SIZES
            ]
        yield scenarios


def _scenario(opened: Opened, batch: int, calls: int, name: str = "") -> Scenario:
    size = SIZES.get(name, 0)
    return Scenario(
        f"append/{batch}" + (f"/{name.replace(' ', '')}" if name else ""),
        f"append {batch:,} event{'s' * (batch > 1)} of {name or '200 B'} in one call,"
        f" 1 client ({calls} calls a round)",
        "µs",
        [
            side.arm(functools.partial(appending, way, opened.log, calls, batch, size), way.store)
            for side, way in opened.ways(batch, size)
        ],
        _comparisons(batch),
        rounds=opened.bench.counted(8 if name else 15, 3),
    )


ENTRIES = (
    Entry(
        "append",
        "append of 1 to 1,000 events in one call, all ways at all tiers",
        append,
        (80, 10),
    ),
)
