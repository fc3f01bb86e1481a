"""Measure 1, 10 and 100 clients that call as fast as they can: append and get.

Ten clients are ten processes, a hundred are ten processes of ten threads, the same for all arms. A
process has one Memory with a pool as large as its threads, one redis-py client with its pool, or a
psycopg connection for each thread, which is the floor. The cost of Python's lock is in all of them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

from benchmarks.arms import right
from benchmarks.audit import Faults, compare_each
from benchmarks.crew import Crew, crew, until
from benchmarks.figures import PERCENTILES, histogram, microseconds
from benchmarks.harness import Arm, Comparison, Kind, Sample, Scenario, Tier
from benchmarks.meter import Store, costs
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import (
    AGENT,
    STREAM,
    TYPE,
    Bench,
    Entry,
    append_statement,
    bare,
    params,
    payload,
)
from benchmarks.scenarios._following import NUMBERS
from pgmem import Event, Memory
from pgmem.core import statements as sql

PROCESSES = 10
CLIENTS = {1: (1, 1), 10: (PROCESSES, 1), 100: (PROCESSES, 10)}
"""Processes, and threads of each."""
KEYS = 1_000
REHEARSAL = 0.05
"""Seconds that each way runs before the first round, so that all connections are open."""

Call = Callable[[int], int]
"""Make a call with a number, and return the number that came back, or the same one."""


class Way(NamedTuple):
    """Describe a way to call, which is an arm of all the scenarios.

    Attributes:
        kind, tier: as an `Arm` has them.
        url: of the server.
        prefix: of the keys in Redis.
        note: a description for the report.
    """

    kind: Kind
    tier: Tier
    url: str
    prefix: str
    note: str


class Took(NamedTuple):
    """Hold what a thread did.

    Attributes:
        numbers: of its calls.
        found: what each call returned.
        times: the time of each call, in nanoseconds.
        seconds: all calls together; the last one ends after the end of the round.
    """

    numbers: range
    found: list[int]
    times: list[int]
    seconds: float


class Callers:
    """Run one process with threads.

    Orders are "append/WAY" and "get/WAY"; the argument is the duration in seconds.

    Args:
        ways: by their names.
        threads: the number of threads.
        number, url: as a `WorkFactory` has them.
    """

    def __init__(self, ways: Mapping[str, Way], threads: int, number: int, url: str) -> None:
        self._threads = threads
        self._stack = contextlib.ExitStack()
        self._pool = self._stack.enter_context(ThreadPoolExecutor(threads))
        self._calls = {
            f"{what}/{name}": calls
            for name, way in ways.items()
            for what, calls in self._connect(way).items()
        }
        self._next = [(number * threads + thread) * NUMBERS for thread in range(threads)]

    def _connect(self, way: Way) -> dict[str, list[Call]]:
        """Return a call for each thread, by what it does."""
        if way.kind == "floor":
            made = [self._stack.enter_context(floor(way)) for _ in range(self._threads)]
            return {what: [calls[what] for calls in made] for what in made[0]}
        shared = self._stack.enter_context(
            _redis(way) if way.kind == "redis" else _pgmem(way, self._threads)
        )
        return {what: [call] * self._threads for what, call in shared.items()}

    def go(self, order: str, start: float, argument: float) -> list[Took]:
        """Call; return what each thread did."""
        together = threading.Barrier(self._threads)

        def run(call: Call, first: int) -> Took:
            found: list[int] = []
            times: list[int] = []
            clock, end = time.perf_counter_ns, start + argument
            together.wait()
            until(start)
            while time.monotonic() < end:
                begun = clock()
                found.append(call(first + len(found)))
                times.append(clock() - begun)
            numbers = range(first, first + len(found))
            return Took(numbers, found, times, time.monotonic() - start)

        took = list(self._pool.map(run, self._calls[order], self._next))
        self._next = [each.numbers.stop for each in took]
        return took

    def close(self) -> None:
        """Close all connections."""
        self._stack.close()


def key_of(number: int) -> str:
    """Return the entry that a get of this number asks for."""
    return f"account:{number % KEYS}"


@contextlib.contextmanager
def _pgmem(way: Way, threads: int) -> Iterator[dict[str, Call]]:
    durability: Literal["relaxed", "strict"] = "relaxed" if way.tier == "relaxed" else "strict"
    with Memory(way.url, pool=(threads, threads), durability=durability) as memory:

        def append(number: int) -> int:
            event = Event(type=TYPE, payload=payload(number), agent_id=AGENT)
            memory.events.append(STREAM, event)
            return number

        def get(number: int) -> int:
            entry = memory.state.get(key_of(number))
            return int(entry.value["n"]) if entry else -1

        yield {"append": append, "get": get}


@contextlib.contextmanager
def _redis(way: Way) -> Iterator[dict[str, Call]]:
    with contextlib.closing(right.connect(way.url, threads=True)) as client:
        memory = right.Right(client, prefix=way.prefix)

        def append(number: int) -> int:
            fields = {"type": TYPE, "payload": orjson.dumps(payload(number)), "agent_id": AGENT}
            client.xadd(f"{way.prefix}{STREAM}", fields)
            return number

        def get(number: int) -> int:
            entry = memory.get(key_of(number))
            return int(entry.value["n"]) if entry else -1

        yield {"append": append, "get": get}


@contextlib.contextmanager
def floor(way: Way) -> Iterator[dict[str, Call]]:
    """Call the same statements on a psycopg connection."""
    with bare(way.url) as connection:
        if way.tier == "relaxed":
            connection.execute("SET synchronous_commit TO off")
        statement = append_statement(connection, "if_free")
        select = sql.statement("state_get", sql.Dialect("pgmem"))

        def append(number: int) -> int:
            connection.execute(statement, params(payload(number))).fetchone()
            return number

        def get(number: int) -> int:
            row = connection.execute(select, {"key": key_of(number)}).fetchone()
            return int(orjson.loads(row[1])["n"]) if row else -1

        yield {"append": append, "get": get}


class Crews:
    """Keep the processes of one number of clients at a time."""

    def __init__(self, stack: contextlib.ExitStack, ways: Mapping[str, Way]) -> None:
        self._stack = stack.enter_context(contextlib.ExitStack())
        self._ways = ways
        self._clients = 0
        self._crew: Crew | None = None

    def of(self, clients: int) -> Crew:
        """Return the processes for a number of clients; end the others."""
        if self._crew is None or self._clients != clients:
            self._stack.close()
            size, threads = CLIENTS[clients]
            make = functools.partial(Callers, self._ways, threads)
            self._clients, self._crew = clients, self._stack.enter_context(crew(make, size))
            for name in self._ways:
                for what in ("append", "get"):
                    self._crew.run(f"{what}/{name}", REHEARSAL)
        return self._crew


@contextlib.contextmanager
def connections(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Append and get with each number of clients."""
    seconds = 0.15 if bench.quick else 0.5
    always, everysec = bench.redis("strict"), bench.redis("relaxed")
    left_out = (10,) if bench.quick else ()
    if bench.quick:
        bench.leave_out("connections, 10 clients", "--quick measures 1 and 100")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        ways = ways_of(url, always, everysec)
        prepare(url, always)
        crews = Crews(stack, ways)
        stores: dict[str, Store] = {"redis always": always, "redis everysec": everysec}
        prepares = {"redis always": always.prepare, "redis everysec": everysec.prepare}

        def arm(what: str, name: str, clients: int) -> Arm:
            way, store = ways[name], stores.get(name, bench.postgres)
            measure = Measure(crews, clients, what, name, way, store, seconds)
            # A get writes nothing, so the promise of the tier does not matter.
            tier = way.tier if what == "append" else ""
            return Arm(name, measure, way.note, way.kind, tier, prepares.get(name))

        yield [
            Scenario(
                f"connections/{what} {clients}",
                f"{what} by {clients} client{'' if clients == 1 else 's'} at once: {size} "
                f"process{'' if size == 1 else 'es'} × {threads} ({seconds:g} s a round)",
                "calls/s",
                [arm(what, name, clients) for name in chosen],
                _comparisons(what),
                rounds=bench.counted(3, 1),
                warmup=0,
            )
            for clients, (size, threads) in CLIENTS.items()
            if clients not in left_out
            for what, chosen in (
                ("append", list(ways)),
                ("get", ["pgmem", "redis always", "psycopg"]),
            )
        ]


