"""Faults of the published code in events, which `pgmem.redis` does not have.

One test for each line of the table in docs/howto/published-layer.md. The first half shows the
fault with `benchmarks.arms.published`, the second that `pgmem.redis` does not have it. In a race,
the first thread is held until the others have arrived.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis

from benchmarks.arms import published
from benchmarks.arms.published import Published
from pgmem import Event
from pgmem.errors import InvalidInput, OutcomeUnknown, PositionTrimmed
from tests.support.cutting import CuttingRelay
from tests.system.redis.faults import WAIT, DiesAtHset, at_once, entries, killed_under_way


def test_a_writer_that_dies_halfway(on_redis, on_pgmem, client, database_url):
    with pytest.raises(KeyboardInterrupt):
        on_redis(kind=DiesAtHset).write_event("a", "t", {"n": 1})
    assert client.xlen("agent:events") == 1
    assert on_redis().get_latest_state("a", "t") == {}, "an event without its state"

    here = on_pgmem()
    here.write_event("a", "t", {"n": 0})
    with killed_under_way(database_url, "agent:state:a:t"), pytest.raises(OutcomeUnknown):
        here.write_event("a", "t", {"n": 1})
    assert len(entries(here)) == 1
    assert here.get_latest_state("a", "t") == {"n": 0}


def test_two_write_one_state_at_once(on_redis, on_pgmem):
    added, written = threading.Event(), threading.Event()

    class SlowToHset(redis.Redis):
        def hset(self, *args, **kwargs):
            added.set()
            assert written.wait(WAIT)
            return super().hset(*args, **kwargs)

    slow, other = on_redis(kind=SlowToHset), on_redis()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow.write_event, "a", "t", 1)
        assert added.wait(WAIT)
        other.write_event("a", "t", 2)
        written.set()
        first.result(WAIT)
    assert entries(other)[-1][1][b"payload"] == b"2"
    assert other.get_latest_state("a", "t") == 1, "the state is not of the latest event"

    here = on_pgmem()
    for turn in range(20):
        at_once(lambda who, turn=turn: here.write_event("a", f"t{turn}", who), 4)
        last = entries(here, count=10_000)[-1][1]
        assert here.get_latest_state("a", f"t{turn}") == int(last[b"payload"])


def test_a_reader_that_is_slow(on_redis, on_pgmem, client):
    there, here = on_redis(), on_pgmem()
    with client.pipeline(transaction=False) as pipe:
        for _ in range(10_150):
            pipe.xadd(there.stream_key, {"payload": "0"})
        first = pipe.execute()[0]
    for number in range(100):
        there.write_event("a", "t", number)
    assert entries(there, "0", 1)[0][0] != first, "unread entries are removed silently"

    here.memory.events.append(here.stream_key, [Event(type="t", payload=0)] * 10_000)
    for number in range(150):
        here.write_event("a", "t", number)
    seen = entries(here, "0", 10_000)
    assert len(seen + entries(here, seen[-1][0], 10_000)) == 10_150


def test_a_reader_behind_what_was_removed(on_redis, on_pgmem, client, database_url):
    there, here = on_redis(), on_pgmem()
    for layer in (there, here):
        for number in range(10):
            layer.write_event("a", "t", number)
    ids = [identity for identity, _ in entries(there)]
    client.xtrim("agent:events", minid=ids[5], approximate=False)
    assert entries(there, ids[0])[0][0] == ids[5], "four are passed over, without a word"

    ids = [identity for identity, _ in entries(here)]
    trim(database_url, 5)
    with pytest.raises(PositionTrimmed) as missing:
        here.read_events(ids[0])
    assert (missing.value.position, missing.value.trimmed_to) == (1, 5)
    assert len(entries(here, ids[5])) == 4


def trim(url, position):
    """Remove events as retention does."""
    with psycopg.connect(url) as owner:
        owner.execute("SET LOCAL session_replication_role = replica")
        owner.execute("DELETE FROM pgmem.events WHERE position <= %s", [position])
        owner.execute("INSERT INTO pgmem.trimmed (stream, position) VALUES ('', %s)", [position])


def test_a_reader_that_waits(redis_url, on_pgmem):
    """BLOCK 0 waits for ever, but redis-py 8 gives up after 5 s (here sooner)."""
    if redis.VERSION >= (8,):
        with contextlib.closing(redis.Redis.from_url(redis_url)) as of_today:
            assert of_today.connection_pool.make_connection().socket_timeout == 5
    hasty = redis.Redis.from_url(redis_url, socket_timeout=0.05)
    with contextlib.closing(hasty), pytest.raises(redis.TimeoutError):
        Published(hasty).read_events()

    reader, writer = on_pgmem(), on_pgmem()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(entries, reader)
        time.sleep(0.3)
        writer.write_event("a", "t", 1)
        assert len(reading.result(WAIT)) == 1


def test_an_answer_that_is_lost(redis_url, client, on_pgmem, tmp_path, database_url):
    """Lose the answer to a write, which redis-py then sends again."""
    path = redis_url.removeprefix("unix://")
    with contextlib.closing(redis.Redis(unix_socket_path=path)) as of_today:
        lose_next_answer(of_today)
        Published(of_today).write_event("a", "t", 1)
    assert client.xlen("agent:events") == 2, "one event, written twice"

    relay = CuttingRelay(database_url, tmp_path)
    here = on_pgmem(url=relay.url)
    here.write_event("a", "t", "first")
    relay.cut_once_after(b"MARK")
    with pytest.raises(OutcomeUnknown):
        here.write_event("a", "t", "MARK")
    assert relay.cuts == 1
    assert [fields[b"payload"] for _, fields in entries(here)] == [b'"first"', b'"MARK"']
    relay.close()


def lose_next_answer(client):
    """Let the next answer of the client's connection get lost on its way."""
    connection = client.connection_pool.make_connection()
    connection.connect()
    read = connection.read_response
    lost = []

    def lose(*args, **kwargs):
        answer = read(*args, **kwargs)
        if not lost:
            lost.append(answer)
            raise redis.ConnectionError("the answer is lost")
        return answer

    connection.read_response = lose
    client.connection_pool.make_connection = lambda: connection


