"""Measure reads of the latest state: one key, fifty keys, and from the process's own copies.

Every arm returns decoded values. Redis done right keeps a version beside each value, as pgmem does;
the published code keeps none, and has no call for many keys.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from benchmarks.arms import floors, records, right
from benchmarks.arms.published import Published
from benchmarks.arms.right import Right
from benchmarks.audit import Faults
from benchmarks.harness import Arm, Comparison, Kind, Limit, Sample, Scenario
from benchmarks.meter import Store
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import TYPE, Bare, Bench, Entry, bare, calling, payload
from pgmem import Memory, StateEntry
from pgmem.core import statements as sql

KEYS = 1_000
MANY = 50
COPIES = 10_000

CALLS = (500, 150)
MANY_CALLS = (100, 30)
CACHED_CALLS = (2_000, 500)
"""Calls of a round, full and quick."""

Keys = Sequence[str]


class Way(NamedTuple):
    """Describe a way to get.

    Attributes:
        kind: as an `Arm` has it.
        store: the server that works for it.
        one: gets the entry of a key.
        many: gets the entries of some keys.
        value: returns the decoded value of such an entry; None if there is no entry.
        note: a description, for one and for many.
    """

    kind: Kind
    store: Store
    one: Callable[[str], Any]
    many: Callable[[Keys], Mapping[str, Any]]
    value: Callable[[Any], Any]
    note: tuple[str, str]


def key(number: int) -> str:
    """Return the key of an entry."""
    return f"account:{number}"


def _value(entry: StateEntry | records.Entry | None) -> Any:
    return entry and entry.value


def _itself(value: Any) -> Any:
    return value


def by_pgmem(store: Store, memory: Memory) -> Way:
    """Use `state.get` and `state.get_many`."""
    note = ("memory.state.get", "memory.state.get_many")
    return Way("pgmem", store, memory.state.get, memory.state.get_many, _value, note)


def by_psycopg(store: Store, connection: Bare) -> Way:
    """Use the same statements on a bare connection."""
    select, select_many = (
        sql.statement(name, sql.Dialect("pgmem")) for name in ("state_get", "state_get_many")
    )

    def one(key: str) -> Any:
        row = connection.execute(select, {"key": key}).fetchone()
        return orjson.loads(row[1]) if row else None

    def many(keys: Keys) -> dict[str, Any]:
        rows = connection.execute(select_many, {"keys": keys}).fetchall()
        return {row[0]: orjson.loads(row[1]) for row in rows}

    note = "SELECT of the same columns, value decoded"
    return Way("floor", store, one, many, _itself, (note, note))


def by_libpq(store: Store, connection: Bare) -> Way:
    """Execute the statement of `state.get` over libpq, without a cursor."""
    select = sql.statement("state_get", sql.Dialect("pgmem"))
    get = floors.Libpq(connection, floors.numbered(select, ["key"]))

    def one(key: str) -> Any:
        return floors.decoded(get(key.encode()), 1)

    return Way("floor", store, one, _one_at_a_time(one), _itself, ("the same SELECT, libpq", ""))


def by_socket(store: Redis, send: floors.HiredisSocket) -> Way:
    """Send HGET over a bare socket, for what `by_redis` has stored."""
    name = store.key("state:right:state")

    def one(key: str) -> Any:
        return _stored(send(("HGET", name, key)))

    return Way("floor", store, one, _one_at_a_time(one), _itself, ("HGET, socket + hiredis", ""))


def by_glide(store: Redis, client: Any) -> Way:
    """Use HGET of valkey-glide, for what `by_redis` has stored."""
    name = store.key("state:right:state")

    def one(key: str) -> Any:
        return _stored(client.hget(name, key))

    return Way("redis", store, one, _one_at_a_time(one), _itself, ("HGET, valkey-glide", ""))


def _one_at_a_time(one: Callable[[str], Any]) -> Callable[[Keys], Mapping[str, Any]]:
    return lambda keys: {key: one(key) for key in keys}


def _stored(text: bytes | None) -> Any:
    entry = right.entry(text)
    return entry and entry.value


def by_redis(store: Redis, client: Any) -> Way:
    """Store the entries; use HGET and HMGET."""
    memory = Right(client, prefix=store.key("state:right:"))
    for number in range(KEYS):
        memory.put(key(number), payload(number))
    return Way("redis", store, memory.get, memory.get_many, _value, ("HGET", "HMGET"))


def by_published(store: Redis, client: Any) -> Way:
    """Use `get_latest_state` of what `write_event` wrote; a key is an agent here."""
    memory = Published(client, prefix=store.key("state:published:"))
    for number in range(KEYS):
        memory.write_event(key(number), TYPE, payload(number))

    def one(key: str) -> Any:
        return memory.get_latest_state(key, TYPE)

    def many(keys: Keys) -> dict[str, Any]:
        return {key: memory.get_latest_state(key, TYPE) for key in keys}

    return Way("published", store, one, many, _itself, ("HGET", f"HGET, {MANY} times"))


def getting_one(way: Way, calls: int, *, keep: bool = True) -> Sample:
    """Run one round of calls for a key each.

    Args:
        way: how to get.
        calls: the number of calls.
        keep: audit the very entries that were returned; False gets them again. A get without a
            server takes up to a third longer if its memory is not freed.
    """
    numbers = [call * 7 % KEYS for call in range(calls)]
    keys = [key(number) for number in numbers]
    kept: list[Any] = []

    def audit() -> Faults:
        found = kept if keep else map(way.one, keys)
        return sum(map(_checked, numbers, map(way.value, found)), Faults())

    get = (lambda key: kept.append(way.one(key))) if keep else way.one
    return calling(way.store, get, keys, audit)


def getting_many(way: Way, calls: int) -> Sample:
    """Run one round of calls for 50 keys each."""
    numbers = [[(call * 7 + n * 31) % KEYS for n in range(MANY)] for call in range(calls)]
    found: list[Mapping[str, Any]] = []

    def audit() -> Faults:
        pairs = (
            (number, way.value(entries.get(key(number))))
            for asked, entries in zip(numbers, found, strict=True)
            for number in asked
        )
        return sum((_checked(number, value) for number, value in pairs), Faults())

    keys = [[key(number) for number in asked] for asked in numbers]
    return calling(way.store, lambda some: found.append(way.many(some)), keys, audit, each=MANY)


def _checked(number: int, value: Any) -> Faults:
    return Faults(lost=int(not value or value["n"] != number))


class Ways(NamedTuple):
    """Hold the arms that the three scenarios choose from."""

    redis: Redis
    published: Way
    right: Way
    pgmem: Way
    cached: Way
    psycopg: Way
    floors: Mapping[str, Way]

    def arm(self, name: str, way: Way, run: Callable[[], Sample], *, many: bool = False) -> Arm:
        """Return an arm; all have the same tier, because nothing is written."""
        return Arm(
            name,
            run,
            way.note[many],
            kind=way.kind,
            tier="relaxed",
            prepare=self.redis.prepare if way.store is self.redis else None,
        )

    def served(self, run: Callable[[Way], Sample], *, many: bool = False) -> list[Arm]:
        """Return an arm for each way that asks a server each time."""
        ways = {
            "published": self.published,
            "redis": self.right,
            "pgmem": self.pgmem,
            "psycopg": self.psycopg,
            **({} if many else self.floors),
        }
        return [
            self.arm(name, way, functools.partial(run, way), many=many)
            for name, way in ways.items()
        ]


@contextlib.contextmanager
def _filled(bench: Bench) -> Iterator[Ways]:
    """Store the same 1,000 entries of 200 B in each store."""
    redis = bench.redis("relaxed")
    with (
        bench.postgres.database() as url,
        Memory(url) as memory,
        Memory(url, cache=COPIES) as copies,
        bare(url) as connection,
        contextlib.closing(right.connect(redis.url)) as client,
        contextlib.ExitStack() as stack,
    ):
        with memory.transaction() as tx:
            for number in range(KEYS):
                tx.state.put(key(number), payload(number))
        connection.execute("VACUUM ANALYZE pgmem.state")
        note = f"memory.state.get, Memory(cache={COPIES:_})"
        floor_ways = {
            "libpq": by_libpq(bench.postgres, stack.enter_context(bare(url))),
            "socket": by_socket(redis, stack.enter_context(floors.hiredis_socket(redis.url))),
            "redis glide": by_glide(redis, stack.enter_context(floors.glide(redis.url))),
        }
        yield Ways(
            redis,
            by_published(redis, client),
            by_redis(redis, client),
            by_pgmem(bench.postgres, memory),
            by_pgmem(bench.postgres, copies)._replace(note=(note, note)),
            by_psycopg(bench.postgres, connection),
            floor_ways,
        )


@contextlib.contextmanager
def state_get(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Get one entry from the server."""
    calls = CALLS[bench.quick]
    with _filled(bench) as ways:
        yield [
            Scenario(
                "state_get",
                f"get one entry of 200 B, 1 client ({calls} calls a round)",
                "µs",
                ways.served(functools.partial(getting_one, calls=calls)),
                [
                    Comparison("pgmem", "redis", at_most=0.8),
                    Comparison("pgmem", "redis glide"),
                    Comparison("pgmem", "psycopg"),
                    Comparison("pgmem", "libpq"),
                    Comparison("redis", "socket"),
                    Comparison("pgmem", "published"),
                ],
                rounds=bench.counted(30, 4),
            )
        ]


