"""Measure what a writer and a reader lose when other clients are busy on the same server.

One process appends at a slow, steady rate, one follows. Beside them runs a neighbour, started anew
for each round, so that the rounds without it are without it. Each arm is compared with the one that
is alone. The pace is slow because a notification wakes all listeners of a database, whatever they
follow: one writer can saturate two processors with 100 of them, and then nothing else would be
measured.

A transaction that has appended holds up every reader until it ends, because its events come first
in the order of the log. This is for information. It must not hold up writers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.arms import right
from benchmarks.crew import START_DELAY, Crew, WorkFactory, crew, together
from benchmarks.figures import histogram, percentile
from benchmarks.harness import Comparison, Kind, Sample, Scenario, of_times
from benchmarks.meter import Store, costs
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import (
    AGENT,
    STREAM,
    TYPE,
    Bench,
    Entry,
    Side,
    bare,
    encoded,
    payload,
)
from benchmarks.scenarios._following import (
    NUMBERS,
    ROUND_TIMEOUT,
    Lane,
    Received,
    SyncReader,
    appender,
    pace,
    stamped,
)
from benchmarks.scenarios._following_redis import RedisReader
from benchmarks.scenarios._ways import Reader
from benchmarks.servers import ServerError, binary
from pgmem import Event, Memory

RATE = 40
WARM = 4
"""The first events of a round, which are not timed."""
PROCESSES, EACH = 4, 25
IDLE = PROCESSES * EACH
HELD = 0.3
"""Seconds that the transaction that has appended stays open after the last event."""
DELIVERY = "delivery p50"


@dataclass(slots=True)
class Presence:
    """Hold what a neighbour reports at its end.

    Attributes:
        appended: numbers of events of its own.
        ended: when it ended, if that matters.
    """

    appended: list[int] = field(default_factory=list)
    ended: float | None = None


Neighbour = Callable[[], AbstractContextManager[Presence]]


class Writer:
    """Run the writer's process, which times its appends; an order names the lane.

    Args:
        lanes: the ways to append, by name.
        number, url: as a `WorkFactory` has them.
    """

    def __init__(self, lanes: Mapping[str, Lane], number: int, url: str) -> None:
        self._stack = contextlib.ExitStack()
        self._appends = {
            name: self._stack.enter_context(appender(lane)) for name, lane in lanes.items()
        }
        self._next = 0

    def go(self, order: str, start: float, argument: float) -> tuple[range, list[int]]:
        """Append a number of events; return their numbers, and the nanoseconds of each."""
        append, times = self._appends[order], []
        numbers = range(self._next, self._next + int(argument))
        self._next = numbers.stop

        def timed(event: dict[str, object]) -> None:
            begun = time.perf_counter_ns()
            append(event)
            times.append(time.perf_counter_ns() - begun)

        pace(timed, numbers, start, 1 / RATE)
        return numbers, times

    def close(self) -> None:
        """Close the connections."""
        self._stack.close()


class Sleepers:
    """Run 25 idle followers in one process; the orders are "come" and "go".

    Args:
        key: of a stream in Redis; "" for pgmem.
        number, url: as a `WorkFactory` has them.
    """

    def __init__(self, key: str, number: int, url: str) -> None:
        self._key = key
        self._url = url
        self._stack = contextlib.ExitStack()
        self._over = threading.Event()

    def go(self, order: str, start: float, argument: float) -> None:
        """Start or stop the followers."""
        if order == "come":
            self._over.clear()
            for _ in range(EACH):
                self._stack.enter_context(self._blocked() if self._key else self._subscribed())
        else:
            self.close()

    @contextlib.contextmanager
    def _subscribed(self) -> Iterator[None]:
        with (
            Memory(self._url, pool=1) as memory,
            memory.events.subscribe("idle", after="now") as events,
            _thread(functools.partial(list, events), events.stop),
        ):
            yield

    @contextlib.contextmanager
    def _blocked(self) -> Iterator[None]:
        def wait() -> None:
            with contextlib.closing(right.connect(self._url)) as client:
                while not self._over.is_set():
                    # As often as an idle Memory polls.
                    client.xread({self._key: "0"}, block=1_000)

        with _thread(wait, self._over.set):
            yield

    def close(self) -> None:
        """Stop all followers at once."""
        self._over.set()
        self._stack.close()


@contextlib.contextmanager
def _thread(run: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    """Run a function in a thread beside the block, until `stop` ends it."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(ROUND_TIMEOUT)


# Neighbours


@contextlib.contextmanager
def alone() -> Iterator[Presence]:
    """Run alone."""
    yield Presence()


