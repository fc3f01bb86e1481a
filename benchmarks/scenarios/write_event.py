"""An event and the latest state of its key, written and acknowledged in one call.

The article's first method, so all three ways stand here at each of their tiers: what it costs to
promise more, and what half a write costs who reads it. Events go to one stream that all agents
share; a key is an agent and a type, as in the article.

Both ways on Redis share a client, settings and all: the published one is slower by its commands.
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
from benchmarks.harness import Arm, Comparison, Kind, Sample, Scenario, Tier
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
    bare,
    calling,
    payload,
)
from pgmem import Event, Memory

AGENTS = 16
CALLS = (200, 60)
"""Of a round, full and quick; each agent gets its turn in it."""
QUICK_SIZE = "1 kB"

COMPARISONS = (
    Comparison("pgmem strict", "redis always", at_most=1.0),
    Comparison("pgmem strict", "published always", at_most=0.75),
    Comparison("pgmem relaxed", "redis everysec", at_most=1.1),
    Comparison("pgmem relaxed", "published everysec"),
    Comparison("pgmem strict", "psycopg strict"),
    Comparison("redis always", "XADD always"),
)

# The least that writes both: no bell, and nothing in the event that tells of the state.
_BOTH = (
    b"WITH entry AS (INSERT INTO pgmem.state AS held (key, value, version)"
    b" VALUES (%(key)s, %(payload)s, 1) ON CONFLICT (key) DO UPDATE SET value = excluded.value,"
    b" version = held.version + 1, updated_at = clock_timestamp()) " + PLAIN_INSERT
)

Payload = dict[str, Any]


class Found(NamedTuple):
    """What a round has left in the store.

    Attributes:
        events: key and number of each event, in the store's order.
        states: the number in the latest state of each key.
    """

    events: list[tuple[str, int]]
    states: dict[str, int]


class Way(Protocol):
    """A way to write, and to read back what it wrote."""

    def write(self, value: Payload) -> object:
        """Write an event and the latest state; is back when it is acknowledged."""

    def found(self) -> Found:
        """What was written since this was asked last."""


def agent(value: Payload) -> str:
    """Who writes a payload."""
    return f"agent-{value['n'] % AGENTS}"


class PublishedWay:
    """The article's two commands."""

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
    """MULTI with both commands."""

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
    """Half of it, the event alone: less than a right answer can cost."""

    def write(self, value: Payload) -> None:
        fields = {"type": TYPE, "payload": orjson.dumps(value), "agent_id": agent(value)}
        self._client.xadd(self._keys[0], fields)

    def found(self) -> Found:
        events = super().found().events
        return Found(events, dict(events))


class Tables:
    """Reads back what was written to pgmem's tables, whoever wrote it: one way at a time."""

    def __init__(self, connection: Bare) -> None:
        self._connection = connection
        self._head = 0

    def found(self) -> Found:
        """What is behind the last position of the time before, and the states of its keys."""
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
    """`memory.state.put` with the event."""

    def __init__(self, memory: Memory, tables: Tables) -> None:
        self._put = memory.state.put
        self.found = tables.found

    def write(self, value: Payload) -> None:
        who = agent(value)
        event = Event(type=TYPE, payload=value, agent_id=who)
        self._put(f"{who}:{TYPE}", value, event=event, stream=STREAM)


class PsycopgWay:
    """One statement on a bare connection."""

    def __init__(self, connection: Bare, tables: Tables) -> None:
        self._connection = connection
        self.found = tables.found

    def write(self, value: Payload) -> None:
        who = agent(value)
        values = {
            "stream": STREAM,
            "type": TYPE,
            "payload": orjson.dumps(value).decode(),
            "agent_id": who,
            "metadata": None,
            "key": f"{who}:{TYPE}",
        }
        self._connection.execute(_BOTH, values).fetchone()


def writing(store: Store, way: Way, payloads: Sequence[Payload]) -> Sample:
    """One round: write the payloads, which are numbered, and see what became of them."""

    def audit() -> Faults:
        found = way.found()
        written = compare([value["n"] for value in payloads], [n for _, n in found.events])
        return written + compare_states(found.events, found.states)

    return calling(store, way.write, payloads, audit)


@contextlib.contextmanager
def write_event(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """All ways at all tiers, at each payload size."""
    calls = max(AGENTS, CALLS[bench.quick])
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        strict = stack.enter_context(Memory(url))
        relaxed = stack.enter_context(Memory(url, durability="relaxed"))
        connection = stack.enter_context(bare(url))
        tables = Tables(stack.enter_context(bare(url)))
        servers: dict[Tier, tuple[Redis, Any]] = {}
        for tier in TIER_NAMES:
            redis = bench.redis(tier)
            client = stack.enter_context(contextlib.closing(right.connect(redis.url)))
            servers[tier] = redis, client
        numbers = itertools.count(1)

        def run(store: Store, way: Way, size: int) -> Sample:
            return writing(store, way, [payload(next(numbers), size) for _ in range(calls)])

        def arms(size: int) -> Iterator[Arm]:
            for tier, (redis, client) in servers.items():
                name, prefix = TIER_NAMES[tier], redis.key("write:")
                published = PublishedWay(client, f"{prefix}published:")
                multi = RightWay(client, f"{prefix}right:")
                ways: list[tuple[Kind, Way, str]] = [
                    ("published", published, "XADD MAXLEN ~ 10,000, then HSET"),
                    ("redis", multi, "MULTI, XADD, HSET, EXEC"),
                ]
                for kind, way, note in ways:
                    yield Arm(
                        f"{kind} {name}",
                        functools.partial(run, redis, way, size),
                        note,
                        kind=kind,
                        tier=tier,
                        prepare=redis.prepare,
                    )
            for name, memory in (("pgmem relaxed", relaxed), ("pgmem strict", strict)):
                yield Arm(
                    name,
                    functools.partial(run, bench.postgres, PgmemWay(memory, tables), size),
                    "memory.state.put(key, value, event=, stream=)",
                    tier="relaxed" if memory is relaxed else "strict",
                )
            yield Arm(
                "psycopg strict",
                functools.partial(run, bench.postgres, PsycopgWay(connection, tables), size),
                "WITH … INSERT … ON CONFLICT DO UPDATE, INSERT in one statement",
                kind="floor",
                tier="strict",
            )
            redis, client = servers["strict"]
            yield Arm(
                "XADD always",
                functools.partial(run, redis, XaddWay(client, redis.key("write:xadd:")), size),
                "the event alone, without its state",
                kind="floor",
                tier="strict",
                prepare=redis.prepare,
            )

        sizes = {QUICK_SIZE: SIZES[QUICK_SIZE]} if bench.quick else SIZES
        if bench.quick:
            others = ", ".join(name for name in SIZES if name not in sizes)
            bench.leave_out(f"write_event of {others}", "not in a quick run")
        yield [
            Scenario(
                f"write_event/{name.replace(' ', '')}",
                f"an event of {name} and the latest state, 1 client ({calls} calls a round)",
                "µs",
                list(arms(size)),
                COMPARISONS,
                rounds=bench.counted(15, 3),
            )
            for name, size in sizes.items()
        ]


ENTRIES = (
    Entry(
        "write_event",
        "an event and the latest state in one acknowledged call, all ways at all tiers",
        write_event,
        (60, 7),
    ),
)
