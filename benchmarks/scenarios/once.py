"""Measure work that takes effect once: the first time, again, by eight at once, and in a crash.

The work is one event. Two forms are each compared with their like:

* `run_once`: the work is a function of the caller's. pgmem runs it in the transaction that commits
  dedupe record, result and event together. Redis done right claims (SET NX), works (XADD) and
  stores the result, because no transaction of Redis spans a caller's code.
* one call: the store itself appends unless the key is there. pgmem's `append(idempotency_key=)`
  beside one Lua script.

The published `process_event` is measured as it is: SISMEMBER, work, SADD, EXPIRE.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks import meter
from benchmarks.audit import Faults, compare_once
from benchmarks.crew import Crew, crew, killed
from benchmarks.figures import histogram
from benchmarks.harness import Arm, Comparison, Sample, Scenario, of_times
from benchmarks.scenarios._base import Bench, Entry, Side
from benchmarks.scenarios._once import LEASE, Answer, Raced, Racer, Urls, Way, perish, way

RACERS = 8
INTERVAL = 0.015
"""Seconds between two keys of a race."""
DOOMED = 8
"""Pieces of work that one crash interrupts."""

STRICT = ("pgmem", "redis always")
ONE_CALL = ("pgmem one call", "redis always one script")
RELAXED = ("pgmem relaxed", "redis everysec")


SIDES = (
    Side("pgmem", "pgmem", "strict", "tx.dedupe.run_once, the event in its transaction"),
    Side("redis always", "redis", "strict", "SET NX GET, XADD, Lua stores the result"),
    Side("pgmem one call", "pgmem", "strict", "events.append(idempotency_key=)"),
    Side("redis always one script", "redis", "strict", "Lua: GET, XADD, SET"),
    Side("pgmem relaxed", "pgmem", "relaxed", 'tx.dedupe.run_once, durability="relaxed"'),
    Side("redis everysec", "redis", "relaxed", "SET NX GET, XADD, Lua stores the result"),
    Side("published always", "published", "strict", "process_event: SISMEMBER, XADD + HSET, SADD"),
)


def told(answers: Sequence[Answer]) -> Faults:
    """Count wrong answers to the callers of one key: one did the work, all have its result.

    An answer too many means an effect too many, which `compare_once` counts. A skipped caller of
    the published code has no result, so it cannot have a wrong one.
    """
    results = [answer.result for answer in answers if answer.result is not None]
    differ = any(result != results[0] for result in results)
    return Faults(torn=int(differ or not any(answer.first for answer in answers)))


class Group:
    """Hold the ways of the parent, and what all scenarios do with them."""

    def __init__(self, bench: Bench, stack: contextlib.ExitStack, urls: Urls) -> None:
        self._bench = bench
        self._runs = itertools.count()
        self.urls = urls
        self.ways: dict[str, Way] = {side.name: way(side.name, urls, stack) for side in SIDES}

    def run(self) -> str:
        """Return the name of a new round."""
        return f"run-{next(self._runs)}"

    def store(self, side: Side) -> meter.Store:
        """Return the server that works for an arm."""
        return self._bench.store(side)

    def arms(self, once: Callable[[Side], Sample], excused: Sequence[str] = ()) -> list[Arm]:
        """Return an arm for each side."""
        return [
            side.arm(
                functools.partial(once, side),
                self.store(side),
                excused=("duplicated",) if side.name in excused else (),
            )
            for side in SIDES
        ]


@contextlib.contextmanager
def dedupe(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run the first time, repeated, 8 racers, and a crash."""
    always, everysec = bench.redis("strict"), bench.redis("relaxed")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        urls = Urls(url, always.url, everysec.url, f"{always.key('once')}:")
        group = Group(bench, stack, urls)
        names = [side.name for side in SIDES]
        racers = stack.enter_context(crew(functools.partial(Racer, urls, names), RACERS, url))
        yield [
            first(bench, group, 50 if bench.quick else 200),
            repeated(bench, group, 3 if bench.quick else 15),
            race(bench, group, racers),
            crash(bench, group),
        ]


