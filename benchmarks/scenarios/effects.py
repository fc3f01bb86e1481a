"""Measure a member that writes rows in Postgres: take 10 events, write 10 rows, acknowledge.

pgmem acknowledges the deliveries in the transaction that writes the rows: both or neither. With the
events in Redis there are two stores. Rows first, XACK afterwards: a crash between the two writes
the rows again. XACK first would lose them instead. Done right, the rows name their event under a
unique index, and the second write changes nothing. This is an arm of its own, because each row pays
for it.

- steps: the time of each batch, from the call that takes it until its rows are committed;
- crash: `kill -9` when the rows are written and not yet acknowledged.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from benchmarks.arms import right
from benchmarks.arms.records import Recorded
from benchmarks.arms.right import Right
from benchmarks.audit import Faults, compare_once
from benchmarks.crew import killed
from benchmarks.figures import histogram
from benchmarks.harness import Arm, Comparison, Sample, Scenario, of_times
from benchmarks.meter import Store, costs, timed
from benchmarks.scenarios._base import Bare, Bench, Entry, Side, bare
from benchmarks.scenarios._members import End, Payload, PgmemStore, RedisStore
from benchmarks.scenarios._once import nothing
from pgmem import Memory

BATCH = 10
CALLS = (100, 30)
"""Batches of a round, full and quick."""
LEASE = 0.5
"""Seconds of the lease of a batch; short, because a crash waits for its end."""
PAUSE = 0.005
TIMEOUT = 10.0
LABEL = "effects"

_TABLE = b"CREATE TABLE effects (event bigint NOT NULL, account text NOT NULL, amount bigint)"
_UNIQUE = b"ALTER TABLE effects ADD PRIMARY KEY (event)"
_INSERT = (
    b"INSERT INTO effects (event, account, amount)"
    b" SELECT * FROM unnest(%(events)b::bigint[], %(accounts)b::text[], %(amounts)b::bigint[])"
)
_INSERT_ONCE = _INSERT + b" ON CONFLICT DO NOTHING"

Hook = Callable[[], object]

_TX = "group.read; INSERT and group.ack(tx=) in one transaction"
_TWO = "XREADGROUP, INSERT, XACK with the next read"
_ONCE = f"{_TWO}; unique index, ON CONFLICT DO NOTHING"
PGMEM = Side("pgmem", "pgmem", "strict", _TX)
ALWAYS = Side("redis always", "redis", "strict", f"{_TWO}: a crash doubles the rows")
ALWAYS_ONCE = Side("redis always, unique", "redis", "strict", _ONCE)
RELAXED = Side("pgmem relaxed", "pgmem", "relaxed", f"{_TX}, relaxed")
EVERYSEC = Side(
    "redis everysec", "redis", "relaxed", f"{_TWO}, synchronous_commit off: a crash doubles"
)
SIDES = (PGMEM, ALWAYS, ALWAYS_ONCE, RELAXED, EVERYSEC)
DOUBLING = (ALWAYS.name, EVERYSEC.name)
"""The arms that promise nothing for a crash between the rows and their acknowledgement."""


class Where(NamedTuple):
    """Hold where a way's events and rows are.

    Attributes:
        end: of the events.
        rows: URL of the database with the rows.
        unique: a row names its event under a unique index.
    """

    end: End
    rows: str
    unique: bool = False


def rows_of(payloads: Sequence[Payload]) -> dict[str, list[Any]]:
    """Return the parameters of the INSERT for some events."""
    return {
        "events": [event["n"] for event in payloads],
        "accounts": [event["account"] for event in payloads],
        "amounts": [event["amount"] for event in payloads],
    }


class Way(Protocol):
    """Define a member that writes rows."""

    def append(self, numbers: Sequence[int]) -> None:
        """Append events for the group."""

    def step(self, hook: Hook = nothing) -> int:
        """Take a batch and write its rows; return the number of events.

        Args:
            hook: called when the rows are written and not yet acknowledged.
        """

    def take_over(self) -> int:
        """Do the same with a dead member's batch; return 0 while its lease lasts."""

    def end(self) -> None:
        """Acknowledge the last batch."""

    def left(self) -> int:
        """Return how many events are not acknowledged."""


