"""Foreign transactions that stay open or prepared, and listeners that never read.

Neither writers nor the follower wait for them.
"""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from pgmem import EmbeddedPostgres, Event, migrate
from tests.support.following import Follower, percentile, writing
from tests.support.options import SIZED_SLOW_FORMS, SLOW_FORMS, size
from tests.support.stalls import Stalls

INSERT = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')"


@contextmanager
def opened(url, *statements):
    """Keep a transaction open."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)
        yield
        connection.rollback()


@contextmanager
def prepared(url, *statements):
    """Leave a prepared transaction without an owner."""
    name = f"orphan_{uuid.uuid4().hex}"
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PREPARE TRANSACTION '{name}'")
        connection.commit()
    try:
        yield name
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            if connection.execute(
                "SELECT 1 FROM pg_prepared_xacts WHERE gid = %s", [name]
            ).fetchone():
                connection.execute(f"ROLLBACK PREPARED '{name}'")


@SLOW_FORMS
def test_long_foreign_transactions_delay_nothing(name, database_url, make_database):
    """Open a memory with a long safety poll, so that a wait for it would show."""
    other = make_database()
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE public.elsewhere (n int)")
    with psycopg.connect(other) as connection:
        connection.execute("CREATE TABLE public.elsewhere (n int)")
    write = "INSERT INTO public.elsewhere VALUES (1)"
    with ExitStack() as stack:
        for held in (
            opened(other, write),
            opened(database_url, write),
            opened(database_url, "SELECT * FROM pgmem.events", "SELECT pg_current_xact_id()"),
            opened(
                database_url,
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "SELECT * FROM pgmem.events",
            ),
            prepared(database_url, write),
            prepared(other, write),
        ):
            stack.enter_context(held)
        follower = Follower(name, database_url, safety_poll=20)
        with (
            writing(database_url, 3, pause=0.005) as writers,
            psycopg.connect(database_url) as failing,
        ):
            for _ in range(10):  # Rolled back: gaps that must be resolved.
                writers.wait_for(20)
                failing.execute(INSERT)
                failing.rollback()
        follower.finish(database_url)
    delays = [at - sent for _, sent, at in follower.got]
    print(f"p50 {percentile(delays, 0.5) * 1000:.1f} ms, worst {max(delays) * 1000:.0f} ms")
    assert percentile(delays, 0.99) < 10


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "rolled back"])
@SLOW_FORMS
def test_prepared_transaction_that_appended_is_waited_for(name, commit, database_url, memory):
    """Behind it everything waits; then its event comes in its place, or is passed over."""
    early = Follower(name, database_url)
    with prepared(database_url, INSERT) as transaction:
        memory.events.append("s", [Event(type="t")] * 5)
        late = Follower(name, database_url)
        time.sleep(1.2)
        assert early.got == late.got == []
        assert memory.events.read() == []
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{transaction}'")
        moment = time.monotonic()
        expected = [*([1] if commit else []), 2, 3, 4, 5, 6]
        for follower in (early, late):
            follower.wait(lambda f=follower: len(f.got) >= len(expected))
            delay = follower.got[-1][2] - moment
            print(f"delivered {delay:.2f} s later")
            assert delay < 1.5
            follower.finish(database_url)
            assert follower.positions == expected


def test_transaction_prepared_while_it_is_waited_for(memory, database_url):
    """Follow a writer whose transaction is prepared, which renames the lock's holder."""
    follower = Follower("sync", database_url)
    name = f"renamed_{uuid.uuid4().hex}"
    with psycopg.connect(database_url) as writer:
        writer.execute(INSERT)
        memory.events.append("s", [Event(type="t")] * 5)
        time.sleep(0.3)
        writer.execute(f"PREPARE TRANSACTION '{name}'")
        writer.commit()
        memory.events.append("s", [Event(type="t")] * 5)
        time.sleep(0.5)
        assert follower.got == []
        writer.commit()
        writer.autocommit = True
        writer.execute(f"COMMIT PREPARED '{name}'")
    follower.finish(database_url)
    assert follower.positions == list(range(1, 12))


def notify_for_ever(connection) -> None:
    while True:
        connection.execute("SELECT pg_notify('anything', repeat('x', 7900))")


@SIZED_SLOW_FORMS
def test_stuck_listener_and_full_queue_stop_neither_writers_nor_the_feed(
    name, caplog, pg_server_url
):
    with psycopg.connect(pg_server_url) as connection:
        if connection.info.server_version < 170000:
            pytest.skip("the queue has a fixed size of 8 GB before PostgreSQL 17")
    with EmbeddedPostgres(settings={"max_notify_queue_pages": 64, "fsync": "off"}) as server:
        migrate.upgrade(server.url)
        with psycopg.connect(server.url) as stuck, psycopg.connect(server.url) as ringing:
            stuck.execute("LISTEN anything")
            stuck.commit()
            stuck.execute("SELECT 1")
            ringing.autocommit = True
            follower = Follower(name, server.url, safety_poll=0.3)
            with Stalls() as stalls, writing(server.url, 3, pause=0.005) as writers:
                writers.wait_for(50)
                with pytest.raises(psycopg.Error, match="NOTIFY"):
                    notify_for_ever(ringing)
                moment = time.monotonic()
                with caplog.at_level(logging.WARNING, "pgmem"):
                    writers.wait_for(size(3000, 150, name))
                assert writers.failed == []
                delays = [at - sent for _, sent, at in follower.got if sent > moment]
            follower.finish(server.url)
    print(f"queue full: p99 {percentile(delays, 0.99):.3f} s of {len(delays)}")
    assert percentile(delays, 0.99) <= 0.3 + 0.5 + stalls.allowance
    assert caplog.text.count("LISTENs and never reads") == 1
