"""Roles that do what they were not granted: real roles in sessions of their own."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem import Event
from pgmem.core import statements as sql
from pgmem.core.libpq import compile_statement
from tests.support.database import sql as run
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
    """A session that is missing in the list would lose readers an event."""
    insert = "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')"
    writer, reader, owner = roles.name("writer"), roles.name("reader"), roles.database
    run(owner, f"CREATE ROLE {writer}_member LOGIN NOINHERIT IN ROLE {writer}")
    try:
        watcher = roles.connect("reader")
        member = psycopg.connect(make_conninfo(owner, user=f"{writer}_member"))
        member.execute(f"SET ROLE {writer}")
        direct = roles.connect("writer", autocommit=False)
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