class PgmemWay:
    """Write the rows and acknowledge them in one transaction."""

    def __init__(self, memory: Memory, where: Where, consumer: str) -> None:
        self._memory = memory
        self._consumer = consumer
        self._store = PgmemStore(memory, where.end)
        self._group = memory.groups.create(LABEL, stream=LABEL, exist_ok=True)

    def append(self, numbers: Sequence[int]) -> None:
        """Append events; see `Way`."""
        self._store.append(LABEL, numbers)

    def step(self, hook: Hook = nothing) -> int:
        """Take a batch; see `Way`."""
        deliveries = self._group.read(self._consumer, limit=BATCH, timeout=TIMEOUT, lease=LEASE)
        if deliveries:
            payloads = [delivery.event.payload for delivery in deliveries]
            with self._memory.transaction() as tx:
                tx.connection.execute(_INSERT, rows_of(payloads))
                self._group.ack(deliveries, tx=tx)
                hook()
        return len(deliveries)

    def take_over(self) -> int:
        """Take over a batch; see `Way`."""
        return self.step()

    def end(self) -> None:
        """Do nothing; see `Way`."""

    def left(self) -> int:
        """Count what is left; see `Way`."""
        return self._store.left(LABEL)


class RedisWay:
    """Commit the rows, and send XACK with the next read."""

    def __init__(self, memory: Right, rows: Bare, where: Where, consumer: str) -> None:
        self._memory = memory
        self._rows = rows
        self._insert = _INSERT_ONCE if where.unique else _INSERT
        self._consumer = consumer
        self._name = f"{where.end.prefix}{LABEL}"
        self._store = RedisStore(memory, where.end)
        self._held: list[bytes] = []
        memory.create_group(self._name, stream=self._name)

    def append(self, numbers: Sequence[int]) -> None:
        """Append events; see `Way`."""
        self._store.append(LABEL, numbers)

    def step(self, hook: Hook = nothing) -> int:
        """Take a batch; see `Way`."""
        name = self._name
        if self._held:
            _, events = self._memory.exchange(name, self._consumer, self._held, BATCH, stream=name)
        else:
            events = self._memory.receive(name, self._consumer, BATCH, stream=name)
        return self._work(events, hook)

    def _work(self, events: Sequence[Recorded], hook: Hook = nothing) -> int:
        self._held = [event.id for event in events]
        if events:
            # Committed on return: autocommit is the fastest way for one statement.
            self._rows.execute(self._insert, rows_of([event.payload for event in events]))
            hook()
        return len(events)

    def take_over(self) -> int:
        """Take over a batch; see `Way`."""
        found = self._memory.reclaim(self._name, self._consumer, LEASE, BATCH, stream=self._name)
        return self._work(found.events)

    def end(self) -> None:
        """Acknowledge; see `Way`."""
        if self._held:
            self._memory.ack(self._name, self._held, stream=self._name)
            self._held = []

    def left(self) -> int:
        """Count what is left; see `Way`."""
        return self._store.left(LABEL)


def way(where: Where, stack: contextlib.ExitStack, consumer: str) -> Way:
    """Return one of the ways; it is closed with the stack."""
    end = where.end
    if end.kind == "pgmem":
        memory = stack.enter_context(Memory(end.url, pool=1, durability=end.durability))
        return PgmemWay(memory, where, consumer)
    client = stack.enter_context(contextlib.closing(right.connect(end.url)))
    rows = stack.enter_context(bare(where.rows))
    if end.durability == "relaxed":
        rows.execute("SET synchronous_commit TO off")
    return RedisWay(Right(client), rows, where, consumer)


def perish(where: Where) -> None:
    """Take a batch, and die by `kill -9` when its rows are written."""
    with contextlib.ExitStack() as stack:
        way(where, stack, "doomed").step(lambda: os.kill(os.getpid(), signal.SIGKILL))


class Both(NamedTuple):
    """Combine two servers that work for one way."""

    first: Store
    second: Store

    def processes(self) -> list[int]:
        """Return the processes of both; none if those of one cannot be read."""
        first, second = self.first.processes(), self.second.processes()
        return [*first, *second] if first and second else []

    def sizes(self) -> dict[str, int]:
        """Return the sizes of both together."""
        return dict(Counter(self.first.sizes()) + Counter(self.second.sizes()))


