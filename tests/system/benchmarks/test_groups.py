"""Test the group scenarios: right ways are right, and the faults of members and stores count."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import servers
from benchmarks.arms import right
from benchmarks.audit import NO_FAULTS, Faults
from benchmarks.meter import Spent
from benchmarks.scenarios import Bench, _members, effects, groups, growth
from benchmarks.scenarios._base import STREAM, payload
from benchmarks.scenarios._following import WARM_EVENTS, Received, stamped
from benchmarks.scenarios._members import Batch, Share, at_once, audit, drain, serve
from pgmem import Memory
from pgmem.errors import LeaseLost

pytest.importorskip("redis")

COUNT = 60


@pytest.fixture(scope="module")
def bench():
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        yield Bench(postgres, stack, quick=True, rounds=1)


def share(*batches, refused=0):
    """Return what a member did; each batch was there for a second, one after the other."""
    return Share(
        [Batch(list(numbers), at, at, at + 1.0) for at, numbers in enumerate(batches)], refused
    )


# What is counted


@pytest.mark.parametrize(
    ("shares", "left", "faults"),
    [
        ([share([1, 2], [5, 6]), share([3, 4])], 0, NO_FAULTS),
        ([share([1, 2], [5]), share([3, 4])], 1, Faults(lost=1)),
        ([share([1, 2], [5, 6]), share([3, 4])], 2, Faults(lost=2)),
        ([share([1, 2], [5, 6]), share([3, 4], [6])], 0, Faults(duplicated=1)),
        ([share([1, 2], [5, 6]), share([3, 4], [1])], 0, Faults(duplicated=1, reordered=1)),
        ([share([1, 2], [6, 5]), share([3, 4])], 0, Faults(reordered=1)),
        ([share([5, 6], [1, 2]), share([3, 4])], 0, Faults(reordered=1)),
        ([share([1, 2], [5, 6], refused=2), share([3, 4])], 0, Faults(torn=2)),
        ([share([1, 2], [5, 6], [77]), share([3, 4])], 0, Faults(duplicated=1)),
        ([], 0, Faults(lost=6)),
    ],
)
def test_faults_of_six_events_are_counted(shares, left, faults):
    assert audit(range(1, 7), shares, left) == faults


def test_delivery_without_acknowledgement_is_lost():
    held = Share([Batch([1, 2], 0.0, 0.0, None)])
    assert audit([1, 2], [held], left=0) == Faults(lost=2)
    assert audit([1, 2], [held], left=2) == Faults(lost=2)


def test_events_that_two_members_hold_at_once_are_counted():
    first = Share([Batch([1, 2], 0.0, 0.0, 1.0)])
    assert at_once([first, Share([Batch([1, 2], 0.9, 0.9, 2.0)])]) == 2
    assert at_once([first, Share([Batch([1, 2], 0.9, 1.0, 2.0)])]) == 0
    assert at_once([first, Share([Batch([3], 0.5, 0.5, 0.6)])]) == 0
    # A member that never acknowledged it still has it.
    held = Share([Batch([1], 0.0, 0.0, None)])
    assert at_once([held, Share([Batch([1], 50.0, 50.0, 51.0)])]) == 1


# What members do


class Shelf:
    """Keep a group in memory, with a planted fault."""

    def __init__(self, count, *, lose=None, twice=None, refuse=None):
        self.lock = threading.Lock()
        self.waiting = [number for number in range(count) if number != lose]
        if twice is not None:
            self.waiting.insert(self.waiting.index(twice) + 1, twice)
        self.refuse = refuse
        self.open = set(range(count)) if lose is None else {lose, *self.waiting}

    def left(self):
        return len(self.open)


class ShelfMember:
    def __init__(self, shelf):
        self.shelf, self.held, self.refused = shelf, [], 0

    def turn(self, count, timeout):
        with self.shelf.lock:
            for number in self.held:
                if number == self.shelf.refuse:
                    self.refused += 1
                else:
                    self.shelf.open.discard(number)
            self.held, self.shelf.waiting = self.shelf.waiting[:count], self.shelf.waiting[count:]
        time.sleep(0.0001)
        return [stamped(n, time.monotonic(), last=n == COUNT - 1) for n in self.held]


def drained(shelf, count=1_000, members=3):
    with ThreadPoolExecutor(members) as pool:
        workers = [ShelfMember(shelf) for _ in range(members)]
        batches = list(pool.map(lambda member: drain(member, 7), workers))
    shares = [Share(found, w.refused) for found, w in zip(batches, workers, strict=True)]
    return groups.taken(shares, range(count), shelf.left(), Spent())


@pytest.mark.parametrize(
    ("planted", "faults"),
    [
        ({}, NO_FAULTS),
        ({"lose": 500}, Faults(lost=1)),
        ({"twice": 500}, Faults(duplicated=1)),
        # It is still open, so it comes again.
        ({"refuse": 500}, Faults(lost=1, torn=1)),
    ],
)
def test_one_fault_in_a_thousand_deliveries_is_found(planted, faults):
    sample = drained(Shelf(1_000, **planted))
    assert sample.faults == faults
    assert sample.value > 0


def test_last_batch_is_acknowledged_and_the_final_wait_is_in_no_figure(monkeypatch):
    monkeypatch.setattr(_members, "IDLE", 0.3)

    class Waiting(ShelfMember):
        def turn(self, count, timeout):
            found = super().turn(count, timeout)
            if not found:
                time.sleep(timeout)
            return found

    shelf = Shelf(50)
    begun = time.monotonic()
    batches = drain(Waiting(shelf), 10)
    assert time.monotonic() - begun > 0.3
    assert [len(batch.numbers) for batch in batches] == [10] * 5
    assert all(batch.ended for batch in batches)
    assert shelf.left() == 0
    sample = groups.taken([Share(batches)], range(50), 0, Spent())
    assert sample.value > 50 / 0.3
    assert sample.times.get_total_count() == 5


def test_round_without_deliveries_has_no_figure():
    sample = groups.taken([Share([]), Share([])], range(3), 3, Spent())
    assert (sample.value, sample.faults) == (0.0, Faults(lost=3))


def test_serving_ends_when_a_member_has_the_last_event():
    shelf, over = Shelf(0), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(serve, ShelfMember(shelf), 5, over) for _ in range(2)]
        for number in range(COUNT):
            with shelf.lock:
                shelf.open.add(number)
                shelf.waiting.append(number)
            time.sleep(0.0005)
        done = [each.result(5) for each in found]
    shares = [Share(batches, 0, received) for batches, received in done]
    assert audit(range(COUNT), shares, shelf.left()) == NO_FAULTS
    assert sum(len(received.numbers) for _, received in done) == COUNT


def test_serving_gives_up_if_the_last_event_never_comes(monkeypatch):
    monkeypatch.setattr(_members, "ROUND_TIMEOUT", 0.05)
    batches, received = serve(ShelfMember(Shelf(3)), 5, threading.Event())
    assert [batch.numbers for batch in batches] == [[0, 1, 2]]
    assert received.numbers == [0, 1, 2]


def test_latency_ends_at_the_member():
    numbers = list(range(WARM_EVENTS + 100))

    def received(mine, latency):
        sent = [n * 0.01 for n in mine]
        return Received(mine, sent, [at - 0.002 for at in sent], [at + latency for at in sent], 0)

    shares = [
        share(mine)._replace(received=received(mine, latency))
        for mine, latency in ((numbers[::2], 0.001), (numbers[1::2], 0.005))
    ]
    sample = groups.on_their_way(shares, numbers, 0, Spent())
    assert sample.faults == NO_FAULTS
    assert sample.times.get_total_count() == 100
    assert sample.value == pytest.approx(1_000, rel=0.01)
    assert sample.figures["p99"] == pytest.approx(5_000, rel=0.01)
    assert sample.figures["p99 from due"] == pytest.approx(7_000, rel=0.01)
    assert groups.on_their_way(shares[:1], numbers, 75, Spent()).faults == Faults(lost=75)


def test_round_without_deliveries_is_not_a_fast_one():
    nothing = Share([], 0, Received([], [], [], [], 0))
    assert groups.on_their_way([nothing], range(3), 3, Spent()).value > 1e6


# The ways


@pytest.fixture(scope="module")
def stage(bench):
    with contextlib.ExitStack() as stack:
        yield groups.Stage(bench, stack)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(groups, "COUNTS", {10: (COUNT, COUNT)})


def test_every_way_delivers_everything_once(stage, small, monkeypatch):
    monkeypatch.setattr(stage.bench, "quick", False)  # the ways of two calls too
    scenario = groups.throughput(stage, 2, 10)
    assert len(scenario.arms) == len(groups.WAYS)
    for arm in scenario.arms * 2:
        sample = arm.run()
        assert sample.faults == NO_FAULTS, arm.name
        assert sample.value > 0
        assert sample.times.get_total_count() >= COUNT / 10
        assert sample.figures["events with two at once"] == 0


def test_every_way_is_timed_at_a_rate(stage):
    scenario = groups.latency(stage, 2)
    assert len(scenario.arms) == 5
    for arm in scenario.arms:
        sample = arm.run()
        assert sample.faults == NO_FAULTS, arm.name
        assert sample.times.get_total_count() == 160 - WARM_EVENTS
        assert sample.figures["p99"] >= sample.value > 0


def test_unacknowledged_deliveries_of_redis_are_counted(stage):
    name = groups.ALWAYS.side.name
    end, store = stage.ends[name], stage.stores[name]
    with contextlib.closing(right.connect(end.url)) as client:
        member = _members.RedisMember(right.Right(client), end, "open", "member-0")
        store.append("open", range(5))
        assert store.left("open") == 5
        assert [event["n"] for event in member.turn(3, 0.0)] == [0, 1, 2]
        assert store.left("open") == 5
        assert [event["n"] for event in member.turn(3, 0.0)] == [3, 4]
        # Another client acknowledges the member's deliveries, so its own acknowledgement is
        # refused.
        key = f"{end.prefix}open"
        client.xack(key, key, *member._held)
        assert member.turn(3, 0.0) == []
        assert (member.refused, store.left("open")) == (2, 0)


@pytest.mark.parametrize("way", [groups.STRICT, groups.STRICT_APART], ids=["together", "apart"])
def test_unacknowledged_deliveries_of_pgmem_are_counted(stage, way):
    end, store = stage.ends[way.side.name], stage.stores[way.side.name]
    with Memory(end.url, pool=1) as memory:
        member = _members.PgmemMember(memory, end, "open", "member-0")
        store.append("open", range(5))
        assert store.left("open") == 5
        assert [event["n"] for event in member.turn(3, 5.0)] == [0, 1, 2]
        assert store.left("open") == 5
        assert [event["n"] for event in member.turn(3, 0.0)] == [3, 4]
        assert store.left("open") == 2
        # Delayed and dead-lettered events are not acknowledged either.
        first, second = member._held
        member._held = []
        first.nack(delay=60)
        second.dead_letter()
        assert store.left("open") == 2
        assert member.turn(3, 0.0) == []


def test_a_member_that_has_lost_its_events_ends_the_round(stage):
    end, store = stage.ends[groups.STRICT.side.name], stage.stores[groups.STRICT.side.name]
    with Memory(end.url, pool=1) as memory:
        member = _members.PgmemMember(memory, end, "taken", "member-0")
        store.append("taken", range(2))
        assert len(member.turn(2, 5.0)) == 2
        member._held[0].ack()
        with pytest.raises(LeaseLost):
            member.turn(2, 0.0)


def test_the_events_of_all_ways_are_the_same(stage):
    with contextlib.ExitStack() as stack:
        links = _members.Links(stack)
        for name, end in stage.ends.items():
            stage.stores[name].append("same", [7])
            member = links.member(end, "same", "member-0")
            assert member.turn(1, 5.0) == [payload(7)], name


def test_stage_writes_where_its_members_read(stage):
    ends = [stage.ends[way.side.name] for way in groups.WAYS]
    assert len({(end.url, end.prefix) for end in ends}) == len(groups.WAYS)
    assert STREAM not in {end.prefix for end in ends}


# Work that is rows


@pytest.fixture(scope="module")
def rows(bench):
    with contextlib.ExitStack() as stack:
        yield effects.Group(bench, stack)


def test_every_step_writes_the_rows_of_its_events(bench, rows, monkeypatch):
    monkeypatch.setattr(effects, "CALLS", (3, 3))
    for arm in effects.steps(bench, rows).arms * 2:
        sample = arm.run()
        assert sample.faults == NO_FAULTS, arm.name
        assert sample.times.get_total_count() == 3
        assert sample.figures["server CPU, µs each"] > 0


@pytest.mark.parametrize("side", [effects.PGMEM, effects.ALWAYS])
def test_missing_and_duplicated_rows_are_counted(bench, rows, side):
    way, written = rows.ways[side.name], rows._rows[side.name]
    for spoil, faults in (
        (b"DELETE FROM effects WHERE event = %s", Faults(lost=1)),
        (b"INSERT INTO effects SELECT * FROM effects WHERE event = %s", Faults(duplicated=1)),
    ):
        numbers = rows.begin(side, 10)
        assert way.step() == 10
        if side is effects.ALWAYS:
            assert rows.audit(side, numbers) == Faults(lost=10)  # it is not acknowledged yet
        way.end()
        assert rows.audit(side, numbers) == NO_FAULTS
        written.execute(spoil, (numbers[5],))
        assert rows.audit(side, numbers) == faults


@pytest.mark.parametrize(
    ("side", "doubled"),
    [(effects.PGMEM, 0), (effects.ALWAYS, effects.BATCH), (effects.ALWAYS_ONCE, 0)],
)
def test_crash_between_rows_and_their_acknowledgement(bench, rows, side, doubled):
    (arm,) = [arm for arm in effects.crash(bench, rows).arms if arm.name == side.name]
    longest = 0.0
    for _ in range(3):
        sample = arm.run()
        assert sample.faults == Faults(duplicated=doubled)
        assert sample.figures["rows too many, of 10"] == doubled
        longest = max(longest, sample.value)
        if longest >= effects.LEASE * 1e3 * 0.9:
            break
    else:  # On a busy machine a part of the lease is over before the kill, but not in each round.
        pytest.fail(f"taken over {longest:.0f} ms after the kill: the lease was not waited for")
    assert bool(arm.excused) is bool(doubled)


def test_two_servers_are_metered_as_one(bench):
    redis = bench.redis("strict")
    both = effects.Both(redis, bench.postgres)
    assert set(both.processes()) >= {*redis.processes(), bench.postgres.processes()[0]}
    assert both.sizes()["log"] > max(redis.sizes()["log"], 16)
    assert {"data", "memory"} <= set(both.sizes())
    unseen = servers.Postgres("")
    assert effects.Both(redis, unseen).processes() == []


# The tables of a group


class Members:
    """Run two members of growth in this process, and corrupt their answers on request."""

    def __init__(self, url, spoil=None):
        self.workers = [growth.Worker(number, url) for number in range(2)]
        self.spoil = spoil

    def run(self, order, batch):
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda worker: worker.go(order, 0.0, batch), self.workers))
        if self.spoil:
            self.spoil(max(answers, key=len))
        return answers

    def close(self):
        for worker in self.workers:
            worker.close()


@pytest.fixture
def grown(bench):
    """Return a function that makes a round of growth, and its members."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(bench.postgres.database())
        members = stack.enter_context(contextlib.closing(Members(url)))
        yield growth.Measure(url, members, 10, 300, stack), members


