"""What the published code gets wrong: each fault on a real Redis, and beside it `pgmem.compat`.

One test for each line of the table in docs/coming-from-redis.md. The first half of a test shows the
fault with `benchmarks.arms.published`, the second that it is none here. Who must be first in a race
is held until the others are where they must be.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import redis

from benchmarks import redis_server
from benchmarks.arms import published
from benchmarks.arms.published import Published
from pgmem import EmbeddedPostgres, Event, migrate
from pgmem.compat import ConcurrentModificationError, ForeignId, SharedMemoryLayer
from pgmem.errors import InvalidOption, OutcomeUnknown, PositionTrimmed
from tests.support.clusters import kill, reopened
from tests.support.cutting import CuttingRelay

RACERS = 8
WAIT = 30
SKIPPED = {"status": "skipped", "reason": "already_processed"}


@pytest.fixture
def on_redis(redis_url):
    """Makes layers of the published code."""
    with contextlib.ExitStack() as stack:

        def make(work=None, *, kind=redis.Redis, **options):
            connection = kind.from_url(redis_url, socket_timeout=None)
            return Published(stack.enter_context(contextlib.closing(connection)), work, **options)

        yield make


@pytest.fixture
def on_pgmem(database_url):
    """Makes layers of `pgmem.compat`."""
    with contextlib.ExitStack() as stack:

        def make(work=None, *, url=database_url, **options):
            class Layer(SharedMemoryLayer):
                def _do_actual_work(self, event):
                    return work(event)

            return stack.enter_context(Layer(url, **options))

        yield make


def at_once(work, times=RACERS):
    """The results of `work(n)` in as many threads, begun together; an error is its own result."""
    gate = threading.Barrier(times)

    def begin(number):
        gate.wait(WAIT)
        try:
            return work(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(begin, range(times)))


def entries(layer, last_id="0", count=100):
    ((_, found),) = layer.read_events(last_id, count)
    return found


def increment(current):
    return {"n": int(current.get(b"n", 0)) + 1}


# Versioned updates


def test_a_second_update_of_a_resource(on_redis, on_pgmem):
    there, here = on_redis(), on_pgmem()
    assert there.update_with_version("r", increment) == {"n": 1, "version": 1}
    with pytest.raises(published.ConcurrentModificationError):
        there.update_with_version("r", increment)  # and nobody else was there

    assert here.update_with_version("r", increment) == {"n": 1, "version": 1}
    assert here.update_with_version("r", increment) == {"n": 2, "version": 2}


def test_eight_update_one_resource_at_once(on_redis, on_pgmem, client):
    def run(layer, error):
        results = at_once(lambda _: layer.update_with_version("r", increment, max_retries=3))
        return sum(isinstance(result, error) for result in results)

    there, here = on_redis(), on_pgmem()
    assert run(there, published.ConcurrentModificationError) == RACERS - 1
    assert client.hget("resource:r", "n") == b"1"

    assert run(here, ConcurrentModificationError) == 0
    value = here.memory.state.get("resource:r").value
    assert value == {"n": str(RACERS), "version": str(RACERS)}


class DiesAtHset(redis.Redis):
    def hset(self, *args, **kwargs):
        raise KeyboardInterrupt


@contextlib.contextmanager
def killed_under_way(url, key):
    """Kill the backend of whoever writes an entry, while he waits for the row lock that we hold."""
    over = threading.Event()

    def kill_who_waits(admin, holder):
        while not over.is_set():
            time.sleep(0.01)
            if admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ).fetchall():
                holder.rollback()
                return True
        return False

    with (
        psycopg.connect(url, autocommit=True) as admin,
        psycopg.connect(url) as holder,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT FROM pgmem.state WHERE key = %s FOR UPDATE", [key])
        killing = pool.submit(kill_who_waits, admin, holder)
        try:
            yield
        finally:
            over.set()
        assert killing.result(WAIT), "nobody waited: the test shows nothing"


def test_an_update_that_dies_halfway(on_redis, on_pgmem, client, database_url):
    with pytest.raises(KeyboardInterrupt):
        on_redis(kind=DiesAtHset).update_with_version("r", lambda _: {"n": 1})
    assert client.hgetall("resource:r") == {b"version": b"1"}, "a version without its data"
    with pytest.raises(published.ConcurrentModificationError):
        on_redis().update_with_version("r", lambda _: {"n": 1}, max_retries=1)

    here = on_pgmem()
    here.update_with_version("r", lambda _: {"n": 1})
    with killed_under_way(database_url, "resource:r"):
        # Nothing was written, the version says so: it is sent again.
        assert here.update_with_version("r", lambda _: {"n": 2}) == {"n": 2, "version": 2}
    assert here.memory.state.get("resource:r").value == {"n": "2", "version": "2"}


# Work that is done once


def test_eight_get_the_same_event_at_once(on_redis, on_pgmem):
    gate = threading.Barrier(RACERS)

    def work(_):
        return gate.wait(WAIT)  # Nobody goes on before all are at work.

    there = on_redis(work)
    assert sorted(at_once(lambda _: there.process_event({"id": "p"}))) == list(range(RACERS))

    runs = []
    here = on_pgmem(lambda _: runs.append(time.sleep(0.1)) or "done")
    results = at_once(lambda _: here.process_event({"id": "p"}))
    assert (len(runs), results.count("done"), results.count(SKIPPED)) == (1, 1, RACERS - 1)


def test_a_day_without_work(on_redis, on_pgmem, client, database_url):
    """EXPIRE is for the whole set: all ids go at once, or, while there is work, none ever does."""
    runs = []
    there, here = on_redis(runs.append), on_pgmem(runs.append)
    there.process_event({"id": "old"})
    client.expire("processed:events", 10)
    there.process_event({"id": "new"})
    assert client.ttl("processed:events") > 80_000
    client.pexpire("processed:events", 1)  # the day is over
    time.sleep(0.01)
    there.process_event({"id": "new"})
    assert runs == [{"id": "old"}, {"id": "new"}, {"id": "new"}]

    runs.clear()
    here.process_event({"id": "new"})
    with psycopg.connect(database_url) as owner:
        owner.execute(
            "UPDATE pgmem.dedupe SET expires_at = expires_at - interval '2 days', "
            "created_at = created_at - interval '2 days'"
        )
    assert here.process_event({"id": "new"}) == SKIPPED
    assert runs == [{"id": "new"}]


# Events and the latest state


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
    assert entries(there, "0", 1)[0][0] != first, "what nobody has read is gone, without a word"

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
    """What retention does, by hand."""
    with psycopg.connect(url) as owner:
        owner.execute("SET LOCAL session_replication_role = replica")
        owner.execute("DELETE FROM pgmem.events WHERE position <= %s", [position])
        owner.execute("INSERT INTO pgmem.trimmed (stream, position) VALUES ('', %s)", [position])


def test_a_reader_that_waits(redis_url, on_pgmem):
    """BLOCK 0 is for ever; today's client gives up after 5 s (here sooner)."""
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
    """The event is written, the answer is not heard: redis-py's default sends it again."""
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


