"""Servers that restart, are replaced by a standby, or by another one altogether.

A restart loses nothing, and subscriptions go on. A standby that takes over may lack the last
events, and its positions may stand for others: who follows is told so.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest

from pgmem import EmbeddedPostgres, Event, Memory, migrate
from pgmem.errors import HistoryRewritten, Unavailable
from tests.support.clusters import caught_up, kill, promote, reopened
from tests.support.following import Follower, positions, writing
from tests.support.leases import notifiable
from tests.support.options import FORMS, SIZED_SLOW_FORMS, SLOW_FORMS, size
from tests.support.places import SETTINGS, lose_the_tail
from tests.support.waiting import wait_until

INSERT = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')"


@pytest.mark.parametrize(
    "crash", [pytest.param(False, marks=pytest.mark.thorough), True], ids=["stopped", "killed"]
)
@SIZED_SLOW_FORMS
def test_restarted_server_costs_no_event(name, crash, place):
    follower = Follower(name, place.url)
    with writing(place.url, 4, pause=0.003, timeout=20) as writers:
        for _ in range(size(10, 2, name)):
            writers.wait_for(50)
            place.restart(crash=crash)
            moment = time.monotonic()
            follower.wait(lambda m=moment: follower.arrival_after(m) is not None)
            print(f"back after {follower.arrival_after(moment) - moment:.2f} s")
    follower.finish(place.server.url)
    assert set(writers.acknowledged) <= set(follower.positions)


def test_leases_outlive_a_restarted_server(place):
    """Keep holders and waiters of leases across a switch, though their sessions are gone."""
    with (
        Memory(place.url, timeout=2, safety_poll=0.5) as memory,
        Memory(place.url, timeout=2, safety_poll=0.5) as other,
        ThreadPoolExecutor() as pool,
    ):
        lease = memory.leases.acquire("job", ttl=15)
        waiter = pool.submit(other.leases.acquire, "job")
        wait_until(lambda: notifiable(place.server.url) == 1)
        expires_at = lease.expires_at
        place.restart(crash=True)
        wait_until(lambda: notifiable(place.server.url) == 1)
        wait_until(lambda: lease.expires_at > expires_at)
        assert not waiter.done()
        lease.release()
        new = waiter.result(5)
        assert new.token > lease.token
        new.release()


@pytest.mark.parametrize(
    "void", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["open", "rolled back"]
)
@SLOW_FORMS
def test_positions_that_a_crash_gives_out_again_are_not_skipped(name, void, place):
    """Deliver events on positions that were drawn before a crash and again after it.

    Only a commit flushes the WAL record of a drawn position.
    """
    for _ in range(10):
        if drawn_again(name, place, void=void):
            return
    pytest.fail("no crash came before the sequence was written through: nothing is shown")


def drawn_again(name, place, *, void) -> bool:
    """Crash while a drawn position is only in memory. Return True if it was drawn again."""
    follower = Follower(name, place.url, safety_poll=0.01)
    with suppress(psycopg.OperationalError), psycopg.connect(place.server.url) as writer:
        writer.execute(INSERT)
        while writer.execute("SELECT log_cnt FROM pgmem.events_position_seq").fetchone()[0]:
            writer.execute(INSERT)
        writer.commit()
        logged = positions(place.server.url)
        follower.wait(lambda: len(follower.got) == len(logged))
        drawn = writer.execute(f"{INSERT} RETURNING position").fetchone()[0]
        time.sleep(0.05)
        if void:
            writer.rollback()
            time.sleep(0.02)
        place.crash()
    place.start()
    with (
        psycopg.connect(place.server.url) as late,
        psycopg.connect(place.server.url) as early,
    ):
        again = late.execute(f"{INSERT} RETURNING position").fetchone()[0]
        early.execute(INSERT)
        early.commit()
        time.sleep(0.3)
        late.commit()
    follower.finish(place.server.url)
    return again == drawn


@SLOW_FORMS
def test_events_lost_by_a_crash_under_relaxed_durability_are_told(name, place):
    """Tell a reader that a crash lost events it had read and that their positions are reused."""
    with psycopg.connect(place.server.url, autocommit=True) as admin:
        # What is committed so is written by and by: not before the crash.
        admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        admin.execute("SELECT pg_reload_conf()")
    for _ in range(10):
        follower = Follower(name, place.url)
        with writing(place.url, 3, pause=0.001, durability="relaxed") as writers:
            writers.wait_for(50)
            last = writers.acknowledged[-1]
            follower.wait(lambda f=follower, last=last: f.got and f.positions[-1] >= last)
            place.crash()
        seen = {(position, payload) for position, payload, _ in follower.got}
        server = reopened(place.folder / "first", settings=SETTINGS)
        with psycopg.connect(server.url) as connection:
            for _ in range(len(seen)):  # Others may write before the reader is back.
                connection.execute(INSERT)
            rows = connection.execute("SELECT position, payload FROM pgmem.events").fetchall()
        place.lead_to(server)
        if seen <= set(rows):
            no_seen_event_is_missed(follower, place.server.url)
            continue
        error = follower.wait_for_error(10)
        follower.stop()
        assert isinstance(error, HistoryRewritten)
        return
    pytest.fail("no crash lost an event that was seen: nothing is shown")


def no_seen_event_is_missed(follower, url) -> None:
    """Let a subscription go on, or tell it that events read ahead for it were lost."""
    last = follower.positions[-1] if follower.got else 0
    with suppress(HistoryRewritten):
        follower.finish(url)
    assert follower.error is None or follower.error.position > last


@SLOW_FORMS
def test_standby_that_took_over_is_another_history(name, place, standby, caplog):
    """Promote a standby that lacks the last events and reuses their positions."""
    standby, stream = standby
    with Memory(place.url, timeout=3) as memory, Memory(place.url, timeout=3) as reader:
        memory.state.put("k", 1)
        memory.events.append("s", [Event(type="kept", payload=0)] * 50)
        reader.events.read(limit=1)
        follower = Follower(name, place.url)
        waiting = memory.events.subscribe(after=0)
        assert len(waiting.receive()) == 51
        lose_the_tail(place, stream, standby)
        last = memory.events.read(reverse=True, limit=1)[0].position
        follower.wait(lambda: follower.got and follower.positions[-1] == last)
        kill(place.server)
        # While it only stands by, who follows waits.
        place.lead_to(standby)
        time.sleep(0.7)
        assert follower.error is None
        assert len(reader.events.read(limit=100)) == 51, "a standby can be read"
        promote(standby)
        with psycopg.connect(standby.url) as other:
            for _ in range(100):
                other.execute(INSERT)
        error = follower.wait_for_error()
        follower.stop()
        assert isinstance(error, HistoryRewritten)
        assert error.expected.system_identifier == error.found.system_identifier
        assert (error.expected.timeline, error.found.timeline) == (1, 2)
        assert (error.agrees_up_to, error.lost) == (51, tuple(range(52, last + 1)))
        assert set(follower.positions) == set(range(1, last + 1))
        with pytest.raises(HistoryRewritten):
            list(waiting)
        waiting.close()
        with pytest.raises(HistoryRewritten):
            memory.events.read(after=last)
        with pytest.raises(HistoryRewritten):
            memory.events.subscribe(after=last).receive(timeout=5)
        # A memory that had read nothing that is lost goes on.
        assert len(reader.events.read(after=50, limit=500)) == 101
        assert len(memory.events.read(limit=1000)) == 151
        # What does not rest on a position goes on.
        assert memory.state.get("k").value == 1
        assert memory.state.put("k", 2).version == 2
        assert memory.events.append("s", Event(type="t")).position
        assert memory.dedupe.claim("d").acquired
    with Memory(place.url) as new:
        assert len(new.events.read(limit=1000)) == 152 + 1
        with new.events.subscribe(after=0) as subscription:
            assert len(subscription.receive(1000, timeout=5)) == 153
    assert "payload" not in caplog.text


@FORMS
@pytest.mark.thorough
def test_another_cluster_at_the_same_address_is_another_history(name, place, tmp_path):
    """Refuse another cluster, even with the same positions and timeline."""
    with Memory(place.url, timeout=3) as memory, EmbeddedPostgres() as other:
        memory.events.append("s", [Event(type="t")] * 20)
        follower = Follower(name, place.url)
        follower.wait(lambda: len(follower.got) == 20)
        migrate.upgrade(other.url)
        with Memory(other.url) as theirs:
            theirs.events.append("s", [Event(type="t")] * 40)
        place.lead_to(other)
        error = follower.wait_for_error()
        follower.stop()
        assert isinstance(error, HistoryRewritten)
        assert len(follower.got) == 20
        with pytest.raises(HistoryRewritten):
            memory.events.read(after=20)


def test_a_standby_can_be_read_and_not_followed(place, standby):
    standby, _ = standby
    with Memory(place.url) as memory:
        memory.events.append("s", [Event(type="t")] * 20)
        caught_up(place.server.url, standby.url)
        with Memory(standby.url) as behind:
            first = behind.events.read(limit=15)
            assert [event.position for event in first] == list(range(1, 16))
            assert len(behind.events.read(after=15)) == 5
            stats = behind.stats()
            assert (stats.server.standby, stats.log.events.value, stats.log.last) == (True, 20, 20)
            with pytest.raises(Unavailable, match="standby"):
                behind.events.subscribe(after=0).receive(timeout=5)
            with pytest.raises(Unavailable, match="standby"):
                behind.events.subscribe(after="now").receive(timeout=5)
            with pytest.raises(Unavailable, match="standby"):
                behind.events.read(after=20, timeout=5)
