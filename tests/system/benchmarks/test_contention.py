"""Test contention, work that takes effect once, and the pipeline, also with planted faults."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import servers
from benchmarks.arms.published import Published
from benchmarks.audit import NO_FAULTS, Faults, compare_once
from benchmarks.scenarios import Bench, _counting, contention, once, pipeline
from benchmarks.scenarios._agents import Found, Kept, account
from benchmarks.scenarios._counting import Done
from benchmarks.scenarios._once import Answer

pytest.importorskip("redis")

WRITERS = 3
PAYMENTS = 15
RIGHT_ONES = ["pgmem", "redis always"]
PUBLISHED = "published always"


@pytest.fixture(scope="module")
def bench():
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres())
        yield Bench(postgres, stack, quick=True, rounds=1)


@pytest.fixture(scope="module")
def url(bench):
    with bench.postgres.database() as url:
        yield url


def at_once(calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


# Compare-and-set


@pytest.fixture(scope="module")
def counting(bench, url):
    """Return the stores, and the writers of each arm in this process."""
    always, everysec = bench.redis("strict"), bench.redis("relaxed")
    urls = _counting.Urls(url, always.url, everysec.url, f"{always.key('contention')}:")
    with contextlib.ExitStack() as stack:
        stores = contention.Stores(bench, stack, urls)
        yield stores, stack.enter_context(contextlib.closing(_counting.Writers(urls, 0, url)))


def raced(counting, arm):
    stores, writers = counting
    run = stores.begin(arm, 1)
    # Every eighth writer belongs to a process: these are three threads on one key.
    order = f"{arm}/{run}/{1 + _counting.PROCESSES * (WRITERS - 1)}/1"
    done = writers.go(order, time.monotonic(), 0.2)
    assert len(done) == WRITERS
    return done, contention.sample(done, stores.kept(arm, run, 1))


@pytest.mark.parametrize("arm", RIGHT_ONES)
def test_rivals_lose_no_increment(counting, arm):
    done, sample = raced(counting, arm)
    assert sample.faults == NO_FAULTS
    assert sum(len(each.times) for each in done) == sample.times.get_total_count() > WRITERS


def test_published_update_succeeds_once_and_refuses_later_ones(counting):
    done, sample = raced(counting, PUBLISHED)
    assert [each.gave_up for each in done].count(0) <= 1
    assert sample.faults.starved == sum(each.gave_up for each in done) >= WRITERS - 1
    assert sum(len(each.times) for each in done) == 1


def test_without_rivals_every_arm_but_the_published_one_is_right(bench, counting):
    scenario = contention.free(bench, counting[0], 8)
    faults = {arm.name: arm.run().faults for arm in scenario.arms}
    assert faults.pop(PUBLISHED) == Faults(starved=1)
    assert set(faults.values()) == {NO_FAULTS}


@pytest.mark.parametrize(
    ("kept", "faults"),
    [
        (contention.Kept(3, [2, 3, 4]), NO_FAULTS),
        (contention.Kept(2, [2, 3]), Faults(lost=1)),
        (contention.Kept(4, [2, 3, 4, 5]), Faults(duplicated=1)),
        (contention.Kept(3, [2, 3]), Faults(torn=1)),
        (contention.Kept(3, [2, 3, 5]), Faults(torn=1)),
        (contention.Kept(3, [2, 4, 3]), Faults(reordered=1)),
        (contention.Kept(3, []), Faults(torn=3)),
        (contention.Kept(2, None), Faults(lost=1)),
    ],
)
def test_faults_of_three_increments_are_counted(kept, faults):
    assert contention.audit(3, kept) == faults


def writer(count, seconds=1.0, gave_up=0):
    return Done([1] * count, 0, gave_up, {}, 0.0, seconds)


@pytest.mark.parametrize(
    ("done", "starved"),
    [
        ([writer(100), writer(101), writer(99)], 0),
        ([writer(140), writer(140), writer(20)], 1),
        ([writer(140, 0.2), writer(140, 0.2), writer(20, 0.2)], 0),
        ([writer(14), writer(14), writer(2)], 0),
        ([writer(10), writer(10, gave_up=2), writer(10)], 2),
    ],
)
def test_starved_writers_are_counted(done, starved):
    assert contention.starved(done) == starved


# Work that takes effect once


@pytest.fixture(scope="module")
def group(bench, url):
    always, everysec = bench.redis("strict"), bench.redis("relaxed")
    urls = once.Urls(url, always.url, everysec.url, f"{always.key('once')}:")
    with contextlib.ExitStack() as stack:
        yield once.Group(bench, stack, urls)


def test_the_first_and_the_repeated_call_are_right_in_every_arm(bench, group):
    for scenario in (once.first(bench, group, 5), once.repeated(bench, group, 1)):
        for arm in scenario.arms:
            assert arm.run().faults == NO_FAULTS, (scenario.name, arm.name)


RACES = [*RIGHT_ONES, "pgmem one call", "redis always one script"]


@pytest.mark.parametrize("name", RACES)
def test_racers_for_one_key_do_its_work_once(group, name):
    run = group.run()
    with contextlib.ExitStack() as stack:
        ways = [once.way(name, group.urls, stack) for _ in range(WRITERS)]
        answers = at_once([functools.partial(way.once, f"{run}:1", run) for way in ways])
    assert once.told(answers) == NO_FAULTS
    assert [answer.first for answer in answers].count(True) == 1
    assert compare_once([f"{run}:1"], group.ways[name].effects(run)) == NO_FAULTS


def test_racers_for_one_key_each_do_the_published_work(group):
    run, way, barrier = group.run(), group.ways[PUBLISHED], threading.Barrier(WRITERS)
    # All racers are at work before one of them records it.
    at_once([functools.partial(way.once, f"{run}:1", run, barrier.wait)] * WRITERS)
    assert compare_once([f"{run}:1"], way.effects(run)) == Faults(duplicated=WRITERS - 1)


@pytest.mark.parametrize(
    ("name", "doubled"),
    [
        ("pgmem", 0),
        ("redis always", once.DOOMED),
        (PUBLISHED, once.DOOMED),
    ],
)
def test_crash_between_effect_and_record(bench, group, name, doubled):
    sample = once.crash(bench, group).arm(name).run()
    assert sample.faults == Faults(duplicated=doubled)
    assert sample.figures[f"wrong of {once.DOOMED}"] == doubled


def test_faults_that_redis_does_not_promise_to_avoid_do_not_fail_the_run(bench, group):
    excused = {arm.name for arm in once.crash(bench, group).arms if arm.excused}
    assert excused == {"redis always", "redis everysec"}


def test_answers_that_are_wrong_are_counted():
    assert once.told([Answer(True, 1), Answer(False, 1)]) == NO_FAULTS
    assert once.told([Answer(True, 1), Answer(False, 2)]) == Faults(torn=1)
    assert once.told([Answer(False, 1), Answer(False, 1)]) == Faults(torn=1)


# The pipeline


class Threads:
    """Run agents as threads of this process in place of a crew."""

    def __init__(self, agents):
        self._agents = agents

    def run(self, order, argument):
        start = time.monotonic()
        return at_once([functools.partial(a.go, order, start, argument) for a in self._agents])


@pytest.mark.parametrize("name", [*RIGHT_ONES, PUBLISHED])
def test_every_payment_is_processed(bench, url, name):
    always = bench.redis("strict")
    urls = pipeline.Urls(url, url, always.url, always.url, f"{always.key(name)}:")
    (side,) = [side for side in pipeline.SIDES if side.name == name]
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        agents = [
            stack.enter_context(contextlib.closing(pipeline.Agent(urls, over, [name], number, url)))
            for number in range(len(pipeline.AGENTS))
        ]
        ours = {name: pipeline.memories(name, urls, stack)}
        sample = pipeline.Measure(bench, Threads(agents), over, ours, PAYMENTS)(side)
    assert sample.times.get_total_count() == PAYMENTS
    assert sample.value > 0
    if name != PUBLISHED:
        assert sample.faults == NO_FAULTS


def test_published_approach_loses_money_in_concurrent_payments(bench, url, monkeypatch):
    always = bench.redis("strict")
    urls = pipeline.Urls(url, url, always.url, always.url, f"{always.key('meeting')}:")
    opening = {account("run", number): 1_000 for number in range(3)}
    requests = [
        {
            "payment_id": f"p-{number}",
            "sender": account("run", 0),
            "receiver": account("run", number),
            "amount": 10,
        }
        for number in (1, 2)
    ]
    with contextlib.ExitStack() as stack:
        memory = pipeline.memories(PUBLISHED, urls, stack)
        memory.open("run", opening)
        write, barrier, waited = Published.write_event, threading.Barrier(2), threading.local()

        def write_when_both_have_read(*arguments):
            if not hasattr(waited, "here"):
                waited.here = barrier.wait(5)
            write(*arguments)

        monkeypatch.setattr(Published, "write_event", write_when_both_have_read)
        at_once([functools.partial(memory.process, "run", [request]) for request in requests])
        found = memory.found("run", opening)
    assert pipeline.balances_off(expected(opening, found), found) == 1


def expected(opening, found):
    due = Counter(opening)
    for outcome in found.outcomes:
        due[outcome["sender"]] -= outcome["amount"]
        due[outcome["receiver"]] += outcome["amount"]
    return due


SENT = [
    {"payment_id": "p-1", "sender": "a", "receiver": "b", "amount": 10},
    {"payment_id": "p-2", "sender": "b", "receiver": "a", "amount": 3},
]
OPENING = {"a": 100, "b": 100}


def kept(balance, said=None, versions=(1, 2, 3)):
    return Kept(balance, balance if said is None else said, 3, list(versions))


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        (Found(SENT, ["p-1", "p-2"], {"a": kept(93), "b": kept(107)}), NO_FAULTS),
        (Found(SENT, ["p-1"], {"a": kept(93), "b": kept(107)}), Faults(lost=1)),
        (Found(SENT[:1], ["p-1", "p-2"], {"a": kept(90), "b": kept(110)}), Faults(lost=1)),
        (Found(SENT, ["p-1", "p-2"], {"a": kept(90), "b": kept(107)}), Faults(lost=1)),
        (Found(SENT, ["p-1", "p-2"], {"a": kept(93)}), Faults(lost=1)),
        (
            Found([*SENT, SENT[0]], ["p-1", "p-2"], {"a": kept(83), "b": kept(117)}),
            Faults(duplicated=1),
        ),
        (
            Found(SENT, ["p-1", "p-2", "p-2"], {"a": kept(93), "b": kept(107)}),
            Faults(duplicated=1),
        ),
        (Found(SENT, ["p-1", "p-2"], {"a": kept(93, 90), "b": kept(107)}), Faults(torn=1)),
        (
            Found(SENT, ["p-1", "p-2"], {"a": kept(93, versions=(1, 3)), "b": kept(107)}),
            Faults(torn=1),
        ),
    ],
)
def test_faults_of_two_payments_are_counted(found, faults):
    assert pipeline.audit(SENT, OPENING, found) == faults
