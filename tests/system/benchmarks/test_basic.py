"""Run the scenarios of one client at a tiny size on real servers, and plant faults in them."""

from __future__ import annotations

import contextlib
import dataclasses
from contextlib import ExitStack

import pytest

from benchmarks import harness
from benchmarks.arms import right
from benchmarks.audit import Faults, compare_states
from benchmarks.scenarios import (
    ENTRIES,
    Bench,
    batches,
    catchup,
    concurrent,
    latest,
    reads,
    write_event,
)
from benchmarks.scenarios._base import bare, log_of, payload
from benchmarks.scenarios.write_event import PgmemWay, RightWay, Tables, writing
from benchmarks.servers import Postgres
from pgmem import Memory

CALLS = 20


@pytest.fixture(scope="module")
def bench(pg_server_url):
    with ExitStack() as stack:
        yield Bench(Postgres(pg_server_url), stack, quick=True, rounds=1)


@pytest.fixture
def way(bench):
    """Return Redis done right, without durability."""
    server = bench.redis("none")
    with contextlib.closing(right.connect(server.url)) as client:
        yield RightWay(client, server.key("test:"))


@pytest.fixture
def tiny(monkeypatch):
    """Use few calls and small logs."""
    monkeypatch.setattr(write_event, "CALLS", (CALLS, CALLS))
    monkeypatch.setattr(batches, "CALLS", {1: (3, 3), 10: (2, 2), 1_000: (1, 1)})
    monkeypatch.setattr(reads, "EVENTS", 300)
    monkeypatch.setattr(reads, "FILL", 100)
    monkeypatch.setattr(reads, "CALLS", {1: (5, 5), 100: (3, 3), 300: (1, 1)})
    monkeypatch.setattr(latest, "KEYS", 60)
    for name in ("CALLS", "MANY_CALLS", "CACHED_CALLS"):
        monkeypatch.setattr(latest, name, (CALLS, CALLS))
    monkeypatch.setattr(concurrent, "CALLS", {1: (5, 5), 100: (200, 200), 16: (64, 64)})
    monkeypatch.setattr(catchup, "COUNTS", (12_000, 12_000))


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("write_event", ["write_event/1kB"]),
        ("append", ["append/1", "append/10", "append/1000"]),
        ("read", ["read/1", "read/100", "read/300"]),
        ("state_get", ["state_get"]),
        ("state_get_many", ["state_get_many"]),
        ("cached_get", ["cached_get"]),
    ],
)
def test_every_way_is_right(bench, tiny, group, names):
    with ENTRIES[group].setup(bench) as scenarios:
        assert [scenario.name for scenario in scenarios] == names
        for scenario in scenarios:
            result = harness.run(dataclasses.replace(scenario, warmup=0))
            assert result.faults == dict.fromkeys(result.faults, Faults())
            for arm in scenario.arms:
                assert result.times(arm.name).get_total_count() > 0
                assert result.figures(arm.name)["per second"].median > 0
            assert any(v.standing for v in result.verdicts()), "nothing stands beside Redis"


def test_concurrent_calls_are_right_and_keep_the_order_of_each_caller(bench, tiny):
    with ENTRIES["concurrent"].setup(bench) as scenarios:
        for scenario in scenarios:
            result = harness.run(dataclasses.replace(scenario, warmup=0))
            assert result.faults == dict.fromkeys(result.faults, Faults())
            assert [v.standing is None for v in result.verdicts()] == [False]
    assert {s.name.partition(", ")[2] for s in scenarios} == {"1 task", "100 tasks", "16 threads"}


@pytest.mark.parametrize("group", ["write_event", "append"])
def test_every_way_is_right_at_each_size(bench, tiny, monkeypatch, group):
    monkeypatch.setattr(bench, "quick", False)
    monkeypatch.setattr(batches, "CALLS", {1: (2, 2), 100: (2, 2)})
    with ENTRIES[group].setup(bench) as scenarios:
        sized = [s for s in scenarios if s.name.endswith(("/100B", "/10kB"))]
        assert len(sized) == {"write_event": 2, "append": 4}[group]
        for scenario in sized:
            faults = harness.run(dataclasses.replace(scenario, warmup=0)).faults
            assert faults == dict.fromkeys(faults, Faults())


def test_catching_up_reads_everything_unless_the_stream_was_cut(bench, tiny):
    with ENTRIES["catchup"].setup(bench) as [scenario]:
        faults = harness.run(dataclasses.replace(scenario, warmup=0)).faults
    assert 1_900 <= faults.pop("published").lost <= 2_000
    assert faults == dict.fromkeys(["redis", "pgmem", "psycopg"], Faults())


class Dropping:
    """Acknowledge every event, and drop one in a thousand."""

    def __init__(self, way):
        self._way = way
        self.found = way.found

    def write(self, value):
        if value["n"] % 1_000 != 500:
            self._way.write(value)


class Tearing(Dropping):
    """Write the event but not the state, once in a thousand."""

    def write(self, value):
        if value["n"] % 1_000 == 990:
            self._way._client.xadd(
                self._way._keys[0],
                {"type": "payment.validated", "payload": b'{"n":990}', "agent_id": "agent-14"},
            )
        else:
            self._way.write(value)


def test_an_arm_that_drops_one_event_in_a_thousand_is_wrong(bench, way, database_url):
    numbered = [payload(number) for number in range(1, 1_001)]
    with Memory(database_url, durability="relaxed") as memory, bare(database_url) as connection:
        for right_one in (way, PgmemWay(memory, Tables(connection))):
            for arm, faults in ((right_one, Faults()), (Dropping(right_one), Faults(lost=1))):
                sample = writing(bench.postgres, arm, numbered)
                assert sample.faults == faults


def test_a_state_that_is_not_its_last_event_is_torn(bench, way):
    numbered = [payload(number) for number in range(1, 1_001)]
    assert writing(bench.redis("none"), Tearing(way), numbered).faults == Faults(torn=1)


@pytest.mark.parametrize(
    ("states", "torn"),
    [({"a": 3, "b": 2}, 0), ({"a": 1, "b": 2}, 1), ({"a": 3}, 1), ({"a": 3, "b": 2, "c": 1}, 1)],
)
def test_states_are_compared_with_the_log(states, torn):
    assert compare_states([("a", 1), ("b", 2), ("a", 3)], states) == Faults(torn=torn)


def test_a_batch_that_comes_twice_or_not_at_all_is_noticed(bench, database_url):
    with Memory(database_url) as memory, log_of(database_url) as log:
        right_one = batches.by_pgmem(bench.postgres, memory, log)
        twice = right_one._replace(append=lambda batch: [right_one.append(batch) for _ in "ab"])
        never = right_one._replace(append=lambda batch: None)
        assert batches.appending(right_one, log, 2, 10).faults == Faults()
        assert batches.appending(twice, log, 2, 10).faults == Faults(duplicated=20)
        assert batches.appending(never, log, 2, 10).faults == Faults(lost=20)


def test_a_read_that_leaves_one_out_is_noticed(bench):
    def read(behind, count):
        return [number for number in range(behind, behind + count) if number % 100 != 50]

    assert reads.reading(bench.postgres, read, 3, 1_000).faults == Faults(lost=30)


@pytest.mark.parametrize("keep", [True, False])
def test_an_old_value_is_noticed(bench, keep):
    old = latest.Way(
        "redis", bench.redis("none"), lambda key: {"n": 0}, None, lambda v: v, ("", "")
    )
    assert latest.getting_one(old, 4, keep=keep).faults == Faults(lost=3)
