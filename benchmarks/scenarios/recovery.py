"""Measure how long the state of 10,000 keys takes to rebuild from a million events.

The published approach took a snapshot every five minutes, and recovered in 2 s instead of 45. The
article does not show how it reads a snapshot, so it has no arm here. Each arm begins with an open
connection and ends with a dict of all keys and their last values.

pgmem's own state (`memory.state`) needs no rebuild: it is committed with its event, and there after
a crash. The arm "pgmem state" reads it. The others are for a program that keeps a value of its own,
which is folded from the log.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import psycopg

from benchmarks.arms import right
from benchmarks.audit import Faults
from benchmarks.harness import Arm, Comparison, Limit, Sample, Scenario
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import TYPE, Bench, Entry, bare
from pgmem import Fold, Memory, RecordedEvent

STREAM = "accounts"
PAGE = 5_000
"""Events that Redis returns at a time, as many as pgmem's fold takes."""
FULL, QUICK = (1_000_000, 10_000), (100_000, 1_000)
"""Events and keys."""
BEHIND = 10_000
"""Events that came after the snapshot."""
PIPELINE = 2_000

State = dict[str, Any]
Way = Callable[[], State]

_FILL = (
    "INSERT INTO pgmem.events (stream, type, payload, agent_id)"
    " SELECT %(stream)s, %(type)s, format("
    '\'{"account":"account:%%s","n":%%s,"balance":%%s,"currency":"VND"}\','
    " n %% %(keys)s, n, 1000000 + n)::json, 'processor'"
    " FROM generate_series(0, %(count)s - 1) AS n ORDER BY n"
)
_FILL_STATE = (
    "INSERT INTO pgmem.state (key, value, version, updated_at)"
    " SELECT 'account:' || n, format("
    '\'{"account":"account:%%s","n":%%s,"balance":%%s,"currency":"VND"}\', n, %(last)s + n,'
    " 1000000 + %(last)s + n)::json, 1, now() FROM generate_series(0, %(keys)s - 1) AS n"
)


def event(number: int, keys: int) -> State:
    """Return the event of a number: the account after it. The statements above make the same."""
    return {
        "account": f"account:{number % keys}",
        "n": number,
        "balance": 1_000_000 + number,
        "currency": "VND",
    }


def apply(state: State, payload: State) -> State:
    """Return the state with one more event."""
    state[payload["account"]] = payload
    return state


def audit(state: State, *, count: int, keys: int) -> Faults:
    """Count the keys that are missing, and those whose value is not their last one."""
    wrong = sum(
        state.get(f"account:{number % keys}", {}).get("n") not in (number, None)
        for number in range(count - keys, count)
    )
    return Faults(lost=keys - len(state), torn=wrong)


def state_after(count: int, keys: int) -> State:
    """Return the state after a number of events."""
    return {f"account:{n % keys}": event(n, keys) for n in range(count - keys, count)}