@contextlib.contextmanager
def idle(sleepers: Crew) -> Iterator[Presence]:
    """Run followers of another stream."""
    sleepers.run("come")
    try:
        yield Presence()
    finally:
        sleepers.run("go")


@contextlib.contextmanager
def open_transaction(url: str) -> Iterator[Presence]:
    """Run a transaction with a snapshot and a transaction id that has written nothing in pgmem."""
    with bare(url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT pg_current_xact_id(), (SELECT max(position) FROM pgmem.events)")
        yield Presence()
        connection.execute("ROLLBACK")


@contextlib.contextmanager
def open_append(url: str, numbers: Iterator[int], seconds: float) -> Iterator[Presence]:
    """Run a transaction that has appended, and stays open for some seconds."""
    found = Presence([next(numbers)])
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with Memory(url, pool=1) as memory, memory.transaction() as tx:
            event = stamped(found.appended[0], time.monotonic(), last=False)
            tx.events.append(STREAM, Event(type=TYPE, payload=event, agent_id=AGENT))
            begun.set()
            over.wait(seconds)
            found.ended = time.monotonic()

    with _thread(hold, over.set):
        if not begun.wait(ROUND_TIMEOUT):
            raise ServerError("the transaction that is to stay open did not begin")
        yield found


@contextlib.contextmanager
def dump(program: Path, url: str) -> Iterator[Presence]:
    """Run pg_dumps of the database, one after the other."""
    over = threading.Event()
    command = [str(program), "--dbname", url, "--file", "/dev/null"]

    def repeat() -> None:
        while not over.is_set():
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    if over.wait(0.01):
                        process.terminate()

    with _thread(repeat, over.set):
        yield Presence()


def dump_error(program: Path, url: str) -> str:
    """Return why this pg_dump cannot dump that server; "" if it can."""
    done = subprocess.run(
        [program, "--dbname", url, "--file", "/dev/null", "--schema-only"],
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join(done.stderr.split()) or "it failed" if done.returncode else ""


@contextlib.contextmanager
def saving(server: Redis) -> Iterator[Presence]:
    """Run BGSAVEs, one after the other."""
    over = threading.Event()

    def repeat() -> None:
        with contextlib.closing(server.client()) as client:
            while not over.wait(0.01):
                if not client.info("persistence")["rdb_bgsave_in_progress"]:
                    client.bgsave()

    with _thread(repeat, over.set):
        yield Presence()


# The scenario


@contextlib.contextmanager
def neighbours(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run a writer and a reader, alone and with each neighbour, on both servers."""
    count = 16 if bench.quick else 60
    ballast = 20_000 if bench.quick else 100_000
    redis = bench.redis("strict")
    key = redis.key("neighbours")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        fill(url, redis, redis.key("neighbours-ballast"), ballast)
        lanes = {"pgmem": Lane("pgmem", url), "redis": Lane("redis", redis.url, key=key)}
        followers: dict[str, tuple[WorkFactory, str]] = {
            "pgmem": (SyncReader, url),
            "redis": (functools.partial(RedisReader, key=key), redis.url),
        }
        writer = stack.enter_context(crew(functools.partial(Writer, lanes), 1))
        reader = stack.enter_context(crew(functools.partial(Reader, followers), 1))
        duration = START_DELAY + count / RATE + HELD
        beside = _beside_pgmem(bench, stack, url, duration) | _beside_redis(bench, stack, redis)
        arms = []
        for name, (note, neighbour) in beside.items():
            lane: Kind = "redis" if name.startswith("redis") else "pgmem"
            side = Side(name, lane, "strict", note)
            store = bench.store(side)
            arms.append(side.arm(_Measure(writer, reader, lane, store, neighbour, count), store))
        yield [
            Scenario(
                "neighbours",
                f"append by one process at {RATE}/s, followed by one, beside {ballast:,} events, "
                f"p50 ({count} events a round)",
                "µs",
                arms,
                _comparisons(list(beside)),
                rounds=bench.counted(4, 1),
                warmup=0 if bench.quick else 1,
            )
        ]


Beside = dict[str, tuple[str, Neighbour]]
"""A note and a neighbour, by arm. The part of its name before the comma is the lane."""


def _beside_pgmem(bench: Bench, stack: contextlib.ExitStack, url: str, duration: float) -> Beside:
    subscribed = stack.enter_context(crew(functools.partial(Sleepers, ""), PROCESSES, url))
    numbers = itertools.count(NUMBERS)
    return {
        "pgmem": ("events.append, `for event in subscribe()`, strict", alone),
        f"pgmem, {IDLE} listeners": (
            f"and {IDLE} other memories, subscribed to another stream",
            functools.partial(idle, subscribed),
        ),
        "pgmem, open transaction": (
            "and a transaction that stays open, and has written nothing in pgmem",
            functools.partial(open_transaction, url),
        ),
        "pgmem, open append": (
            "and a transaction that stays open, and has appended: readers wait for it",
            functools.partial(open_append, url, numbers, duration),
        ),
        **_dumping(bench, url),
    }


def _beside_redis(bench: Bench, stack: contextlib.ExitStack, redis: Redis) -> Beside:
    sleepers = functools.partial(Sleepers, redis.key("neighbours-idle"))
    blocked = stack.enter_context(crew(sleepers, PROCESSES, redis.url))
    return {
        "redis": ("XADD, a reader blocked in XREAD, appendfsync always", alone),
        f"redis, {IDLE} blocked": (
            f"and {IDLE} other clients blocked in XREAD of another stream",
            functools.partial(idle, blocked),
        ),
        **_saving(bench, redis),
    }


def _dumping(bench: Bench, url: str) -> Beside:
    program = binary("pg_dump")
    error = "there is no pg_dump" if program is None else dump_error(program, url)
    if program is None or error:
        bench.leave_out("neighbours, pg_dump", error)
        return {}
    return {"pgmem, pg_dump": ("and a running pg_dump", functools.partial(dump, program, url))}


def _saving(bench: Bench, redis: Redis) -> Beside:
    if redis.pid is None:
        bench.leave_out("neighbours, BGSAVE", "it would overwrite the dump of your own Redis")
        return {}
    return {"redis, BGSAVE": ("and a running BGSAVE", functools.partial(saving, redis))}


def _comparisons(arms: Sequence[str]) -> list[Comparison]:
    # An unrelated long transaction must cost nothing, and writers never wait.
    free = {
        ("pgmem, open transaction", None): 1.1,
        ("pgmem, open transaction", DELIVERY): 1.1,
        ("pgmem, open append", None): 1.1,
    }
    found = [
        Comparison(arm, arm.partition(",")[0], at_most=free.get((arm, figure)), figure=figure)
        for arm in arms
        if "," in arm
        for figure in (None, DELIVERY)
        if (arm, figure) != ("pgmem, open append", DELIVERY)
    ]
    for arm, base in (
        ("pgmem", "redis"),
        (f"pgmem, {IDLE} listeners", f"redis, {IDLE} blocked"),
    ):
        found += [Comparison(arm, base, figure=figure) for figure in (None, DELIVERY)]
    return found


def fill(url: str, redis: Redis, key: str, count: int) -> None:
    """Put a number of events into both servers, to dump and to save."""
    with Memory(url, pool=1) as memory, contextlib.closing(redis.client()) as client:
        for first in range(0, count, 1_000):
            numbers = range(first, first + 1_000)
            memory.events.append(
                "ballast", [Event(type=TYPE, payload=payload(n), agent_id=AGENT) for n in numbers]
            )
            with client.pipeline(transaction=False) as pipe:
                for number in numbers:
                    pipe.xadd(key, {"type": TYPE, "payload": encoded(number), "agent_id": AGENT})
                pipe.execute()


@dataclass(frozen=True, slots=True)
class _Measure:
    """Run a round with a neighbour."""

    writer: Crew
    reader: Crew
    lane: str
    store: Store
    neighbour: Neighbour
    count: int

    def __call__(self) -> Sample:
        with self.neighbour() as presence, costs(self.store, sizes=False) as spent:
            [received], [(numbers, times)] = together(
                (self.reader, self.lane, 1), (self.writer, self.lane, self.count)
            )
        faults = received.audit([numbers, presence.appended])
        figures = spent.figures(self.count)
        del figures["per second"]
        figures |= _delivered(received, presence)
        return of_times(histogram(times[WARM:]), faults, figures)


def _delivered(received: Received, presence: Presence) -> dict[str, float]:
    """Return the times to the delivery of events, in microseconds."""
    latencies = [
        latency
        for number, latency in zip(received.numbers, received.latencies(), strict=True)
        if number not in presence.appended
    ][WARM:]
    if not latencies:
        return {DELIVERY: ROUND_TIMEOUT * 1e6}
    figures = {DELIVERY: percentile(latencies, 0.5), "delivery p99": percentile(latencies, 0.99)}
    if presence.ended is not None:
        figures["delivered after its end, µs"] = (max(received.at) - presence.ended) * 1e6
    return figures


ENTRIES = (
    Entry(
        "neighbours",
        "append and delivery beside idle listeners, open transactions, pg_dump and BGSAVE",
        neighbours,
        (85, 20),
    ),
)
