"""Test that neighbours exist during a round only, and that all clients are audited."""

from __future__ import annotations

import contextlib
import functools
import time

import pytest

from benchmarks import redis_server, servers
from benchmarks.audit import Faults
from benchmarks.crew import crew
from benchmarks.scenarios import connections, neighbours
from benchmarks.scenarios._base import AGENT, TYPE, Bench, bare
from benchmarks.scenarios._following import stamped
from benchmarks.scenarios.neighbours import Sleepers
from pgmem import Event, Memory


@pytest.fixture(scope="module")
def postgres():
    with servers.postgres() as server:
        yield server


@pytest.fixture
def url(postgres):
    with postgres.database() as found:
        yield found


@pytest.fixture
def redis():
    with redis_server.redis("strict") as server:
        yield server


def sessions(url, condition):
    with bare(url) as connection:
        statement = f"SELECT count(*) FROM pg_stat_activity WHERE {condition}"
        (count,) = connection.execute(statement.encode()).fetchone()
    return count


def eventually(condition, patience=10.0):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_idle_listeners_come_and_go(url):
    before = sessions(url, "datname = current_database()")
    with crew(functools.partial(Sleepers, ""), 1, url) as sleepers:
        with neighbours.idle(sleepers):
            # Each has a connection of its pool, and one that listens.
            assert sessions(url, "datname = current_database()") >= before + neighbours.EACH
        eventually(lambda: sessions(url, "datname = current_database()") == before)


def test_idle_clients_are_blocked(redis):
    with (
        crew(functools.partial(Sleepers, redis.key("idle")), 1, redis.url) as sleepers,
        contextlib.closing(redis.client()) as client,
    ):
        with neighbours.idle(sleepers):
            eventually(lambda: client.info("clients")["blocked_clients"] == neighbours.EACH)
        eventually(lambda: client.info("clients")["blocked_clients"] == 0)


def test_a_transaction_stays_open_and_writes_nothing(url):
    with neighbours.open_transaction(url):
        assert sessions(url, "state = 'idle in transaction' AND backend_xid IS NOT NULL") == 1
    eventually(lambda: sessions(url, "state = 'idle in transaction'") == 0)


def test_a_transaction_that_has_appended_holds_readers_up_until_it_ends(url):
    with Memory(url) as memory:
        with neighbours.open_append(url, iter([7]), 0.3) as presence:
            memory.events.append("payments", event_of(1))
            with memory.events.subscribe() as events:
                first, second = events.receive(1, timeout=5), events.receive(1, timeout=5)
            at = time.monotonic()
        assert [event.payload["n"] for event in first + second] == [7, 1]
        assert presence.appended == [7]
        assert 0 <= at - presence.ended < 2


def event_of(number):
    return Event(type=TYPE, payload=stamped(number, 0.0, last=False), agent_id=AGENT)


def test_a_dump_runs_and_is_ended(url):
    program = servers.binary("pg_dump")
    assert program is not None
    assert neighbours.dump_error(program, url) == ""
    with neighbours.dump(program, url):
        eventually(lambda: sessions(url, "application_name = 'pg_dump'") > 0)
    eventually(lambda: sessions(url, "application_name = 'pg_dump'") == 0)


def test_a_dump_that_cannot_be_made_says_why(url, tmp_path):
    program = servers.binary("pg_dump")
    assert "connection" in neighbours.dump_error(program, f"host={tmp_path} dbname=none")


def test_the_server_saves(redis):
    with contextlib.closing(redis.client()) as client:
        before = client.lastsave()
        time.sleep(1.0)  # it counts in seconds
        with neighbours.saving(redis):
            eventually(lambda: client.lastsave() > before)


def test_every_neighbour_leaves_the_events_right(postgres, monkeypatch):
    with contextlib.ExitStack() as stack:
        bench = Bench(postgres, stack, quick=True)
        monkeypatch.setattr(neighbours, "IDLE", 25)
        monkeypatch.setattr(neighbours, "PROCESSES", 1)
        monkeypatch.setattr(neighbours, "fill", lambda *_: None)
        (scenario,) = stack.enter_context(neighbours.neighbours(bench))
        assert not bench.missing
        for arm in scenario.arms:
            if "25" in arm.name:
                continue  # they have tests of their own, and start slowly
            sample = arm.run()
            assert sample.faults == Faults(), arm.name
            assert sample.times.get_total_count() == 16 - neighbours.WARM
            held = arm.name == "pgmem, open append"
            assert (sample.figures[neighbours.DELIVERY] > 200_000) is held


def test_clients_call_at_once_and_are_audited(url, redis, monkeypatch):
    clients = 4
    monkeypatch.setattr(connections, "CLIENTS", {1: (1, 1), 4: (2, 2)})
    monkeypatch.setattr(connections, "REHEARSAL", 0.01)
    ways = connections.ways_of(url, redis, redis)
    connections.prepare(url, redis)
    with contextlib.ExitStack() as stack:
        crews = connections.Crews(stack, ways)
        for name, way in ways.items():
            for what in ("append", "get"):
                measure = connections.Measure(crews, clients, what, name, way, redis, 0.03)
                sample = measure()
                assert sample.faults == Faults()
                assert sample.value > 0
                assert sample.times.get_total_count() >= clients


def test_a_lost_call_is_noticed(url, redis, monkeypatch):
    ways = connections.ways_of(url, redis, redis)
    with contextlib.ExitStack() as stack:
        crews = connections.Crews(stack, {"redis always": ways["redis always"]})
        way = ways["redis always"]
        measure = connections.Measure(crews, 1, "append", "redis always", way, redis, 0.02)
        whole = connections.Measure._behind
        monkeypatch.setattr(
            connections.Measure, "_behind", lambda self, place: whole(self, place)[1:]
        )
        assert measure().faults == Faults(lost=1)
        nothing = connections.Measure(crews, 1, "get", "redis always", way, redis, 0.5)
        assert nothing().faults.lost > 0  # no entry was put there
