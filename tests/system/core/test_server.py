"""Servers that die, wait or fill up. Each test has a server of its own."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest

from pgmem import EmbeddedPostgres, Event, Memory, migrate
from pgmem._sync.core.retry import Attempts
from pgmem.core.sqlstates import is_full_queue
from pgmem.errors import OutcomeUnknown, Unavailable
from pgmem.events import ops
from tests.support.clusters import postmaster, reopened


def test_every_acknowledged_append_survives_kill_9_of_the_server(tmp_path):
    """Start a server with fsync on."""
    folder = tmp_path / "data"
    server = EmbeddedPostgres(folder)
    server.start()
    migrate.upgrade(server.url)
    acknowledged, unknown = [], []

    def append(name):
        with Memory(server.url, pool=1, timeout=1) as memory:
            for n in range(100_000):
                try:
                    receipt = memory.events.append("s", Event(type="t", payload=[name, n]))
                    acknowledged.append(receipt.position)
                except OutcomeUnknown:
                    unknown.append((name, n))
                    return
                except Unavailable:
                    return

    threads = [threading.Thread(target=append, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 300:
        time.sleep(0.01)
    os.kill(postmaster(server), signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    server.stop()
    assert len(acknowledged) >= 300
    again = reopened(folder)
    with Memory(again.url) as memory:
        kept = {event.position for event in memory.events.read(limit=100_000)}
        receipt = memory.events.append("s", Event(type="after"))
    again.stop()
    assert set(acknowledged) <= kept
    assert len(kept) <= len(acknowledged) + len(unknown)
    assert receipt.position > max(kept)


def test_commit_that_no_standby_confirmed_is_an_unknown_outcome():
    """Raise OutcomeUnknown where the server reports success with a warning."""
    with EmbeddedPostgres(settings={"synchronous_standby_names": "ghost"}) as server:
        alone = psycopg.conninfo.make_conninfo(server.url, options="-c synchronous_commit=local")
        migrate.upgrade(alone)
        caught = []

        def write(memory, in_transaction):
            try:
                if in_transaction:
                    with memory.transaction() as tx:
                        tx.state.put("k", 1)
                else:
                    memory.state.put("k", 1)
            except OutcomeUnknown as error:
                caught.append(str(error))

        with psycopg.connect(alone, autocommit=True) as admin, Memory(server.url) as memory:
            for in_transaction in (False, True):
                writer = threading.Thread(target=write, args=(memory, in_transaction))
                writer.start()
                cancelled = False
                while not cancelled:
                    time.sleep(0.02)
                    cancelled = admin.execute(
                        "SELECT bool_or(pg_cancel_backend(pid)) FROM pg_stat_activity "
                        "WHERE wait_event = 'SyncRep'"
                    ).fetchone()[0]
                writer.join(10)
            assert len(caught) == 2
            assert all("standby" in message for message in caught)
            # The connection is fit for use, and remembers nothing.
            with Memory(alone) as local:
                assert local.state.put("k", 2).version == 3


@pytest.fixture
def stuffed_server():
    """Start a server whose notification queue is never emptied, because of an idle listener."""
    with EmbeddedPostgres(settings={"max_notify_queue_pages": 64}) as server:
        migrate.upgrade(server.url)
        with psycopg.connect(server.url) as stuck:
            stuck.execute("LISTEN anything")
            stuck.commit()
            stuck.execute("SELECT 1")
            yield server


def fill(url, share):
    with psycopg.connect(url, autocommit=True) as connection:
        for n in range(1000):
            connection.execute("SELECT pg_notify('anything', %s)", [f"{n}".ljust(7900, "x")])
            usage = connection.execute("SELECT pg_notification_queue_usage()").fetchone()[0]
            if usage >= share:
                return usage
    raise AssertionError("the queue does not fill")


def needs_17(server_url):
    with psycopg.connect(server_url) as connection:
        if connection.info.server_version < 170000:
            pytest.skip("the queue has a fixed size of 8 GB before PostgreSQL 17")


def test_full_notification_queue_makes_no_write_fail(pg_server_url, request, caplog):
    needs_17(pg_server_url)
    server = request.getfixturevalue("stuffed_server")
    fill(server.url, 0.6)
    with caplog.at_level(logging.WARNING, "pgmem"), Memory(server.url, pool=2) as memory:
        for _ in range(20):
            memory.events.append("s", Event(type="t"))
            memory.state.update("k", lambda value: (value or 0) + 1)
            with memory.transaction() as tx:
                tx.events.append("s", Event(type="t"))
        assert memory.events.count("s") == 40
    assert caplog.text.count("LISTENs and never reads") == 1, "said once"


def test_commit_that_a_full_queue_refused_is_repeated_without_a_notification(
    pg_server_url, request
):
    """Fill the queue between the check of it and the commit."""
    needs_17(pg_server_url)
    server = request.getfixturevalue("stuffed_server")
    with pytest.raises(psycopg.Error) as refused:
        fill(server.url, 2)
    assert is_full_queue(refused.value)
    with Memory(server.url) as memory:
        op = ops.append("s", Event(type="t"), ops.Codec())
        deadline = time.monotonic() + 10
        retry = Attempts(memory._database, op, deadline)
        assert retry.after(refused.value) == 0
        assert retry.notify == "never"
        assert memory._executor._execute_once(op, retry.notify, deadline, None).position == 1
        assert memory.events.count("s") == 1


def test_server_that_comes_back_is_used_again(tmp_path):
    """Find a restarted server at the same address, without reopening the memory."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # Socket paths are short.
        address = Path(short) / "s"
        os.chmod(short, 0o755)

        def point_to(server):
            address.unlink(missing_ok=True)
            found = psycopg.conninfo.conninfo_to_dict(server.url)
            address.symlink_to(found["host"])
            return psycopg.conninfo.make_conninfo(server.url, host=str(address))

        server = EmbeddedPostgres(tmp_path / "data")
        server.start()
        url = point_to(server)
        migrate.upgrade(url)
        with Memory(url, pool=(3, 3), timeout=20) as memory:
            memory.events.append("s", Event(type="t"))
            server.stop()
            with pytest.raises(Unavailable), Memory(url, timeout=2):
                pass
            server = reopened(tmp_path / "data")
            point_to(server)
            for _ in range(5):
                memory.events.append("s", Event(type="t"))
            assert memory.events.count("s") == 6
        server.stop()
