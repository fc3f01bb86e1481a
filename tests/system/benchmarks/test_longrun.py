"""Test small runs of recovery and scale, and plant faults in them."""

from __future__ import annotations

import contextlib

import pytest

from benchmarks import harness, servers
from benchmarks.audit import Faults
from benchmarks.scenarios import Bench, recovery, scale


@pytest.fixture
def bench(database_url):
    with contextlib.ExitStack() as stack, servers.postgres(database_url) as postgres:
        yield Bench(postgres, stack, quick=True, rounds=1)


def run(entry, bench):
    (entry,) = entry.ENTRIES
    with entry.setup(bench) as scenarios:
        return [harness.run(scenario) for scenario in scenarios]


def test_every_way_to_recover_finds_every_key(bench, monkeypatch):
    monkeypatch.setattr(recovery, "QUICK", (2_000, 100))
    (result,) = run(recovery, bench)
    assert set(result.faults.values()) == {Faults()}
    assert [verdict.met for verdict in result.verdicts() if verdict.target][-1]


def test_old_state_and_missing_keys_are_faults():
    right = {f"account:{n % 10}": recovery.event(n, 10) for n in range(90, 100)}
    assert recovery.audit(right, count=100, keys=10) == Faults()
    old = {**right, "account:3": recovery.event(83, 10)}
    assert recovery.audit(old, count=100, keys=10) == Faults(torn=1)
    del old["account:4"]
    assert recovery.audit(old, count=100, keys=10) == Faults(lost=1, torn=1)


def test_each_replay_begins_with_nothing(bench, monkeypatch):
    monkeypatch.setattr(recovery, "QUICK", (200, 10))
    (entry,) = recovery.ENTRIES
    with entry.setup(bench) as (scenario,):
        (replay,) = (arm for arm in scenario.arms if arm.name == "redis replay")
        assert replay.run().faults == Faults()
        bench.redis("strict").clear()
        assert replay.run().faults == Faults(lost=10)


def test_calls_on_logs_of_different_sizes_are_right_and_omissions_are_listed(bench, monkeypatch):
    monkeypatch.setattr(scale, "QUICK_SIZES", (200, 700))
    monkeypatch.setattr(scale, "CHUNK", 300)
    monkeypatch.setattr(scale, "CALLS", 5)
    monkeypatch.setattr(scale, "STREAMS", 50)
    results = run(scale, bench)
    assert [result.scenario.name for result in results] == [
        f"scale/{name}" for name in scale.OPERATIONS
    ]
    for result in results:
        assert set(result.faults.values()) == {Faults()}
        assert result.times("700 events").get_total_count() == 5
    assert "10,000,000" in next(iter(bench.missing))
