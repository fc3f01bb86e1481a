"""Events appended in one call: one, or many together.

Equal promises stand beside each other, and beside pgmem stands what the driver alone needs: for one
event pgmem's own statement and the same without a bell, for more an INSERT of arrays. Redis takes a
batch as a pipeline of XADDs, or as a script: only the script keeps it together, as pgmem does, and
it is the quicker of the two when there are many. All of them take one round trip.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from benchmarks.arms import records, right
from benchmarks.arms.right import Right
from benchmarks.audit import Faults, compare
from benchmarks.harness import Arm, Comparison, Sample, Scenario, Tier
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
    append_statement,
    bare,
    calling,
    log_of,
    payload,
)
from pgmem import Event, Memory

CALLS = {1: (200, 60), 10: (60, 20), 100: (20, 6), 1_000: (5, 2)}
"""Batch size: calls of a round, full and quick."""
SIZED = (1, 100)
"""The batches that are tried at each payload size too."""

LARGE = 4_000
"""About so many bytes of JSON are too many to ride on the bell."""

# Times of a batch: half as long is twice as many events a second.
TARGETS = {100: 0.6, 1_000: 0.5}

_INSERT_MANY = (
    b"INSERT INTO pgmem.events (stream, type, payload, agent_id)"
    b" SELECT %(stream)s, batch.type, batch.payload::json, batch.agent_id"
    b" FROM unnest(%(types)b::text[], %(payloads)b::text[], %(agents)b::text[])"
    b" WITH ORDINALITY AS batch (type, payload, agent_id, n) ORDER BY n RETURNING position"
)

Payload = dict[str, Any]


class Way(NamedTuple):
    """A way to append.

    Attributes:
        store: the server that works for it.
        append: appends a batch; is back when it is acknowledged.
        audit: says what became of the numbers that were appended behind a position.
    """

    store: Store
    append: Callable[[Sequence[Payload]], object]
    audit: Callable[[int, Sequence[int]], Faults]


def by_redis(store: Store, client: Any, prefix: str, *, transaction: bool) -> Way:
    """A pipeline, or a script."""
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
    """`append`, of one event or of a list."""

    def append(batch: Sequence[Payload]) -> None:
        events = [Event(type=TYPE, payload=value, agent_id=AGENT) for value in batch]
        memory.events.append(STREAM, events if len(events) > 1 else events[0])

    return Way(store, append, log.audit)


def by_psycopg(store: Store, connection: Bare, log: Log, statement: bytes) -> Way:
    """A statement for one event."""

    def append(batch: Sequence[Payload]) -> None:
        [value] = batch
        values = {
            "stream": STREAM,
            "type": TYPE,
            "payload": orjson.dumps(value).decode(),
            "agent_id": AGENT,
            "metadata": None,
        }
        connection.execute(statement, values).fetchone()

    return Way(store, append, log.audit)


def by_arrays(store: Store, connection: Bare, log: Log) -> Way:
    """One INSERT for a batch."""

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
    """One round: so many calls with so many events each.

    Args:
        way: how.
        log: gives the numbers.
        calls: how many.
        batch: events of each.
        size: of their payloads; see `payload`.
    """
    head = log.head()
    numbers = log.take(calls * batch)
    values = [payload(number, size) for number in numbers]
    batches = [values[start : start + batch] for start in range(0, len(values), batch)]
    return calling(way.store, way.append, batches, lambda: way.audit(head, numbers), each=batch)


def _comparisons(batch: int) -> list[Comparison]:
    target = TARGETS.get(batch)
    found = [
        Comparison("pgmem strict", "redis always", at_most=target),
        Comparison("pgmem relaxed", "redis everysec"),
    ]
    if batch == 1:
        return [
            *found,
            Comparison("pgmem strict", "psycopg strict", at_most=1.25),
            Comparison("pgmem strict", "psycopg strict, no bell"),
        ]
    return [
        *found,
        Comparison("pgmem strict", "redis always, script", at_most=target),
        Comparison("pgmem strict", "psycopg strict"),
    ]


@contextlib.contextmanager
def append(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Batches of 1 to 1,000 events of 200 B, and some of other sizes."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        memories: dict[Tier, Memory] = {
            "relaxed": stack.enter_context(Memory(url, durability="relaxed")),
            "strict": stack.enter_context(Memory(url)),
        }
        connection = stack.enter_context(bare(url))
        log = stack.enter_context(log_of(url))
        servers = {tier: bench.redis(tier) for tier in TIER_NAMES}
        clients = {
            tier: stack.enter_context(contextlib.closing(right.connect(redis.url)))
            for tier, redis in servers.items()
        }

        def floors(batch: int, size: int) -> dict[str, tuple[Way, str]]:
            store = bench.postgres
            if batch > 1:
                arrays = by_arrays(store, connection, log)
                return {"psycopg strict": (arrays, "INSERT … SELECT FROM unnest(arrays)")}
            ringing = append_statement(connection, "try", small=size < LARGE)
            same = by_psycopg(store, connection, log, ringing)
            least = by_psycopg(store, connection, log, PLAIN_INSERT)
            return {
                "psycopg strict": (same, "pgmem's statement, bell and all"),
                "psycopg strict, no bell": (least, "INSERT … RETURNING position"),
            }

        def arms(calls: int, batch: int, size: int) -> Iterator[Arm]:
            def run(way: Way) -> Callable[[], Sample]:
                return functools.partial(appending, way, log, calls, batch, size)

            for tier, redis in servers.items():
                prefix = redis.key("append:")
                scripts = (False, True) if tier == "strict" and batch > 1 else (False,)
                for script in scripts:
                    yield Arm(
                        f"redis {TIER_NAMES[tier]}{', script' if script else ''}",
                        run(by_redis(redis, clients[tier], prefix, transaction=script)),
                        "XADDs in a Lua script" if script else "XADDs in a pipeline, no MULTI",
                        kind="redis",
                        tier=tier,
                        prepare=redis.prepare,
                    )
            for tier, memory in memories.items():
                yield Arm(
                    f"pgmem {tier}",
                    run(by_pgmem(bench.postgres, memory, log)),
                    "memory.events.append",
                    tier=tier,
                )
            for name, (way, note) in floors(batch, size).items():
                yield Arm(name, run(way), note, kind="floor", tier="strict")

        def scenario(batch: int, calls: int, size: str = "") -> Scenario:
            return Scenario(
                f"append/{batch}" + (f"/{size.replace(' ', '')}" if size else ""),
                f"append {batch:,} event{'s' * (batch > 1)} of {size or '200 B'} in one call,"
                f" 1 client ({calls} calls a round)",
                "µs",
                list(arms(calls, batch, SIZES.get(size, 0))),
                _comparisons(batch),
                rounds=bench.counted(8 if size else 15, 3),
            )

        scenarios = [scenario(batch, calls[bench.quick]) for batch, calls in CALLS.items()]
        if bench.quick:
            bench.leave_out(f"append of {', '.join(SIZES)}", "not in a quick run")
        else:
            scenarios += [scenario(n, CALLS[n][0] // 2, size) for n in SIZED for size in SIZES]
        yield scenarios


ENTRIES = (
    Entry(
        "append",
        "append of 1 to 1,000 events in one call, all ways at all tiers",
        append,
        (80, 10),
    ),
)
