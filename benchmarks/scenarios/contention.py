"""Measure compare-and-set without rivals and among rivals: its cost, lost increments, starvation.

Each write carries its event, on both sides. "Free" is one client that knows the version. The others
read, add one and write until it is acknowledged, with 2, 8 and 32 writers at once, on one key and
on 100 keys. 32 writers are 8 processes with 4 threads each, on every side.

The compared figure is the elapsed time for each successful update, all writers together, so a
writer that gives up does not improve it. A writer that takes all turns does improve it, because it
has no races to lose. So the slowest writer's time for an update stands beside it, and a writer that
did less than a third of its fair share counts as starved.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks import meter
from benchmarks.arms import published, right
from benchmarks.arms.published import ConcurrentModificationError, Published
from benchmarks.arms.right import Right
from benchmarks.audit import Faults
from benchmarks.crew import Crew, crew
from benchmarks.figures import histogram, microseconds
from benchmarks.harness import Arm, Comparison, Kind, Sample, Scenario, Tier, of_times
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import Bare, Bench, Entry, bare
from benchmarks.scenarios._counting import PROCESSES, Done, Urls, Writers, names
from pgmem import Memory

RACES = ((2, 1), (8, 1), (32, 1), (2, 100), (8, 100), (32, 100))
"""Writers and keys. Up to 8 writers are a process each; more are threads of the 8."""
TARGETS = {(8, 1): 1.0}
QUICK_RACES = ((8, 1), (32, 100))
FREE_KEYS = 100
SHARE, LONG = 30, 0.5
"""A writer is starved if it did less than a third of its fair share.

This is judged only where the share is at least `SHARE` updates in a round of at least `LONG`
seconds. In shorter rounds chance makes such writers, and so does the machine, which lets a process
wait for a processor now and then.
"""

Known = dict[str, int]


class Side(NamedTuple):
    """Describe an arm for the report."""

    name: str
    kind: Kind
    tier: Tier
    update: str
    compare: str


SIDES = (
    Side("pgmem", "pgmem", "strict", "state.update(key, +1)", "state.compare_and_set"),
    Side(
        "redis always", "redis", "strict", "HGET, Lua compare-and-set with XADD", "Lua, with XADD"
    ),
    Side("pgmem relaxed", "pgmem", "relaxed", 'the same, durability="relaxed"', "the same"),
    Side("redis everysec", "redis", "relaxed", "the same, appendfsync everysec", "the same"),
    Side(
        "published always",
        "published",
        "strict",
        "update_with_version as it is, 3 tries, 0.7 s of sleep: once for a resource; no event",
        "update_with_version on new resources, and once more on the last: refused; no event",
    ),
)
BARE = Side(
    "bare", "floor", "strict", "", "psycopg: UPDATE and INSERT in one statement, no notification"
)
COMPARE_AND_SET = (
    b"WITH changed AS (UPDATE pgmem.state SET value = %(value)s, version = version + 1,"
    b" updated_at = clock_timestamp() WHERE key = %(key)s AND version = %(version)s"
    b" RETURNING key, value, version)"
    b" INSERT INTO pgmem.events (stream, type, payload, state_key, state_version)"
    b" SELECT 'state:' || key, 'state.put', value, key, version FROM changed"
    b" RETURNING state_version"
)
STRICT = ("pgmem", "redis always")
RELAXED = ("pgmem relaxed", "redis everysec")


class Kept(NamedTuple):
    """Hold what a store has of one counter.

    Attributes:
        value: the counter.
        versions: of its events, in their order; None if the way writes no events.
    """

    value: int
    versions: Sequence[int] | None


def audit(acknowledged: int, kept: Kept) -> Faults:
    """Count the faults of one counter's increments."""
    faults = Faults(
        lost=max(0, acknowledged - kept.value), duplicated=max(0, kept.value - acknowledged)
    )
    if kept.versions is None:
        return faults
    versions = list(kept.versions)
    return faults + Faults(
        reordered=sum(later < earlier for earlier, later in itertools.pairwise(versions)),
        # Each write has its event, and versions have no gap.
        torn=abs(len(versions) - kept.value)
        + (sorted(versions) != list(range(versions[0], versions[0] + len(versions))))
        if versions
        else kept.value,
    )


def starved(done: Sequence[Done]) -> int:
    """Return how many writers starved, and how many updates were given up."""
    counts = [len(each.times) for each in done]
    share = sum(counts) / len(counts)
    judged = share >= SHARE and min(each.end - each.start for each in done) >= LONG
    hungry = sum(count < share / 3 for count in counts) if judged else 0
    return hungry + sum(each.gave_up for each in done)


def read_postgres(connection: Bare, run: str, keys: int) -> dict[str, Kept]:
    """Return what pgmem's tables hold."""
    values: dict[str, int] = dict(
        connection.execute(
            "SELECT key, value::text::bigint FROM pgmem.state WHERE key LIKE %s", (f"{run}:%",)
        ).fetchall()
    )
    versions: dict[str, list[int]] = {}
    # Version 1 is the 0 that the run began with.
    for key, version in connection.execute(
        "SELECT state_key, state_version FROM pgmem.events"
        " WHERE stream = ANY(%s) AND state_version > 1 ORDER BY position",
        ([f"state:{name}" for name in names(run, keys)],),
    ):
        versions.setdefault(key, []).append(version)
    return {key: Kept(values[key], versions.get(key, ())) for key in names(run, keys)}


