"""Readers across a promotion: those that have lost nothing go on by themselves."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import HistoryRewritten
from tests.support.clusters import caught_up, kill, promote
from tests.support.following import Follower, positions, writing
from tests.support.options import SLOW_FORMS
from tests.support.places import lose_the_tail
from tests.support.waiting import wait_until

PROMOTED = "was promoted: it is on timeline 2, after 1"


def replicate_synchronously(server) -> None:
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        admin.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: admin.execute(
                "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            ).fetchone()[0]
        )


def stand_alone(server) -> None:
    """Let a promoted server commit without a standby."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        admin.execute("SELECT pg_reload_conf()")


def take_over(place, promoted) -> None:
    """Kill the primary, promote its standby, and lead clients there."""
    kill(place.server)
    place.lead_to(promoted)
    stand_alone(promoted)
    promote(promoted)


@SLOW_FORMS
def test_readers_go_on_after_a_promotion_that_lost_nothing(name, place, standby, caplog):
    """Kill the primary under load. A subscription and a durable one get each event once."""
    caplog.set_level(logging.INFO, "pgmem")
    standby, _ = standby
    replicate_synchronously(place.server)
    follower = Follower(name, place.url)
    billing = Follower(name, place.url, subscribe={"durable": "billing", "lease": 5})
    with writing(place.url, 3, pause=0.003, timeout=5) as writers:
        writers.wait_for(100)
        take_over(place, standby)
        moment = time.monotonic()
        writers.wait_for(100)
        for reader in (follower, billing):
            reader.wait(lambda r=reader: r.arrival_after(moment) is not None)
    follower.finish(standby.url)
    billing.finish(standby.url)
    assert set(writers.acknowledged) <= set(positions(standby.url))
    lines = [record.message for record in caplog.records if PROMOTED in record.message]
    assert len(lines) == 2, lines
    with psycopg.connect(standby.url) as connection:
        epochs = connection.execute(
            "SELECT timeline, fork_lsn IS NOT NULL, token_floor FROM pgmem.epochs ORDER BY 1"
        ).fetchall()
        stamped = connection.execute("SELECT timeline FROM pgmem.subscriptions").fetchall()
    assert epochs == [(1, epochs[0][1], 0), (2, True, 2 << 40)]
    assert stamped == [(2,)]


def test_tokens_of_the_lost_timeline_do_not_come_again(place, standby):
    standby, stream = standby
    with Memory(place.url, timeout=3) as memory:
        kept = memory.leases.acquire("kept", ttl=600)
        lose_the_tail(place, stream, standby)
        lost = [memory.leases.acquire(f"lost:{n}", ttl=600).token for n in range(50)]
        take_over(place, standby)
        again = [memory.leases.acquire(f"lost:{n}", ttl=600).token for n in range(50)]
        assert min(again) > max(lost) > kept.token
        assert memory.dedupe.claim("work").token > 2 << 40


def test_waiters_caches_and_reads_from_the_beginning_outlive_lost_events(place, standby):
    standby, stream = standby
    with (
        ThreadPoolExecutor() as pool,
        Memory(place.url, timeout=3, cache=10, safety_poll=0.5) as memory,
        memory.events.subscribe(after=0) as reader,
    ):
        memory.state.put("k", 1)
        assert memory.state.get("k").value == 1
        reader.receive()
        lose_the_tail(place, stream, standby)
        while reader.receive(timeout=0.5):
            pass
        take_over(place, standby)
        with pytest.raises(HistoryRewritten) as error:
            reader.receive(timeout=20)
        assert (error.value.agrees_up_to, len(error.value.lost)) == (1, 10)
        with Memory(standby.url) as other:
            other.state.put("k", 2)
            wait_until(lambda: memory.state.get("k").value == 2)
            assert [event.position for event in memory.events.read()] == positions(standby.url)
            with memory.events.subscribe(after=0) as anew:
                assert len(anew.receive(timeout=5)) == 2
                other.events.append("s", Event(type="t"))
                assert len(anew.receive(timeout=5)) == 1
            lease = other.leases.acquire("job", ttl=60)
            waiter = pool.submit(memory.leases.acquire, "job", timeout=20)
            wait_until(lambda: other.leases.list("job")[0].waiters == 1)
            lease.release()
            assert waiter.result(20).token > lease.token
        with pytest.raises(HistoryRewritten, match="open a new Memory"):
            memory.events.read(after=2)


@pytest.mark.parametrize("on_failover", ["continue", "refuse"])
def test_a_durable_subscription_goes_on_in_the_next_process(place, standby, on_failover):
    standby, stream = standby
    options = {"durable": "billing", "on_failover": on_failover}
    with Memory(place.url, timeout=3) as memory:
        memory.events.append("s", [Event(type="t", payload=n) for n in range(5)])
        with memory.events.subscribe(**options) as reader:
            reader.commit(reader.receive(3)[-1])
        lose_the_tail(place, stream, standby)
    take_over(place, standby)
    with Memory(standby.url) as memory:
        if on_failover == "refuse":
            with pytest.raises(HistoryRewritten):
                memory.events.subscribe(**options).receive(timeout=5)
            memory.subscriptions.reset("billing")
        with memory.events.subscribe(**options) as reader:
            assert [event.payload for event in reader.receive(timeout=5)] == [3, 4]


def test_a_restarted_server_tells_no_fork_and_readers_compare(place, standby, caplog):
    """Restart the promoted server before a session finds its timeline."""
    caplog.set_level(logging.INFO, "pgmem")
    standby, _ = standby
    follower = Follower("sync", place.url)
    with Memory(place.url) as memory:
        memory.events.append("s", [Event(type="t")] * 20)
    follower.wait(lambda: len(follower.got) == 20)
    caught_up(place.server.url, standby.url)
    kill(place.server)
    promote(standby)
    standby.stop()
    standby.start()
    place.lead_to(standby)
    with Memory(standby.url) as memory:
        memory.events.append("s", Event(type="t"))
    follower.finish(standby.url)
    assert "the log holds the last events that were read" in caplog.text
    with psycopg.connect(standby.url) as connection:
        assert connection.execute(
            "SELECT fork_lsn FROM pgmem.epochs WHERE timeline = 2"
        ).fetchall() == [(None,)]
