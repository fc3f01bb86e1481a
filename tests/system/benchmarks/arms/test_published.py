"""Test that the published approach has the faults that its docstring and the docs name.

No race depends on luck: the client that must be first is held until the others are where they must
be.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import redis

from benchmarks.arms import published
from benchmarks.arms.published import ConcurrentModificationError, Published

RACERS = 8
WAIT = 30


@pytest.fixture
def make_published(server, client):
    with contextlib.ExitStack() as stack:

        def make(*args, kind=None, **kwargs):
            connection = (
                published.connect(server.url)
                if kind is None
                else kind.from_url(server.url, socket_timeout=None)
            )
            return Published(stack.enter_context(contextlib.closing(connection)), *args, **kwargs)

        yield make


def test_the_published_code_does_what_its_article_shows(make_published, client):
    arm = make_published(lambda event: {"done": event["id"]})
    arm.write_event("a", "t", {"n": 1})
    arm.write_event("a", "t", {"n": 2})
    ((_, entries),) = arm.read_events()
    assert [fields[b"payload"] for _, fields in entries] == [b'{"n": 1}', b'{"n": 2}']
    assert set(entries[0][1]) == {b"agent_id", b"event_type", b"payload", b"timestamp"}
    assert b"+" not in entries[0][1][b"timestamp"]
    assert arm.get_latest_state("a", "t") == {"n": 2}
    assert arm.get_latest_state("a", "other") == {}
    assert arm.process_event({"id": "1"}) == {"done": "1"}
    assert arm.process_event({"id": "1"}) == {"status": "skipped", "reason": "already_processed"}
    assert sorted(client.keys()) == [b"agent:events", b"agent:state", b"processed:events"]


def test_a_prefix_keeps_scenarios_apart(make_published, client):
    arm = make_published(lambda _: 1, prefix="x:")
    arm.write_event("a", "t", 1)
    arm.process_event({"id": "1"})
    arm.update_with_version("r", dict)
    keys = client.keys()
    assert len(keys) == 4
    assert all(key.startswith(b"x:") for key in keys)


def test_its_versioned_update_succeeds_once_and_never_again(make_published):
    arm = make_published()
    assert arm.update_with_version("r", lambda _: {"n": 1}) == {"n": 1, "version": 1}
    seen = []

    def change(current):
        seen.append(current)
        return {"n": 2}

    start = time.monotonic()
    with pytest.raises(ConcurrentModificationError):
        arm.update_with_version("r", change)
    # No other client was there. It slept 0.1, 0.2 and 0.4 s, the last time for nothing.
    assert seen == [{b"n": b"1", b"version": b"1"}] * 3
    assert time.monotonic() - start >= 0.7


class DiesAtHset(redis.Redis):
    def hset(self, *args, **kwargs):
        raise KeyboardInterrupt


def test_its_interrupted_update_blocks_the_resource_and_leaves_no_data(make_published, client):
    with pytest.raises(KeyboardInterrupt):
        make_published(kind=DiesAtHset).update_with_version("r", lambda _: {"n": 1})
    assert client.hgetall("resource:r") == {b"version": b"1"}
    with pytest.raises(ConcurrentModificationError):
        make_published().update_with_version("r", lambda _: {"n": 1}, max_retries=1)


def test_its_racers_all_do_the_work(make_published):
    gate = threading.Barrier(RACERS)

    def work(_):
        return gate.wait(WAIT)  # None goes on before all are at work.

    arm = make_published(work)
    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(lambda _: arm.process_event({"id": "p"}), range(RACERS)))
    assert sorted(results) == list(range(RACERS))


def test_its_writer_that_dies_halfway_leaves_an_event_without_state(make_published, client):
    with pytest.raises(KeyboardInterrupt):
        make_published(kind=DiesAtHset).write_event("a", "t", {"n": 1})
    assert client.xlen("agent:events") == 1
    assert make_published().get_latest_state("a", "t") == {}


def test_its_latest_state_may_be_of_an_event_that_is_not_the_latest(make_published):
    added, written = threading.Event(), threading.Event()

    class SlowToHset(redis.Redis):
        def hset(self, *args, **kwargs):
            added.set()
            assert written.wait(WAIT)
            return super().hset(*args, **kwargs)

    slow, other = make_published(kind=SlowToHset), make_published()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow.write_event, "a", "t", {"n": 1})
        assert added.wait(WAIT)
        other.write_event("a", "t", {"n": 2})
        written.set()
        first.result(WAIT)
    ((_, entries),) = other.read_events()
    assert entries[-1][1][b"payload"] == b'{"n": 2}'
    assert other.get_latest_state("a", "t") == {"n": 1}


def test_its_log_silently_drops_unread_events(make_published, client):
    arm = make_published()
    with client.pipeline(transaction=False) as pipe:
        for _ in range(10_150):
            pipe.xadd(arm.stream_key, {"payload": "0"})
        first = pipe.execute()[0]
    for number in range(100):
        arm.write_event("a", "t", number)
    # Approximate: whole nodes of 100 are removed, so a little more than 10,000 stay.
    assert 10_000 <= client.xlen(arm.stream_key) < 10_150
    ((_, entries),) = arm.read_events("0", count=1)
    assert entries[0][0] != first


def test_its_reading_times_out_with_a_client_of_today(server, client):
    # 5 s is the default of redis-py 8; the test checks it without waiting for it.
    with contextlib.closing(server.client()) as of_today:
        connection = of_today.connection_pool.make_connection()
        assert redis.VERSION < (8,) or connection.socket_timeout == 5
    hasty = redis.Redis.from_url(server.url, socket_timeout=0.05)
    with contextlib.closing(hasty), pytest.raises(redis.TimeoutError):
        Published(hasty).read_events("0")


def test_its_reading_waits_with_a_client_that_may(make_published):
    arm = make_published()
    assert make_published(block=1).read_events() == []
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(arm.read_events)
        arm.write_event("a", "t", 1)
        ((_, entries),) = reading.result(WAIT)
    assert len(entries) == 1


def test_its_snapshots_accumulate_and_have_no_position(make_published, database_url):
    with psycopg.connect(database_url) as database:
        database.execute(published.SNAPSHOTS_TABLE)
        arm = make_published(database=database)
        arm.write_event("a", "t", {"n": 1})
        arm.take_snapshot()
        arm.write_event("a", "t", {"n": 2})
        arm.take_snapshot()
        rows = database.execute(
            "SELECT key, value FROM agent_snapshots ORDER BY created_at"
        ).fetchall()
        database.execute("DROP TABLE agent_snapshots")
    # The whole state again each time, and no id of an event to continue from.
    assert rows == [("a:t", '{"n": 1}'), ("a:t", '{"n": 2}')]
