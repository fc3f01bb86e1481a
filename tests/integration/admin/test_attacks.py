"""Roles that do what they were not granted: real roles in sessions of their own."""

from __future__ import annotations

import json
from contextlib import suppress
from threading import Event as Flag
from threading import Thread

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import text

from pgmem import Event, Memory, migrate
from pgmem._sync.retention import archive as sync_archive
from pgmem.admin import sessions
from pgmem.core import silence
from pgmem.core import statements as sql
from pgmem.core.libpq import compile_statement
from pgmem.errors import Unavailable
from pgmem.retention import archive
from tests.support.database import sql as run
from tests.support.retention import exported, fill
from tests.support.roles import roles_of

PREPARE = "PREPARE p AS INSERT INTO pgmem.events (stream, type, payload) VALUES ('x', 'x', '{}')"


@pytest.fixture
def roles(database_url):
    """Sessions of roles that log in to a migrated database."""
    with roles_of(database_url) as roles:
        yield roles


async def holders(connection):
    """Return the pids that count as open writers for a session."""
    query = compile_statement(sql.statement("event_writers", sql.Dialect("pgmem"))).query.decode()
    (transactions,) = connection.execute(query).fetchone()[1:]
    found = connection.execute(
        "SELECT pid FROM pg_locks WHERE virtualtransaction = ANY (%s)", [transactions]
    )
    return {pid for (pid,) in found}


@pytest.mark.both_forms
@pytest.mark.parametrize("kind", ["reader", "other"])
async def test_session_that_may_not_insert_does_not_stop_the_feed(kind, form, roles):
    """PREPARE of an INSERT takes the writers' lock without a privilege."""
    blocker = roles.connect(kind, autocommit=False)
    if kind == "other":
        run(roles.database, f"GRANT USAGE ON SCHEMA pgmem TO {roles.name('other')}")
    blocker.execute(PREPARE)
    async with form.memory(agent_id="a") as memory:
        with suppress(ZeroDivisionError):
            async with memory.transaction() as tx:
                await tx.events.append("s", Event(type="t", payload="rolled back"))
                raise ZeroDivisionError
        await memory.events.append("s", [Event(type="t", payload=n) for n in range(3)])
        async with memory.events.subscribe("s", after=0) as subscription:
            received = []
            while len(received) < 3:
                received += await subscription.receive(3, timeout=20)
    assert [event.payload for event in received] == [0, 1, 2]
    assert blocker.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


async def test_every_session_that_may_insert_counts(roles):
    """Count members, definers and views: a missing session would lose an event."""
    insert = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')"
    writer, reader, owner = roles.name("agent"), roles.name("reader"), roles.database
    run(owner, f"CREATE ROLE {writer}_member LOGIN NOINHERIT IN ROLE {writer}")
    try:
        watcher = roles.connect("reader")
        member = psycopg.connect(make_conninfo(owner, user=f"{writer}_member"))
        member.execute(f"SET ROLE {writer}")
        direct = roles.connect("agent", autocommit=False)
        idle = roles.connect("reader", autocommit=False)
        for session in (member, direct):
            session.execute(insert)
        idle.execute(PREPARE)
        assert await holders(watcher) == {member.info.backend_pid, direct.info.backend_pid}
        # With a function that inserts for its caller, a role that may call it may insert.
        run(
            owner,
            "CREATE FUNCTION public.add() RETURNS void LANGUAGE sql SECURITY DEFINER "
            f"AS $${insert}$$",
        )
        assert idle.info.backend_pid in await holders(watcher)
        run(owner, "REVOKE EXECUTE ON FUNCTION public.add() FROM PUBLIC")
        assert idle.info.backend_pid not in await holders(watcher)
        run(owner, f"GRANT EXECUTE ON FUNCTION public.add() TO {reader}")
        assert idle.info.backend_pid in await holders(watcher)
        run(owner, "DROP FUNCTION public.add()")
        run(owner, "CREATE VIEW public.log AS SELECT * FROM pgmem.events")
        assert idle.info.backend_pid in await holders(watcher)
        for session in (member, direct, idle):
            session.close()
    finally:
        run(owner, f"DROP ROLE {writer}_member")