def ways_of(url: str, always: Redis, everysec: Redis) -> dict[str, Way]:
    """Return the ways by their names."""
    pool, each = "one Memory a process, pool = threads, ", "a connection a thread, "
    client = "one redis-py client a process, its pool, appendfsync "
    keys = [server.key("connections-") for server in (always, everysec)]
    return {
        "pgmem": Way("pgmem", "strict", url, "", f"{pool}strict"),
        "redis always": Way("redis", "strict", always.url, keys[0], f"{client}always"),
        "psycopg": Way("floor", "strict", url, "", f"pgmem's statements, {each}strict"),
        "pgmem relaxed": Way("pgmem", "relaxed", url, "", f"{pool}relaxed"),
        "redis everysec": Way("redis", "relaxed", everysec.url, keys[1], f"{client}everysec"),
        "psycopg relaxed": Way("floor", "relaxed", url, "", f"pgmem's statements, {each}relaxed"),
    }


def prepare(url: str, redis: Redis) -> None:
    """Put the entries that the gets ask for."""
    with Memory(url, pool=1) as memory, memory.transaction() as tx:
        for number in range(KEYS):
            tx.state.put(key_of(number), payload(number), record=False)
    with contextlib.closing(right.connect(redis.url)) as client:
        theirs = right.Right(client, prefix=redis.key("connections-"))
        for number in range(KEYS):
            theirs.put(key_of(number), payload(number))
    with bare(url) as connection:
        connection.execute("VACUUM ANALYZE pgmem.state")