def test_names_with_a_colon(on_redis, on_pgmem):
    def run(layer):
        layer.write_event("worker:1", "done", "of worker:1")
        layer.write_event("worker", "1:done", "of worker")
        return layer.get_latest_state("worker:1", "done")

    assert run(on_redis()) == "of worker"
    assert run(on_pgmem()) == "of worker:1"


def test_a_writer_with_a_wrong_clock(on_redis, on_pgmem, monkeypatch):
    class Late(datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) - timedelta(hours=1)

    monkeypatch.setattr(published, "datetime", Late)
    there, here = on_redis(), on_pgmem()
    for layer, error in ((there, 3600), (here, 0)):
        layer.write_event("a", "t", 1)
        at = datetime.fromisoformat(entries(layer)[0][1][b"timestamp"].decode())
        assert abs((datetime.now(UTC).replace(tzinfo=None) - at).total_seconds() - error) < 60


def test_ids_that_are_compared(on_redis, on_pgmem, client):
    """Keep the highest id as a text, as a consumer may."""
    for sequence in (9, 10):  # two events of one millisecond
        client.xadd("agent:events", {"payload": "0"}, id=f"1731234567890-{sequence}")
    ids = [identity for identity, _ in entries(on_redis())]
    assert max(ids) != ids[-1]

    here = on_pgmem()
    for number in range(12):
        here.write_event("a", "t", number)
    ids = [identity for identity, _ in entries(here)]
    assert sorted(ids) == ids


def test_an_id_of_another_stream(on_redis, on_pgmem, client):
    """Read after an id of another stream, or of this one before its server lost it."""
    there, here = on_redis(block=1), on_pgmem()
    for layer in (there, here):
        layer.write_event("a", "t", 1)
    later = client.xadd("other", {"n": 1}, id="9999999999999-0")
    assert there.read_events(later) == [], "it waits, and would for 250 years"
    with pytest.raises(InvalidInput, match=r"id of a Redis stream.*pgmem import-redis"):
        here.read_events(later)
    with pytest.raises(InvalidInput, match="no position of this log"):
        here.read_events("0-0000000000000000009")