def test_migration_reports_the_reader_that_blocks_it_and_lets_writers_pass(roles, monkeypatch):
    """DDL queues behind a reader's open transaction, and every append queues behind the DDL."""
    monkeypatch.setattr(sessions, "LOCK_TIMEOUT", 0.2)
    reader = roles.connect("reader", autocommit=False)
    reader.execute("SELECT FROM pgmem.events")
    appended = []

    def work(connection):
        sessions.lock_schema(connection, "pgmem")
        connection.execute(text("ALTER TABLE pgmem.events ADD COLUMN more text"))

    def append():
        with Memory(roles.database) as memory:
            while not done.is_set():
                appended.append(memory.events.append("s", Event(type="t")))

    done = Flag()
    writer = Thread(target=append)
    writer.start()
    try:
        with pytest.raises(Unavailable, match=f"pid {reader.info.backend_pid} .role pgmem_reader"):
            sessions.run_with_retries(migrate.engine(roles.database), "pgmem", work, give_up=2)
        before = len(appended)
        while len(appended) < before + 5:
            assert writer.is_alive()
    finally:
        done.set()
        writer.join()
    reader.rollback()
    sessions.run_with_retries(migrate.engine(roles.database), "pgmem", work, give_up=2)


async def test_restore_reports_the_session_that_blocks_it(form, roles, tmp_path, monkeypatch):
    """Try again, and name the session, instead of stopping every append."""
    monkeypatch.setattr(archive, "LOCK_TRIES", 2)
    monkeypatch.setattr(sync_archive, "LOCK_TRIES", 2)
    async with form.memory() as memory:
        await fill(memory, 10)
        (file,) = await exported(memory, tmp_path, max_events=2)
        run(roles.database, "SELECT setval('pgmem.events_position_seq', 5)")
        reader = roles.connect("reader", autocommit=False)
        reader.execute(PREPARE)
        with pytest.raises(Unavailable, match=f"pid {reader.info.backend_pid} .role pgmem_reader"):
            await memory.retention.restore(file)
        await memory.state.put("k", 1, record=False)
        reader.rollback()
        assert (await memory.retention.restore(file)).restored == 8


@pytest.mark.both_forms
async def test_forged_event_is_not_delivered_where_inlining_is_off(form, roles):
    """Send an event that is in no log, as a role that knows the channel."""
    migrate.set_inline(False, roles.database)
    forged = [1, 2, "s", None, "paid", '{"to": "mallory"}', "bank", None, "2026-01-01T00:00:00Z"]
    async with (
        form.memory(agent_id="bank") as memory,
        form.memory() as reader,
        reader.events.subscribe("s", after=0, durable="ledger") as subscription,
    ):
        await memory.events.append("s", Event(type="paid", payload=1))
        received = list(await subscription.receive(10, timeout=5))
        attacker = roles.connect("agent")
        (channel,) = attacker.execute("SELECT channel FROM pgmem.meta").fetchone()
        payload = json.dumps([1, [*forged[1:], None, None, None, None, None]])
        attacker.execute("SELECT pg_notify(%s, %s)", [channel, payload])
        received += await subscription.receive(10, timeout=0.5)
        await memory.events.append("s", Event(type="paid", payload=2))
        received += await subscription.receive(10, timeout=5)
        assert [event.payload for event in received] == [1, 2]


@pytest.mark.both_forms
async def test_held_notification_locks_do_not_silence_writers(form, roles, monkeypatch):
    """Hold both locks for ever, as a role that may only connect."""
    monkeypatch.setattr(silence, "SECONDS", 0.0)
    async with (
        form.memory(agent_id="a") as memory,
        form.memory(safety_poll=60) as reader,
        reader.events.subscribe("s", after="now") as subscription,
    ):
        (channel,) = run(roles.database, "SELECT channel FROM pgmem.meta")[0]
        attacker = roles.connect("other")
        for crowded in (False, True):
            key = sql.notify_lock(channel, crowded=crowded)  # It is also in pg_locks.
            attacker.execute("SELECT pg_advisory_lock(%s)", [key])
        for n in range(silence.STATEMENTS + 3):
            await memory.events.append("s", Event(type="t", payload=n))
        received = []
        while len(received) < silence.STATEMENTS + 3:
            found = await subscription.receive(100, timeout=10)
            assert found, "writers were silent"
            received += found
