"""Faults of the published code in updates, work and data, which `pgmem.redis` does not have.

One test for each line of the table in docs/howto/published-layer.md. The first half shows the
fault with `benchmarks.arms.published`, the second that `pgmem.redis` does not have it. In a race,
the first thread is held until the others have arrived.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest

from benchmarks import redis_server
from benchmarks.arms import published
from benchmarks.arms.published import Published
from pgmem import EmbeddedPostgres, migrate
from pgmem.redis import ConcurrentModificationError, SharedMemoryLayer
from tests.support.clusters import kill, reopened
from tests.system.redis.faults import RACERS, WAIT, DiesAtHset, at_once, entries, killed_under_way

SKIPPED = {"status": "skipped", "reason": "already_processed"}


def increment(current):
    return {"n": int(current.get(b"n", 0)) + 1}


def test_a_second_update_of_a_resource(on_redis, on_pgmem):
    there, here = on_redis(), on_pgmem()
    assert there.update_with_version("r", increment) == {"n": 1, "version": 1}
    with pytest.raises(published.ConcurrentModificationError):
        there.update_with_version("r", increment)  # without any other writer

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


def test_eight_get_the_same_event_at_once(on_redis, on_pgmem):
    gate = threading.Barrier(RACERS)

    def work(_):
        return gate.wait(WAIT)  # No thread continues before all work.

    there = on_redis(work)
    assert sorted(at_once(lambda _: there.process_event({"id": "p"}))) == list(range(RACERS))

    runs = []
    here = on_pgmem(lambda _: runs.append(time.sleep(0.1)) or "done")
    results = at_once(lambda _: here.process_event({"id": "p"}))
    assert (len(runs), results.count("done"), results.count(SKIPPED)) == (1, 1, RACERS - 1)


def test_a_day_without_work(on_redis, on_pgmem, client, database_url):
    """EXPIRE is for the whole set, so all ids expire at once, or none while there is work."""
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


def test_a_snapshot(on_redis, on_pgmem, database_url):
    with psycopg.connect(database_url) as database:
        database.execute(published.SNAPSHOTS_TABLE)
        there = on_redis(database=database)
        for number in (1, 2):
            there.write_event("a", "t", {"n": number})
            there.take_snapshot()
        rows = database.execute("SELECT key, value FROM agent_snapshots ORDER BY created_at")
        # They do not name their events, so a reader cannot continue after a restore.
        assert rows.fetchall() == [("a:t", '{"n": 1}'), ("a:t", '{"n": 2}')]
        database.execute("DROP TABLE agent_snapshots")

    here = on_pgmem()
    here.write_event("a", "t", {"n": 1})
    ((first, _),) = entries(here)
    here.take_snapshot()
    here.write_event("a", "t", {"n": 2})
    (taken,) = here.memory.state.snapshots.list()
    here.memory.state.snapshots.restore(taken.id)
    assert here.get_latest_state("a", "t") == {"n": 1}
    assert first == f"0-{taken.position:019}".encode()
    assert [fields[b"payload"] for _, fields in entries(here, first)] == [b'{"n": 2}']


def test_a_server_that_is_killed(tmp_path):
    """With default settings, Redis saves now and then, PostgreSQL before it answers."""
    written = 200
    assert written_before_kill_on_redis(written) < written
    assert written_before_kill_on_pgmem(tmp_path, written) == written


def written_before_kill_on_redis(count):
    """Return how many of `count` acknowledged events survive `kill -9`."""
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