def read_right(store: Right, run: str, keys: int) -> dict[str, Kept]:
    """Return what Redis done right holds."""
    entries = store.get_many(names(run, keys))
    versions: dict[str, list[int]] = {}
    for event in store.read(stream=run):
        assert event.key is not None
        assert event.version is not None
        versions.setdefault(event.key, []).append(event.version)
    return {key: Kept(entries[key].value, versions.get(key, ())) for key in names(run, keys)}


def read_published(client: Any, prefix: str, run: str, keys: int) -> dict[str, Kept]:
    """Return what the published approach holds, without events."""
    return {
        key: Kept(int(client.hget(f"{prefix}resource:{key}", "value") or 0), None)
        for key in names(run, keys)
    }


def sample(done: Sequence[Done], kept: Mapping[str, Kept]) -> Sample:
    """Return the figures and faults of a round.

    Args:
        done: what each writer did.
        kept: what the store holds of each counter.
    """
    faults = Faults(starved=starved(done))
    for key, counter in kept.items():
        faults += audit(sum(each.by_key.get(key, 0) for each in done), counter)
    counts = sorted(len(each.times) for each in done)
    updates = sum(counts)
    seconds = max(each.end for each in done) - min(each.start for each in done)
    times = histogram(value for each in done for value in each.times)
    figures = {
        "p50": microseconds(times, 50),
        "p99": microseconds(times, 99),
        "max": microseconds(times, 100),
        "retries each": sum(each.retries for each in done) / max(1, updates),
        "least / fair share": counts[0] * len(counts) / max(1, updates),
        "slowest writer, µs each": seconds * 1e6 / max(1, counts[0]),
    }
    each = seconds / max(1, updates)
    return Sample(each * 1e6, faults, {"per second": 1 / each, **figures}, times)


class Stores:
    """Give the parent access to the arms' stores: to set counters up, and to audit them."""

    def __init__(self, bench: Bench, stack: contextlib.ExitStack, urls: Urls) -> None:
        always, everysec = bench.redis("strict"), bench.redis("relaxed")
        url, prefix = urls.postgres, urls.prefix
        self.postgres = bench.postgres
        self.connection = stack.enter_context(contextlib.closing(bare(url)))
        self.memories = {
            "pgmem": stack.enter_context(Memory(url, agent_id="writer")),
            "pgmem relaxed": stack.enter_context(
                Memory(url, agent_id="writer", durability="relaxed")
            ),
        }
        self.tables = {*self.memories, "bare"}
        self.servers: Mapping[str, Redis] = {
            "redis always": always,
            "redis everysec": everysec,
            "published always": always,
        }
        self.rights: dict[str, Right] = {}
        self.prefix = prefix
        for name, server in (("redis always", always), ("redis everysec", everysec)):
            client = stack.enter_context(contextlib.closing(right.connect(server.url)))
            self.rights[name] = Right(client, prefix=prefix, agent_id="writer")
        self.client = stack.enter_context(contextlib.closing(published.connect(always.url)))
        self.published = Published(self.client, prefix=prefix)
        self._runs = itertools.count()

    def begin(self, arm: str, keys: int) -> str:
        """Set the counters of a new run to 0; return its name, which is also its stream's."""
        run = f"run-{next(self._runs)}"
        if arm in self.tables:
            with self.memories["pgmem"].transaction() as tx:
                for name in names(run, keys):
                    tx.state.put(name, 0)
        elif arm in self.rights:
            for name in names(run, keys):
                self.rights[arm].put(name, 0, stream=f"{run}-setup")
        return run

    def kept(self, arm: str, run: str, keys: int) -> dict[str, Kept]:
        """Return what an arm's store holds of a run."""
        if arm in self.tables:
            return read_postgres(self.connection, run, keys)
        if arm in self.rights:
            return read_right(self.rights[arm], run, keys)
        return read_published(self.client, self.prefix, run, keys)

    def store(self, arm: str) -> meter.Store:
        """Return the server that works for an arm."""
        return self.servers.get(arm, self.postgres)

    def arm(self, side: Side, run: Callable[[], Sample], note: str) -> Arm:
        """Return an arm of a side."""
        server = self.servers.get(side.name)
        prepare = server.prepare if server else None
        # Tries without a lock do not promise fairness: the winner goes on, and the loser waits.
        # Starvation is counted, but does not make the run fail.
        return Arm(
            side.name,
            run,
            note,
            side.kind,
            side.tier,
            prepare,
            excused=("starved",) if side.kind == "redis" else (),
        )