class Group:
    """Hold the ways of the parent, and the rows of each."""

    def __init__(
        self, bench: Bench, stack: contextlib.ExitStack, sides: Sequence[Side] = SIDES
    ) -> None:
        self._bench = bench
        self._numbers = itertools.count()
        self.wheres = {side.name: self._where(side, stack) for side in sides}
        self._rows = {
            name: stack.enter_context(bare(where.rows)) for name, where in self.wheres.items()
        }
        for name, where in self.wheres.items():
            self._rows[name].execute(_TABLE)
            if where.unique:
                self._rows[name].execute(_UNIQUE)
        self.ways = {name: way(where, stack, "member") for name, where in self.wheres.items()}

    def _where(self, side: Side, stack: contextlib.ExitStack) -> Where:
        url = stack.enter_context(self._bench.postgres.database())
        durability: Literal["relaxed", "strict"] = "relaxed" if side.tier == "relaxed" else "strict"
        if side.kind == "pgmem":
            return Where(End("pgmem", url, durability), url)
        assert side.tier
        redis = self._bench.redis(side.tier)
        unique = side is ALWAYS_ONCE
        prefix = redis.key("effects-once-" if unique else "effects-")
        return Where(End("redis", redis.url, durability, prefix), url, unique)

    def store(self, side: Side) -> Store:
        """Return the servers that work for an arm."""
        store = self._bench.store(side)
        return store if side.kind == "pgmem" else Both(store, self._bench.postgres)

    def begin(self, side: Side, count: int) -> list[int]:
        """Append events for a way; return their numbers."""
        numbers = list(itertools.islice(self._numbers, count))
        self.ways[side.name].append(numbers)
        return numbers

    def audit(self, side: Side, numbers: Sequence[int]) -> Faults:
        """Count the faults of these events, the newest of the way."""
        statement = b"SELECT event FROM effects WHERE event >= %s"
        effects = [row[0] for row in self._rows[side.name].execute(statement, (numbers[0],))]
        return compare_once(numbers, effects, self.ways[side.name].left())


@contextlib.contextmanager
def effects(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run batch by batch, and a crash."""
    with contextlib.ExitStack() as stack:
        group = Group(bench, stack)
        yield [steps(bench, group), crash(bench, group)]


def steps(bench: Bench, group: Group) -> Scenario:
    """Run one member, batch by batch."""
    calls = CALLS[bench.quick]

    def once(side: Side) -> Sample:
        way = group.ways[side.name]
        numbers = group.begin(side, calls * BATCH)
        with costs(group.store(side)) as spent:
            times = timed(lambda _: way.step(), range(calls))
        way.end()
        figures = spent.figures(len(numbers))
        return of_times(histogram(times), group.audit(side, numbers), figures)

    return Scenario(
        "group_effects",
        f"a member takes {BATCH} events, inserts {BATCH} rows and acknowledges: each time "
        f"({calls} times a round)",
        "µs",
        [_arm(bench, side, functools.partial(once, side)) for side in SIDES],
        _comparisons(),
        rounds=bench.counted(5, 2),
    )


def crash(bench: Bench, group: Group) -> Scenario:
    """Kill a member between the rows and their acknowledgement; then another one takes over."""

    def once(side: Side) -> Sample:
        way = group.ways[side.name]
        numbers = group.begin(side, BATCH)
        killed(perish, group.wheres[side.name])
        begun = time.perf_counter()
        done = 0
        while done < BATCH and time.perf_counter() < begun + TIMEOUT:
            taken = way.take_over()
            way.end()
            done += taken
            if not taken:
                time.sleep(PAUSE)
        seconds = time.perf_counter() - begun
        faults = group.audit(side, numbers)
        doubled = {f"rows too many, of {BATCH}": float(faults.duplicated)}
        return Sample(seconds * 1e3, faults, doubled)

    return Scenario(
        "group_effects/crash",
        f"kill -9 when {BATCH} rows are written and not acknowledged: time from the kill until "
        f"another member has done the work (a batch is taken over after {LEASE:g} s)",
        "ms",
        [
            _arm(bench, side, functools.partial(once, side), doubles=side.name in DOUBLING)
            for side in SIDES
        ],
        _comparisons(),
        rounds=bench.counted(3, 1),
        warmup=0,
    )


def _arm(bench: Bench, side: Side, run: Callable[[], Sample], *, doubles: bool = False) -> Arm:
    return side.arm(run, bench.store(side), excused=("duplicated",) if doubles else ())


def _comparisons() -> list[Comparison]:
    return [
        Comparison(PGMEM.name, ALWAYS.name),
        Comparison(PGMEM.name, ALWAYS_ONCE.name),
        Comparison(RELAXED.name, EVERYSEC.name),
    ]


ENTRIES = (
    Entry(
        "group_effects",
        "a group's acknowledgement in the transaction of its effects, beside Redis and Postgres",
        effects,
        (30, 6),
    ),
)
