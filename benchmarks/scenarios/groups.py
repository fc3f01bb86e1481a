"""Measure groups: one stream shared by 1, 4 and 16 members, in batches of 1, 10 and 100.

Each member is a process that takes a batch and acknowledges it in the round trip that takes the
next
one: `group.read(ack=…)` beside XACK and XREADGROUP in one pipeline, with the same payloads, decoded
on both sides. The same with two round trips stands beside them for batches of 10. Equal promises
are compared: an acknowledged delivery is as safe as an acknowledged append.

- throughput: all events are there before the members begin;
- latency: events come at a steady rate, timed from the append to the member.

Every event must be acknowledged once, be delivered once, and reach its member in the order of the
log. The members report what they had and when; the store reports what is left.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.synchronize import Event as Flag
from typing import Literal, NamedTuple

from benchmarks.crew import Crew, crew, together
from benchmarks.figures import PERCENTILES, histogram, microseconds
from benchmarks.harness import Comparison, Sample, Scenario, of_times
from benchmarks.meter import Spent, costs
from benchmarks.scenarios._base import STREAM, Bench, Entry, Side
from benchmarks.scenarios._following import ROUND_TIMEOUT, WARM_EVENTS, Lane, Writer
from benchmarks.scenarios._members import End, Links, Share, Store, Worker, at_once, audit

MEMBERS, QUICK_MEMBERS = (1, 4, 16), (4,)
COUNTS = {1: (1_000, 150), 10: (8_000, 1_000), 100: (20_000, 4_000)}
"""Size of a batch to the events of a round, full and quick."""
APART = 10
"""The batch size that is also acknowledged in a round trip of its own."""
RATE = 400
PACED_BATCH = 10


class Way(NamedTuple):
    """Describe an arm, and if it acknowledges in the round trip that takes the next batch."""

    side: Side
    together: bool = True


_READ = "group.read(ack=…)"
_PIPE = "XACK, XREADGROUP in one pipeline"
STRICT = Way(Side("pgmem", "pgmem", "strict", _READ))
ALWAYS = Way(Side("redis always", "redis", "strict", f"{_PIPE}, appendfsync always"))
RELAXED = Way(Side("pgmem relaxed", "pgmem", "relaxed", f'{_READ}, durability="relaxed"'))
EVERYSEC = Way(Side("redis everysec", "redis", "relaxed", f"{_PIPE}, appendfsync everysec"))
NONE = Way(Side("redis none", "redis", "none", f"{_PIPE}, no persistence"))
STRICT_APART = Way(Side("pgmem, two calls", "pgmem", "strict", "group.read, group.ack"), False)
ALWAYS_APART = Way(Side("redis always, two calls", "redis", "strict", "XREADGROUP, XACK"), False)
EQUAL = (STRICT, ALWAYS, RELAXED, EVERYSEC)
WAYS = (*EQUAL, NONE, STRICT_APART, ALWAYS_APART)


class Stage:
    """Keep the stores of all ways, and the member processes of one number of members at a time.

    Args:
        bench: the servers.
        stack: closes what is opened.
        ways: all ways that run.
    """

    def __init__(
        self, bench: Bench, stack: contextlib.ExitStack, ways: Sequence[Way] = WAYS
    ) -> None:
        self.bench = bench
        self._numbers = itertools.count()
        # A database for each durability, because a notification wakes every listener of its
        # database.
        urls = {
            tier: stack.enter_context(bench.postgres.database()) for tier in ("strict", "relaxed")
        }
        self.ends = {way.side.name: self._end(way, urls) for way in ways}
        links = Links(stack)
        self.stores: dict[str, Store] = {name: links.store(end) for name, end in self.ends.items()}
        # From the crew's own context: its members can be given no other.
        self.over: Flag = multiprocessing.get_context("forkserver").Event()
        self._crews = stack.enter_context(contextlib.ExitStack())
        self._size = 0
        self._crew: Crew | None = None
        self._writer: Crew | None = None
        self._stack = stack

    def _end(self, way: Way, urls: Mapping[str, str]) -> End:
        side = way.side
        prefix = "" if way.together else "apart-"
        if side.kind == "pgmem":
            durability: Literal["relaxed", "strict"] = (
                "relaxed" if side.tier == "relaxed" else "strict"
            )
            return End("pgmem", urls[durability], durability, prefix, way.together)
        assert side.tier
        redis = self.bench.redis(side.tier)
        return End("redis", redis.url, "strict", redis.key(f"groups-{prefix}"), way.together)

    def crew(self, size: int) -> Crew:
        """Return a number of members; end those of another number."""
        if self._crew is None or self._size != size:
            self._crews.close()
            make = functools.partial(Worker, self.ends, self.over)
            self._size, self._crew = size, self._crews.enter_context(crew(make, size))
        return self._crew

    @property
    def writer(self) -> Crew:
        """Return one process that appends at a rate."""
        if self._writer is None:
            lanes = {
                name: Lane(end.kind, end.url, end.durability, f"{end.prefix}{STREAM}")
                for name, end in self.ends.items()
                if end.together
            }
            self._writer = self._stack.enter_context(crew(functools.partial(Writer, lanes), 1))
        return self._writer

    def numbers(self, count: int) -> list[int]:
        """Return numbers that no event has yet."""
        return list(itertools.islice(self._numbers, count))


@contextlib.contextmanager
def groups(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run each number of members with each size of batches, and the latency."""
    sizes = QUICK_MEMBERS if bench.quick else MEMBERS
    if bench.quick:
        bench.leave_out("groups of 1 and 16 members", "a quick run has 4 members")
    with contextlib.ExitStack() as stack:
        stage = Stage(bench, stack)
        yield [
            scenario
            for members in sizes
            for scenario in (
                *(throughput(stage, members, batch) for batch in COUNTS),
                latency(stage, members),
            )
        ]