def first(bench: Bench, group: Group, calls: int) -> Scenario:
    """Run one client with new keys."""

    def once(side: Side) -> Sample:
        run, found = group.run(), group.ways[side.name]
        keys = [f"{run}:{number}" for number in range(calls)]
        with meter.costs(group.store(side)) as spent:
            times = meter.timed(lambda key: found.once(key, run), keys)
        return of_times(
            histogram(times), compare_once(keys, found.effects(run)), spent.figures(calls)
        )

    return Scenario(
        "dedupe/first",
        f"one event, once for its key; each key new, 1 client ({calls} calls a round)",
        "µs",
        group.arms(once),
        [
            Comparison(*STRICT, at_most=0.9),
            Comparison(*ONE_CALL, at_most=0.9),
            Comparison(*RELAXED),
            Comparison("pgmem", "redis always one script"),
            Comparison("pgmem", "published always"),
        ],
        rounds=bench.counted(8, 3),
    )


def repeated(bench: Bench, group: Group, times_each: int) -> Scenario:
    """Run one client with keys whose work is done; it gets the results."""
    count = 20
    calls = count * times_each

    def once(side: Side) -> Sample:
        run, found = group.run(), group.ways[side.name]
        keys = [f"{run}:{number}" for number in range(count)]
        answers = {key: [found.once(key, run)] for key in keys}
        with meter.costs(group.store(side)) as spent:
            times = meter.timed(
                lambda key: answers[key].append(found.once(key, run)), keys * times_each
            )
        faults = sum(map(told, answers.values()), compare_once(keys, found.effects(run)))
        return of_times(histogram(times), faults, spent.figures(calls))

    return Scenario(
        "dedupe/repeated",
        f"the same, each key's work done before: gives its result ({calls} calls a round)",
        "µs",
        group.arms(once),
        [
            Comparison(*STRICT),
            Comparison(*ONE_CALL),
            Comparison(*RELAXED),
            Comparison("pgmem", "published always"),
        ],
        rounds=bench.counted(8, 3),
    )


def race(bench: Bench, group: Group, racers: Crew) -> Scenario:
    """Start each key in eight processes at once."""
    count = 12 if bench.quick else 40

    def once(side: Side) -> Sample:
        run, found = group.run(), group.ways[side.name]
        keys = [f"{run}:{number}" for number in range(count)]
        raced: list[Raced] = racers.run(f"{side.name}/{run}/{count}", INTERVAL)
        faults = compare_once(keys, found.effects(run))
        for answers in zip(*(each.answers for each in raced), strict=True):
            faults += told(answers)
        return of_times(histogram(time for each in raced for time in each.times), faults)

    return Scenario(
        f"dedupe/{RACERS} racers",
        f"{RACERS} processes go for the same key at once; call to result ({count} keys a round)",
        "µs",
        group.arms(once),
        [
            Comparison(*STRICT),
            Comparison(*STRICT, figure="p99"),
            Comparison(*ONE_CALL),
            Comparison(*RELAXED),
            Comparison("pgmem", "published always"),
        ],
        rounds=bench.counted(4, 2),
    )


def crash(bench: Bench, group: Group) -> Scenario:
    """Kill a process when the effect is there and the caller has not recorded it; then retry."""

    def once(side: Side) -> Sample:
        run, found = group.run(), group.ways[side.name]
        keys = [f"{run}:{number}" for number in range(DOOMED)]
        killed(perish, side.name, group.urls, run, keys)
        begun = time.perf_counter()
        for key in keys:
            found.once(key, run)
        seconds = time.perf_counter() - begun
        faults = compare_once(keys, found.effects(run))
        wrong = faults.lost + faults.duplicated
        return Sample(seconds * 1e3, faults, {f"wrong of {DOOMED}": wrong})

    return Scenario(
        "dedupe/crash",
        f"kill -9 between {DOOMED} effects and their records, then all are tried again: time from "
        f"the kill to the last result (claims of {LEASE:g} s)",
        "ms",
        # In Redis, a caller's work that is no part of a script cannot be atomic with its record.
        group.arms(once, excused=("redis always", "redis everysec")),
        [Comparison(*STRICT), Comparison(*ONE_CALL), Comparison(*RELAXED)],
        rounds=bench.counted(3, 1),
        warmup=0,
    )


ENTRIES = (
    Entry(
        "dedupe",
        "work that takes effect once: first, repeated, 8 racers, a crash",
        dedupe,
        (85, 16),
    ),
)