def test_each_round_of_growth_delivers_everything_and_measures_the_size(grown, monkeypatch):
    monkeypatch.setattr(growth, "GIVEN_BACK", 0.05)
    measure, _ = grown
    samples = [measure() for _ in range(3)]
    assert [sample.faults for sample in samples] == [NO_FAULTS] * 3
    assert samples[0].figures[growth.GREW] == 1.0
    for sample in samples:
        # At least the first page of a table and of each index.
        assert sample.value >= 8 * 3
        assert sample.figures["updates in place (HOT), %"] > 50


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (lambda done: done.remove(done[5]), Faults(lost=1)),
        (lambda done: done.append(done[5]), Faults(duplicated=1)),
    ],
)
def test_a_delivery_that_is_missing_or_doubled_in_growth_is_noticed(grown, spoil, faults):
    measure, members = grown
    members.spoil = spoil
    assert measure().faults == faults


def test_growing_table_is_measured(grown):
    measure, _ = grown
    first = measure()
    measure._connection.execute(
        "INSERT INTO pgmem.delayed (group_name, position, attempts, available_at)"
        " SELECT %s, n, 1, now() + interval '1 day' FROM generate_series(1000001, 1009000) AS n",
        [growth.LABEL],
    )
    sample = measure()
    assert sample.value > first.value + 500
    assert sample.figures[growth.GREW] == 1.0  # until the size is stable
    assert sample.faults == Faults(lost=9_000)