def _comparisons(what: str) -> list[Comparison]:
    pairs = [("pgmem", "redis always"), ("pgmem", "psycopg")]
    if what == "append":
        pairs += [("pgmem relaxed", "redis everysec"), ("pgmem relaxed", "psycopg relaxed")]
    return [
        Comparison(arm, base, figure=figure)
        for arm, base in pairs
        for figure in (None, "p50", "p99")
    ]


@dataclass(frozen=True, slots=True)
class Measure:
    """Run a round of one way."""

    crews: Crews
    clients: int
    what: str
    name: str
    way: Way
    store: Store
    seconds: float

    def __call__(self) -> Sample:
        callers = self.crews.of(self.clients)
        before = self._end()
        with costs(self.store, sizes=False) as spent:
            answers = callers.run(f"{self.what}/{self.name}", self.seconds)
        took: list[Took] = [each for answer in answers for each in answer]
        count = sum(len(each.numbers) for each in took)
        if self.what == "append":
            faults = compare_each([each.numbers for each in took], self._behind(before))
        else:
            wrong = sum(
                found != number % KEYS
                for each in took
                for number, found in zip(each.numbers, each.found, strict=True)
            )
            faults = Faults(lost=wrong)
        times = histogram(nanoseconds for each in took for nanoseconds in each.times)
        figures = {name: microseconds(times, at) for name, at in PERCENTILES.items()}
        figures |= spent.figures(max(1, count))
        del figures["per second"]  # the time contains waiting
        return Sample(count / max(each.seconds for each in took), faults, figures, times)

    def _end(self) -> str:
        """Return the last place of the log."""
        if self.way.kind == "redis":
            with contextlib.closing(right.connect(self.way.url)) as client:
                last = client.xrevrange(f"{self.way.prefix}{STREAM}", count=1)
                return last[0][0].decode() if last else "0-0"
        with bare(self.way.url) as connection:
            row = connection.execute("SELECT max(position) FROM pgmem.events").fetchone()
            return str((row and row[0]) or 0)

    def _behind(self, place: str) -> list[int]:
        """Return the numbers that the log holds after a place."""
        if self.way.kind == "redis":
            with contextlib.closing(right.connect(self.way.url)) as client:
                entries = client.xrange(f"{self.way.prefix}{STREAM}", min=f"({place}")
                return [orjson.loads(fields[b"payload"])["n"] for _, fields in entries]
        with bare(self.way.url) as connection:
            rows = connection.execute(
                "SELECT (payload->>'n')::bigint FROM pgmem.events WHERE position > %s::bigint"
                " ORDER BY position",
                (place,),
            )
            return [row[0] for row in rows]


ENTRIES = (
    Entry(
        "connections",
        "append and get by 1, 10 and 100 clients, beside redis-py and bare psycopg",
        connections,
        (70, 20),
    ),
)
