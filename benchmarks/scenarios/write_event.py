"""Measure an event and the latest state of its key, written and acknowledged in one call.

This is the article's first method, so all three ways run at each of their tiers: what a stronger
promise costs, and what half a write costs its readers. Events go to one stream that all agents
share; a key is an agent and a type, as in the article.

Both ways on Redis share a client and its settings. Only their commands make the difference.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from benchmarks.arms import right
from benchmarks.arms.published import Published
from benchmarks.arms.right import Right
from benchmarks.audit import Faults, compare, compare_states
from benchmarks.harness import Comparison, Sample, Scenario
from benchmarks.meter import Store
from benchmarks.redis_server import TIER_NAMES, Redis
from benchmarks.scenarios._base import (
    PLAIN_INSERT,
    SIZES,
    STREAM,
    TYPE,
    Bare,
    Bench,
    Entry,
    Side,
    bare,
    calling,
    clients_of,
    memories_of,
    params,
    payload,
)
from benchmarks.servers import Postgres
from pgmem import Event, Memory

AGENTS = 16
CALLS = (200, 60)
"""Calls of a round, full and quick; each agent gets its turn in it."""
QUICK_SIZE = "1 kB"

COMPARISONS = (
    Comparison("pgmem strict", "redis always", at_most=0.9),
    Comparison("pgmem strict", "published always", at_most=0.75),
    Comparison("pgmem relaxed", "redis everysec", at_most=0.9),
    Comparison("pgmem relaxed", "redis none", at_most=1.0),
    Comparison("pgmem relaxed", "published everysec"),
    Comparison("pgmem strict", "psycopg strict"),
    Comparison("redis always", "XADD always"),
)

# The least that writes both: no notification, and nothing of the state in the event.
_BOTH = (
    b"WITH entry AS (INSERT INTO pgmem.state AS held (key, value, version)"
    b" VALUES (%(key)s, %(payload)s, 1) ON CONFLICT (key) DO UPDATE SET value = excluded.value,"
    b" version = held.version + 1, updated_at = clock_timestamp()) " + PLAIN_INSERT
)

Payload = dict[str, Any]


class Found(NamedTuple):
    """Hold what a round has left in the store.

    Attributes:
        events: the key and number of each event, in the store's order.
        states: the number in the latest state of each key.
    """

    events: list[tuple[str, int]]
    states: dict[str, int]


class Way(Protocol):
    """Define a way to write, and to read back what it wrote."""

    def write(self, value: Payload) -> object:
        """Write an event and the latest state; return when they are acknowledged."""

    def found(self) -> Found:
        """Return what was written since the last call."""


def agent(value: Payload) -> str:
    """Return the agent of a payload."""
    return f"agent-{value['n'] % AGENTS}"


class PublishedWay:
    """Use the article's two commands."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._memory = Published(client, prefix=prefix)

    def write(self, value: Payload) -> None:
        self._memory.write_event(agent(value), TYPE, value)

    def found(self) -> Found:
        stream, state = self._memory.stream_key, self._memory.state_key
        events = [
            (
                f"{fields[b'agent_id'].decode()}:{fields[b'event_type'].decode()}",
                json.loads(fields[b"payload"])["n"],
            )
            for _, fields in self._client.xrange(stream)
        ]
        states = {
            key.decode(): json.loads(value)["n"]
            for key, value in self._client.hgetall(state).items()
        }
        self._client.unlink(stream, state)
        return Found(events, states)


class RightWay:
    """Use MULTI with both commands."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._memory = Right(client, prefix=prefix)
        self._keys = (f"{prefix}{right.EVENTS}", f"{prefix}latest")

    def write(self, value: Payload) -> None:
        self._memory.write_event(agent(value), TYPE, value)

    def found(self) -> Found:
        events = [
            (f"{event.agent_id}:{event.type}", event.payload["n"]) for event in self._memory.read()
        ]
        states = {
            key.decode(): orjson.loads(value)["n"]
            for key, value in self._client.hgetall(self._keys[1]).items()
        }
        self._client.unlink(*self._keys)
        return Found(events, states)


class XaddWay(RightWay):
    """Write the event alone, which is less than a right answer can cost."""

    def write(self, value: Payload) -> None:
        fields = {"type": TYPE, "payload": orjson.dumps(value), "agent_id": agent(value)}
        self._client.xadd(self._keys[0], fields)

    def found(self) -> Found:
        events = super().found().events
        return Found(events, dict(events))


class Tables:
    """Read back what was written to pgmem's tables, by one way at a time."""

    def __init__(self, connection: Bare) -> None:
        self._connection = connection
        self._head = 0

    def found(self) -> Found:
        """Return what is after the last position of the call before, and the states of its keys."""
        rows = self._connection.execute(
            "SELECT position, agent_id || ':' || type, (payload->>'n')::bigint"
            " FROM pgmem.events WHERE position > %s ORDER BY position",
            (self._head,),
        ).fetchall()
        self._head = rows[-1][0] if rows else self._head
        states = self._connection.execute(
            "SELECT key, (value->>'n')::bigint FROM pgmem.state WHERE key = ANY (%s)",
            ([f"agent-{n}:{TYPE}" for n in range(AGENTS)],),
        ).fetchall()
        return Found([(key, number) for _, key, number in rows], dict(states))