@contextlib.contextmanager
def recovery(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Fold a million events, and fold the last 10,000 onto a snapshot."""
    count, keys = QUICK if bench.quick else FULL
    behind = min(BEHIND, count // 10)
    redis = bench.redis("strict")
    with (
        bench.postgres.database() as url,
        Memory(url) as memory,
        contextlib.closing(right.connect(redis.url)) as client,
    ):
        fill_postgres(url, count, keys)
        fill_redis(client, redis, count, keys)
        older = state_after(count - behind, keys)
        assert memory.folds.save("kept", older, position=count - behind)
        keep_in_redis(client, redis, older, behind)
        assert audit(state_after(count, keys), count=count, keys=keys) == Faults()
        ways: dict[str, Way] = {
            "pgmem replay": functools.partial(_fold, memory, "none"),
            "pgmem snapshot": functools.partial(_fold, memory, "kept"),
            "pgmem state": lambda: {e.key: e.value for e in _entries(memory, keys)},
            "redis replay": functools.partial(_replay, client, redis),
            "redis snapshot": functools.partial(_resume, client, redis),
        }
        yield [
            Scenario(
                "recovery",
                f"rebuild {keys:,} keys from {count:,} events; snapshots are {behind:,} events old",
                "s",
                [_arm(name, way, redis, count, keys) for name, way in ways.items()],
                COMPARISONS,
                [Limit("pgmem snapshot", "seconds", 2.0, always=True)],
                rounds=bench.counted(3, 2),
                warmup=0 if bench.quick else 1,
            )
        ]


def _arm(name: str, way: Way, redis: Redis, count: int, keys: int) -> Arm:
    def once() -> Sample:
        start = time.perf_counter()
        found = way()
        took = time.perf_counter() - start
        return Sample(took, audit(found, count=count, keys=keys), {"seconds": took})

    ours = name.startswith("pgmem")
    return Arm(
        name,
        once,
        NOTES[name],
        kind="pgmem" if ours else "redis",
        tier="strict",
        prepare=None if ours else redis.prepare,
    )


COMPARISONS = (
    Comparison("pgmem snapshot", "pgmem replay", at_most=0.1),
    Comparison("pgmem replay", "redis replay"),
    Comparison("pgmem snapshot", "redis snapshot"),
    Comparison("redis snapshot", "redis replay"),
)
NOTES = {
    "pgmem replay": "memory.folds.fold without a snapshot",
    "pgmem snapshot": "memory.folds.fold from its newest snapshot on",
    "pgmem state": "nothing to rebuild: memory.state of all keys, read",
    "redis replay": f"XRANGE by {PAGE:,} from the beginning, decoded, into a dict",
    "redis snapshot": "a snapshot in a key with its stream id, then XRANGE from there",
}


def fill_postgres(url: str, count: int, keys: int) -> None:
    """Store a log of events, and the state that they lead to."""
    with bare(url) as connection:
        values = {"stream": STREAM, "type": TYPE, "count": count, "keys": keys}
        connection.execute(_FILL, values)
        connection.execute(_FILL_STATE, {"keys": keys, "last": count - keys})
        for table in ("events", "state"):
            connection.execute(
                psycopg.sql.SQL("VACUUM (FREEZE, ANALYZE) pgmem.{}").format(
                    psycopg.sql.Identifier(table)
                )
            )
        connection.execute("CHECKPOINT")


def fill_redis(client: Any, redis: Redis, count: int, keys: int) -> None:
    """Store a stream of the same events."""
    for start in range(0, count, PIPELINE):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + PIPELINE, count)):
                fields = {
                    "type": TYPE,
                    "payload": orjson.dumps(event(number, keys)),
                    "agent_id": "processor",
                }
                pipe.xadd(redis.key("accounts"), fields)
            pipe.execute()


def keep_in_redis(client: Any, redis: Redis, state: State, behind: int) -> None:
    """Store a snapshot that is `behind` events old."""
    entries = client.xrevrange(redis.key("accounts"), count=behind + 1)
    kept = {"id": entries[-1][0].decode(), "state": state}
    client.set(redis.key("snapshot"), orjson.dumps(kept))


def _fold(memory: Memory, name: str) -> State:
    def step(state: State, event: RecordedEvent) -> State:
        return apply(state, event.payload)

    return memory.folds.fold(Fold(name, dict, step, stream=STREAM), save_every=0).value


def _entries(memory: Memory, keys: int) -> Iterator[Any]:
    names = [f"account:{number}" for number in range(keys)]
    for start in range(0, keys, 1_000):
        yield from memory.state.get_many(names[start : start + 1_000]).values()


def _replay(client: Any, redis: Redis) -> State:
    return _continue(client, redis, {}, "-")


def _continue(client: Any, redis: Redis, state: State, after: str) -> State:
    while entries := client.xrange(redis.key("accounts"), min=after, count=PAGE):
        for _, fields in entries:
            apply(state, orjson.loads(fields[b"payload"]))
        after = f"({entries[-1][0].decode()}"
    return state


def _resume(client: Any, redis: Redis) -> State:
    kept = orjson.loads(client.get(redis.key("snapshot")))
    return _continue(client, redis, kept["state"], f"({kept['id']}")


ENTRIES = (
    Entry(
        "recovery",
        "rebuild 10,000 keys from 1,000,000 events, with and without a snapshot",
        recovery,
        (120, 15),
    ),
)