@contextlib.contextmanager
def state_get_many(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Get fifty entries from the server."""
    calls = MANY_CALLS[bench.quick]
    with _filled(bench) as ways:
        yield [
            Scenario(
                "state_get_many",
                f"get {MANY} entries of 200 B, 1 client ({calls} calls a round)",
                "µs",
                ways.served(functools.partial(getting_many, calls=calls), many=True),
                [
                    Comparison("pgmem", "redis"),
                    Comparison("pgmem", "psycopg"),
                    Comparison("pgmem", "published"),
                ],
                rounds=bench.counted(30, 4),
            )
        ]


@contextlib.contextmanager
def cached_get(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Get entries that the process has a copy of, and entries that it has none of."""
    calls = CACHED_CALLS[bench.quick]
    with _filled(bench) as ways:

        def arm(name: str, way: Way, count: int) -> Arm:
            def run() -> Sample:
                sample = getting_one(way, count, keep=False)
                return replace(sample, figures={"p50, µs": sample.value, **sample.figures})

            return ways.arm(name, way, run)

        yield [
            Scenario(
                "cached_get",
                f"get one entry of 200 B that is in the cache, 1 client ({calls} calls a round)",
                "µs",
                [
                    arm("redis", ways.right, calls // 4),
                    arm("pgmem, cached", ways.cached, calls),
                    arm("pgmem, not cached", ways.pgmem, calls // 4),
                ],
                [
                    Comparison("pgmem, cached", "redis", at_most=0.05),
                    Comparison("pgmem, cached", "pgmem, not cached"),
                ],
                [Limit("pgmem, cached", "p50, µs", 2.0)],
                rounds=bench.counted(30, 4),
                warmup=4,
            )
        ]


ENTRIES = (
    Entry("state_get", "get of one entry", state_get, (20, 5)),
    Entry("state_get_many", f"get of {MANY} entries in one call", state_get_many, (20, 5)),
    Entry("cached_get", "get of an entry from the cache", cached_get, (15, 5)),
)