def test_a_writer_whose_clock_is_wrong(on_redis, on_pgmem, monkeypatch):
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
    """A consumer that keeps the highest id, as a text."""
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
    """An id from elsewhere: of another stream, or of this one before its server lost it."""
    there, here = on_redis(block=1), on_pgmem()
    for layer in (there, here):
        layer.write_event("a", "t", 1)
    later = client.xadd("other", {"n": 1}, id="9999999999999-0")
    assert there.read_events(later) == [], "it waits, and would for 250 years"
    with pytest.raises(ForeignId, match="pgmem import-redis"):
        here.read_events(later)
    with pytest.raises(InvalidOption, match="no position of this log"):
        here.read_events("0-0000000000000000009")


# The data


def test_a_snapshot(on_redis, on_pgmem, database_url):
    with psycopg.connect(database_url) as database:
        database.execute(published.SNAPSHOTS_TABLE)
        there = on_redis(database=database)
        for number in (1, 2):
            there.write_event("a", "t", {"n": number})
            there.take_snapshot()
        rows = database.execute("SELECT key, value FROM agent_snapshots ORDER BY created_at")
        # Which event each is of, nobody can tell: after a restore, where is a reader to go on?
        assert rows.fetchall() == [("a:t", '{"n": 1}'), ("a:t", '{"n": 2}')]
        database.execute("DROP TABLE agent_snapshots")

    here = on_pgmem()
    here.write_event("a", "t", {"n": 1})
    ((first, _),) = entries(here)
    here.take_snapshot()
    here.write_event("a", "t", {"n": 2})
    (taken,) = here.memory.snapshots.list()
    here.memory.snapshots.restore(taken.id)
    assert here.get_latest_state("a", "t") == {"n": 1}
    assert first == f"0-{taken.position:019}".encode()
    assert [fields[b"payload"] for _, fields in entries(here, first)] == [b'{"n": 2}']


def test_a_server_that_is_killed(tmp_path):
    """As it is installed: Redis saves now and then, PostgreSQL before it answers."""
    written = 200
    assert written_before_kill_on_redis(written) < written
    assert written_before_kill_on_pgmem(tmp_path, written) == written


def written_before_kill_on_redis(count):
    """How many of so many acknowledged events are there after `kill -9`."""
    binary = redis_server.redis_binary()
    with tempfile.TemporaryDirectory(prefix="pgmem-") as folder:
        for turn in ("write", "look"):
            process = redis_server.start(binary, Path(folder), "none")
            server = redis_server.Redis(f"unix://{folder}/redis.sock", "none", process.pid)
            try:
                redis_server.await_redis(server, process, Path(folder) / "log")
                with contextlib.closing(server.client()) as client:
                    if turn == "look":
                        return client.xlen("agent:events")
                    client.config_set("save", "3600 1 300 100 60 10000")  # its own default
                    for number in range(count):
                        Published(client).write_event("a", "t", number)
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


def written_before_kill_on_pgmem(folder, count):
    server = EmbeddedPostgres(folder / "data")
    server.start()
    migrate.upgrade(server.url)
    layer = SharedMemoryLayer(server.url)
    for number in range(count):
        layer.write_event("a", "t", number)
    kill(server)
    layer.close()
    again = reopened(folder / "data")
    with SharedMemoryLayer(again.url) as layer:
        found = len(entries(layer, count=10_000))
        assert layer.get_latest_state("a", "t") == count - 1
    again.stop()
    return found