def _members(count: int) -> str:
    return "1 member" if count == 1 else f"{count} members"


# Throughput


def throughput(stage: Stage, members: int, batch: int) -> Scenario:
    """Measure how many available events a second are taken and acknowledged."""
    bench = stage.bench
    count = COUNTS[batch][bench.quick]
    apart = batch == APART and not bench.quick
    ways = [way for way in WAYS if way.together or apart]

    def once(way: Way) -> Sample:
        name, label = way.side.name, f"{members}x{batch}"
        numbers = stage.numbers(count)
        workers = stage.crew(members)
        stage.stores[name].append(label, numbers)
        with costs(bench.store(way.side)) as spent:
            shares: list[Share] = workers.run(f"drain/{name}/{label}", batch)
        return taken(shares, numbers, stage.stores[name].left(label), spent)

    comparisons = [
        Comparison(STRICT.side.name, ALWAYS.side.name, at_most=1.0),
        Comparison(RELAXED.side.name, EVERYSEC.side.name, at_most=1.0),
        Comparison(RELAXED.side.name, NONE.side.name),
    ]
    if apart:
        comparisons.append(Comparison(STRICT_APART.side.name, ALWAYS_APART.side.name))
        comparisons.append(Comparison(STRICT.side.name, ALWAYS_APART.side.name))
    return Scenario(
        f"groups/{_members(members)}, batches of {batch}",
        f"events taken and acknowledged by a group: {_members(members)}, a process each, batches "
        f"of {batch} ({count:,} events a round)",
        "events/s",
        [way.side.arm(functools.partial(once, way), bench.store(way.side)) for way in ways],
        comparisons,
        rounds=bench.counted(4, 1),
    )


def taken(shares: Sequence[Share], numbers: Sequence[int], left: int, spent: Spent) -> Sample:
    """Return the events a second from the first call to the last acknowledgement."""
    faults = audit(numbers, shares, left)
    batches = [batch for share in shares for batch in share.batches if batch.ended is not None]
    if not batches:
        return Sample(0.0, faults)
    seconds = max(batch.ended or 0 for batch in batches) - min(batch.asked for batch in batches)
    times = histogram(1e9 * (batch.at - batch.asked) for batch in batches)
    figures = {
        **{f"{name} of a call": microseconds(times, at) for name, at in PERCENTILES.items()},
        "events of the busiest member": float(max(len(share.numbers) for share in shares)),
        "events with two at once": float(at_once(shares)),
        **_each(spent, len(numbers)),
    }
    return Sample(len(numbers) / seconds, faults, figures, times)


def _each(spent: Spent, events: int) -> dict[str, float]:
    figures = spent.figures(events)
    del figures["per second"]  # the time contains waiting
    return figures


# Latency


def latency(stage: Stage, members: int) -> Scenario:
    """Measure how long each single event takes to reach a member."""
    bench = stage.bench
    count = round(RATE * (0.4 if bench.quick else 1.2))
    ways = [way for way in WAYS if way.together]

    def once(way: Way) -> Sample:
        name = way.side.name
        workers = stage.crew(members)
        stage.over.clear()
        with costs(bench.store(way.side)) as spent:
            shares, [numbers] = together(
                (workers, f"serve/{name}/{STREAM}", PACED_BATCH),
                (stage.writer, f"pace/{name}/{count}", 1 / RATE),
            )
        return on_their_way(shares, numbers, stage.stores[name].left(STREAM), spent)

    pairs = [(STRICT, ALWAYS), (RELAXED, EVERYSEC)]
    return Scenario(
        f"groups/latency, {_members(members)}",
        f"append to delivery to one of {_members(members)}, p50: 1 writer, {RATE}/s, batches of "
        f"up to {PACED_BATCH} ({count} events a round)",
        "µs",
        [way.side.arm(functools.partial(once, way), bench.store(way.side)) for way in ways],
        [
            Comparison(arm.side.name, base.side.name, figure=figure)
            for arm, base in pairs
            for figure in (None, "p99")
        ],
        rounds=bench.counted(3, 1),
    )


def on_their_way(
    shares: Sequence[Share], numbers: Sequence[int], left: int, spent: Spent
) -> Sample:
    """Return the times from the append of an event to its member, without the first events."""
    faults = audit(numbers, shares, left)
    warm = set(numbers[:WARM_EVENTS])
    sent, due = [], []
    for share in shares:
        got = share.received
        assert got is not None
        timed = zip(got.numbers, got.latencies(), got.delays(), strict=True)
        for number, since_sent, since_due in timed:
            if number not in warm:
                sent.append(1e3 * since_sent)
                due.append(1e3 * since_due)
    if not sent:
        return Sample(ROUND_TIMEOUT * 1e6, faults)
    from_due = histogram(due)
    figures = {
        **{f"{name} from due": microseconds(from_due, at) for name, at in PERCENTILES.items()},
        "events with two at once": float(at_once(shares)),
        **_each(spent, len(numbers)),
    }
    return of_times(histogram(sent), faults, figures)


ENTRIES = (
    Entry(
        "groups",
        "consumer groups of 1, 4 and 16 members, batches of 1, 10 and 100, beside XREADGROUP and "
        "XACK: throughput and latency",
        groups,
        (150, 8),
    ),
)