@contextlib.contextmanager
def compare_and_set(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run one client without rivals, then 2, 8 and 32 writers on one key and on 100 keys."""
    always, everysec = bench.redis("strict"), bench.redis("relaxed")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        urls = Urls(url, always.url, everysec.url, f"{always.key('contention')}:")
        stores = Stores(bench, stack, urls)
        writers = stack.enter_context(crew(functools.partial(Writers, urls), PROCESSES, url))
        yield [
            free(bench, stores, 100 if bench.quick else 400),
            *(
                race(bench, writers, stores, size, keys)
                for size, keys in (QUICK_RACES if bench.quick else RACES)
            ),
        ]


def free(bench: Bench, stores: Stores, calls: int) -> Scenario:
    """Run one client that knows each key's version."""

    def arm(side: Side) -> Arm:
        def once() -> Sample:
            if side.kind == "published":
                return _free_published(stores, calls // 4)
            run = stores.begin(side.name, FREE_KEYS)
            turn = names(run, FREE_KEYS)
            known = dict.fromkeys(turn, 1)
            call = _free_call(stores, side.name, run, known)
            with meter.costs(stores.store(side.name)) as spent:
                times = meter.timed(call, [turn[n % FREE_KEYS] for n in range(calls)])
            kept = stores.kept(side.name, run, FREE_KEYS)
            faults = sum((audit(known[key] - 1, each) for key, each in kept.items()), Faults())
            return of_times(histogram(times), faults, spent.figures(calls))

        return stores.arm(side, once, side.compare)

    return Scenario(
        "compare_and_set/free",
        f"compare-and-set with its event, 1 client that knows the version ({calls} calls a round)",
        "µs",
        [arm(side) for side in (*SIDES, BARE)],
        [
            Comparison(*STRICT, at_most=0.9),
            Comparison(*STRICT, figure="p99"),
            Comparison(*RELAXED),
            Comparison("pgmem", "published always"),
            Comparison("pgmem", "bare"),
        ],
        rounds=bench.counted(9, 2),
    )


def _free_call(stores: Stores, arm: str, run: str, known: Known) -> Callable[[str], None]:
    # The value is the counter, so that the audit is the same as among rivals.
    if arm in stores.memories:
        state = stores.memories[arm].state

        def pgmem(key: str) -> None:
            version = known[key]
            known[key] = state.compare_and_set(key, version, expected_version=version).version

        return pgmem
    if arm == "bare":

        def execute(key: str) -> None:
            version = known[key]
            values = {"key": key, "value": str(version), "version": version}
            row = stores.connection.execute(COMPARE_AND_SET, values).fetchone()
            assert row is not None
            known[key] = row[0]

        return execute
    store = stores.rights[arm]

    def redis(key: str) -> None:
        version = known[key]
        known[key] = store.compare_and_set(key, version, version, stream=run)

    return redis


def _free_published(stores: Stores, calls: int) -> Sample:
    run = stores.begin("published always", calls)
    turn = names(run, calls)

    def call(key: str) -> None:
        stores.published.update_with_version(key, lambda _: {"value": 1})

    with meter.costs(stores.store("published always")) as spent:
        times = meter.timed(call, turn)
    refused = 0
    try:
        call(turn[-1])
    except ConcurrentModificationError:
        refused = 1
    kept = stores.kept("published always", run, calls)
    faults = sum((audit(1, each) for each in kept.values()), Faults(starved=refused))
    return of_times(histogram(times), faults, spent.figures(calls))


def race(bench: Bench, writers: Crew, stores: Stores, size: int, keys: int) -> Scenario:
    """Run several writers on some keys, for some time."""
    seconds = 0.25 if bench.quick else 0.6

    def arm(side: Side) -> Arm:
        def once() -> Sample:
            run = stores.begin(side.name, keys)
            with meter.costs(stores.store(side.name)) as spent:
                order = f"{side.name}/{run}/{size}/{keys}"
                done = [each for found in writers.run(order, seconds) for each in found]
            measured = sample(done, stores.kept(side.name, run, keys))
            updates = sum(len(each.times) for each in done)
            costs = spent.figures(max(1, updates))
            del costs[
                "per second"
            ]  # It contains the wait for the start; the arm's own figure does not.
            return replace(measured, figures={**measured.figures, **costs})

        return stores.arm(side, once, side.update)

    return Scenario(
        f"compare_and_set/{size} writers on {keys} key{'s' * (keys > 1)}",
        "read, add one, write with its event until acknowledged; time for each update, all "
        f"{size} writers together ({seconds:g} s a round)",
        "µs",
        [arm(side) for side in SIDES],
        [
            Comparison(*STRICT, at_most=TARGETS.get((size, keys))),
            Comparison(*STRICT, figure="p50"),
            Comparison(*STRICT, figure="p99"),
            Comparison(*STRICT, figure="slowest writer, µs each"),
            Comparison(*RELAXED),
            Comparison(*RELAXED, figure="slowest writer, µs each"),
        ],
        rounds=bench.counted(3, 1),
    )


ENTRIES = (
    Entry(
        "compare_and_set",
        "compare-and-set without rivals, and 2, 8 and 32 writers on 1 and 100 keys",
        compare_and_set,
        (190, 22),
    ),
)