class PgmemWay:
    """Use `memory.state.put` with the event."""

    def __init__(self, memory: Memory, tables: Tables) -> None:
        self._put = memory.state.put
        self.found = tables.found

    def write(self, value: Payload) -> None:
        who = agent(value)
        event = Event(type=TYPE, payload=value, agent_id=who)
        self._put(f"{who}:{TYPE}", value, event=event, stream=STREAM)


class PsycopgWay:
    """Use one statement on a bare connection."""

    def __init__(self, connection: Bare, tables: Tables) -> None:
        self._connection = connection
        self.found = tables.found

    def write(self, value: Payload) -> None:
        who = agent(value)
        values = {**params(value), "agent_id": who, "key": f"{who}:{TYPE}"}
        self._connection.execute(_BOTH, values).fetchone()


def writing(store: Store, way: Way, payloads: Sequence[Payload]) -> Sample:
    """Run one round: write the payloads, which are numbered, and audit them."""

    def audit() -> Faults:
        found = way.found()
        written = compare([value["n"] for value in payloads], [n for _, n in found.events])
        return written + compare_states(found.events, found.states)

    return calling(store, way.write, payloads, audit)


class Listed(NamedTuple):
    """Hold a way, its description, and the server that works for it."""

    side: Side
    way: Way
    store: Store


@contextlib.contextmanager
def write_event(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run all ways at all tiers, at each payload size."""
    calls = max(AGENTS, CALLS[bench.quick])
    sizes = {QUICK_SIZE: SIZES[QUICK_SIZE]} if bench.quick else SIZES
    if bench.quick:
        others = ", ".join(name for name in SIZES if name not in sizes)
        bench.leave_out(f"write_event of {others}", "not in a quick run")
    numbers = itertools.count(1)

    def run(store: Store, way: Way, size: int) -> Sample:
        return writing(store, way, [payload(next(numbers), size) for _ in range(calls)])

    with contextlib.ExitStack() as stack:
        listed = list(_all(bench, stack))
        yield [
            Scenario(
                f"write_event/{name.replace(' ', '')}",
                f"an event of {name} and the latest state, 1 client ({calls} calls a round)",
                "µs",
                [
                    side.arm(functools.partial(run, store, way, size), store)
                    for side, way, store in listed
                ],
                COMPARISONS,
                rounds=bench.counted(15, 3),
            )
            for name, size in sizes.items()
        ]


def _all(bench: Bench, stack: contextlib.ExitStack) -> Iterator[Listed]:
    clients = clients_of(bench, stack)
    for tier, client in clients.items():
        yield from _of_redis(bench.redis(tier), client)
    yield from _of_postgres(bench.postgres, stack)
    redis = bench.redis("strict")
    half = XaddWay(clients["strict"], redis.key("write:xadd:"))
    note = "the event alone, without its state"
    yield Listed(Side("XADD always", "floor", "strict", note), half, redis)


def _of_redis(redis: Redis, client: Any) -> Iterator[Listed]:
    name, prefix = TIER_NAMES[redis.tier], redis.key("write:")
    published = PublishedWay(client, f"{prefix}published:")
    note = "XADD MAXLEN ~ 10,000, then HSET"
    yield Listed(Side(f"published {name}", "published", redis.tier, note), published, redis)
    multi = RightWay(client, f"{prefix}right:")
    note = "MULTI, XADD, HSET, EXEC"
    yield Listed(Side(f"redis {name}", "redis", redis.tier, note), multi, redis)


def _of_postgres(postgres: Postgres, stack: contextlib.ExitStack) -> Iterator[Listed]:
    url = stack.enter_context(postgres.database())
    tables = Tables(stack.enter_context(bare(url)))
    note = "memory.state.put(key, value, event=, stream=)"
    for tier, memory in memories_of(url, stack).items():
        side = Side(f"pgmem {tier}", "pgmem", tier, note)
        yield Listed(side, PgmemWay(memory, tables), postgres)
    least = PsycopgWay(stack.enter_context(bare(url)), tables)
    note = "WITH … INSERT … ON CONFLICT DO UPDATE, INSERT in one statement"
    yield Listed(Side("psycopg strict", "floor", "strict", note), least, postgres)


ENTRIES = (
    Entry(
        "write_event",
        "an event and the latest state in one acknowledged call, all ways at all tiers",
        write_event,
        (60, 7),
    ),
)
