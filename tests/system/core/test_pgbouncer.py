"""PgBouncer in transaction mode between: each transaction may run on another session."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgmem import Event, Memory
from pgmem.errors import StaleRead, VersionConflict
from tests.support.following import Follower, percentile, writing
from tests.support.leases import notifiable, waiting
from tests.support.options import SLOW_FORMS
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until

CONFIG = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
logfile = {folder}/log
pidfile = {folder}/pid
"""


def find() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip("there is no pgbouncer on PATH (Debian: apt-get install pgbouncer)")
    return found


@pytest.fixture
def pooled_url(database_url):
    """Return the URL of the test's database through a PgBouncer."""
    program = find()
    info = conninfo_to_dict(database_url)
    if not str(info.get("host", "")).startswith("/"):
        pytest.skip("the server that was named is not reached by a socket without a password")
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        # It refuses to run as root; the socket lets in the server's own account.
        owner = Path(info["host"]).stat()
        folder = Path(name)
        (folder / "users").write_text('"postgres" ""\n')
        (folder / "config").write_text(
            CONFIG.format(
                host=info["host"], port=info.get("port", 5432), listen=listen, folder=folder
            )
        )
        account = {}
        if os.getuid() == 0:
            account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
            for path in (folder, *folder.iterdir()):
                os.chown(path, owner.st_uid, owner.st_gid)
        process = subprocess.Popen(
            [program, folder / "config"], stderr=subprocess.DEVNULL, **account
        )
        url = make_conninfo(database_url, host="127.0.0.1", port=listen)
        try:
            wait_until(lambda: reachable(url, process), 10, "PgBouncer")
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def reachable(url, process) -> bool:
    assert process.poll() is None, "PgBouncer ended"
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def use_everything(memory) -> None:
    """Do each operation often enough to be prepared, on another session each time."""
    for n in range(8):
        memory.events.append("s", Event(type="t", payload=n))
        memory.events.append("s", [Event(type="t", payload=n)] * 3)
        memory.events.append("v", Event(type="t", payload=n), expected_version=n)
        first = memory.events.append("s", Event(type="k"), idempotency_key=f"k{n}")
        again = memory.events.append("s", Event(type="k"), idempotency_key=f"k{n}")
        assert (first.position, again.duplicate) == (again.position, True)
        assert memory.state.put("p", n).version == n + 1
        assert memory.state.compare_and_set("c", n, expected_version=n).version == n + 1
        with pytest.raises(VersionConflict):
            memory.state.compare_and_set("c", n, expected_version=n)
        assert memory.state.update("u", lambda value: (value or 0) + 1).value == n + 1
        assert memory.state.get("u").value == n + 1
        claim = memory.dedupe.claim(f"d{n}")
        memory.dedupe.complete(claim, n)
        assert memory.dedupe.claim(f"d{n}").result == n
        with memory.leases.hold("l", timeout=0) as lease:
            memory.state.compare_and_set("l", n, expected_version=n, fence=lease)
            lease.renew()
        with memory.transaction() as tx:
            tx.events.append("x", Event(type="t", payload=n))
            tx.state.put("x", n)
        assert len(memory.events.read("x", limit=10)) == n + 1
    taken = memory.state.snapshots.take("now")
    assert taken is not None
    assert memory.events.count("s") == 8 * 5


@SLOW_FORMS
def test_everything_works_through_it_with_a_way_to_listen_beside_it(
    name, pooled_url, database_url, caplog
):
    with caplog.at_level(logging.WARNING, "pgmem"):
        # The poll is so long that only a notification can explain what arrives.
        follower = Follower(name, pooled_url, listen_url=database_url, safety_poll=20)
        with (
            Memory(pooled_url, listen_url=database_url) as memory,
            Memory(pooled_url, listen_url=database_url) as other,
        ):
            use_everything(memory)
            other.events.append("s", Event(type="last", payload=time.monotonic()))
        follower.wait(lambda: follower.got and follower.got[-1][1], timeout=5)
        with writing(pooled_url, 4, pause=0.001, listen_url=database_url) as writers:
            writers.wait_for(200)
        follower.finish(database_url)
    delays = [at - sent for _, sent, at in follower.got[-200:]]
    print(f"append to delivery: p50 {percentile(delays, 0.5) * 1000:.1f} ms")
    assert percentile(delays, 0.99) < 10
    assert "polling" not in caplog.text


@SLOW_FORMS
def test_without_a_way_to_listen_events_arrive_by_polling(name, pooled_url, database_url, caplog):
    with caplog.at_level(logging.WARNING, "pgmem"):
        follower = Follower(name, pooled_url, safety_poll=0.3)
        with Memory(pooled_url) as memory, Memory(pooled_url) as other:
            use_everything(memory)
            other.events.append("s", Event(type="t", payload=time.monotonic()))
        before = len(follower.got)
        with Stalls() as stalls, writing(pooled_url, 4, pause=0.01) as writers:
            writers.wait_for(300)
        follower.finish(database_url)
    delays = [at - sent for _, sent, at in follower.got[before + 1 :] if isinstance(sent, float)]
    print(f"append to delivery: p99 {percentile(delays, 0.99):.3f} s")
    assert percentile(delays, 0.99) < 0.3 + 0.5 + stalls.allowance
    assert caplog.text.count("by polling only") == 1
    assert "listen_url" in caplog.text
    assert "lost its connection" not in caplog.text


@pytest.mark.parametrize("listens", [True, False], ids=["listens beside it", "polls"])
def test_leases_change_hands_through_it(listens, pooled_url, database_url):
    """Send nothing through it that a session would have to keep: no setting, no lock."""
    options = {"listen_url": database_url, "safety_poll": 20} if listens else {"safety_poll": 0.3}
    delays, tokens = [], []
    with (
        Stalls() as stalls,
        Memory(pooled_url, **options) as memory,
        Memory(pooled_url, **options) as other,
    ):
        for _ in range(4):
            lease = memory.leases.acquire("job")
            with ThreadPoolExecutor() as pool:
                waiter = pool.submit(other.leases.acquire, "job", timeout=10)
                wait_until(lambda: waiting(database_url) == 1)
                if listens:
                    wait_until(lambda: notifiable(database_url) == 1)
                with psycopg.connect(database_url) as admin:
                    held = admin.execute(
                        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
                        " (SELECT oid FROM pg_database WHERE datname = current_database())"
                    ).fetchone()
                assert held == (1 if listens else 0,)
                released = time.monotonic()
                lease.release()
                new = waiter.result()
            delays.append(time.monotonic() - released)
            tokens += [lease.token, new.token]
            new.release()
    assert max(delays) < (9 if listens else 0.3 + 0.5 + stalls.allowance)
    assert tokens == sorted(set(tokens))


def test_transactions_of_one_round_trip_are_all_or_nothing_through_it(pooled_url, database_url):
    with Memory(pooled_url, pool=2) as memory, Memory(database_url) as other:
        for n in range(5):
            with memory.optimistic(idempotency_key=f"key:{n}") as tx:
                tx.state.get("k")
                tx.state.put("k", n)
                tx.events.append("s", Event(type="t"))
            assert tx.committed.versions == {"k": n + 1}

        def overtaken(tx):
            tx.state.get("k")
            tx.state.put("k", "lost")
            other.state.put("k", "other")

        with pytest.raises(StaleRead):
            memory.run_transaction(overtaken, optimistic=True, retries=0)
        with memory.transaction() as tx:
            outcome = tx.dedupe.run_once(
                "work", lambda: tx.events.append("s", Event(type="t")).position
            )
        assert outcome.result == memory.events.head()
        assert memory.state.get("k").value == "other"
