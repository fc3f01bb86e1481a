"""`Memory(timeout=)` bounds the database's part of every call.

`test_*_20` shows: no lock lets a call outlive its timeout. Each test would hang without the bound.
"""

# ruff: noqa: PT012  # the commit at the end of a block raises

from __future__ import annotations

import contextlib

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import OutcomeUnknown, PgmemError, TransactionConflict, Unavailable
from tests.support.database import lock_waits
from tests.support.waiting import until

pytestmark = pytest.mark.both_forms


@pytest.fixture
async def hurried(form):
    async with form.memory(timeout=1.5) as memory:
        await memory.state.put("k", 1)
        yield memory


@pytest.fixture
def lock(database_url):
    """Hold a lock that the statement waits for, until the block ends."""

    @contextlib.contextmanager
    def hold(statement):
        with psycopg.connect(database_url) as connection:
            connection.execute(statement)
            yield connection

    return hold


ROW = "SELECT FROM pgmem.state WHERE key = 'k' FOR UPDATE"
TABLES = "LOCK TABLE pgmem.state, pgmem.events IN ACCESS EXCLUSIVE MODE"


async def test_a_write_that_waits_for_a_lock_is_given_up_20(hurried, lock):
    with lock(ROW), pytest.raises(OutcomeUnknown, match="did not answer within"):
        await hurried.state.put("k", 2)


async def test_a_read_that_waits_for_a_lock_is_given_up_20(hurried, lock):
    with lock(TABLES):
        with pytest.raises(Unavailable, match="did not answer within"):
            await hurried.state.get("k")
        with pytest.raises(OutcomeUnknown):
            await hurried.events.append("s", Event(type="t"))


async def test_what_is_given_up_does_not_take_effect_later(hurried, lock, database_url):
    """Cancel the statement on the server, so that it does not write when the lock is free."""
    with lock(ROW):
        with pytest.raises(OutcomeUnknown):
            await hurried.state.put("k", 2)
        with psycopg.connect(database_url, autocommit=True) as connection:
            # The cancel request is sent in the background.
            await until(lambda: not lock_waits(connection))
    assert (await hurried.state.get("k")).value == 1


async def test_a_statement_in_a_transaction_is_given_up_20(hurried, lock):
    with lock(ROW), pytest.raises((Unavailable, TransactionConflict)):
        async with hurried.transaction() as tx:
            await tx.state.put("other", 1)
            await tx.state.put("k", 2)
    assert await hurried.state.get("other") is None


@contextlib.asynccontextmanager
async def connected(form):
    """Connect as a caller does that has a connection of its own."""
    if form.name == "sync":
        with contextlib.closing(psycopg.connect(form.url)) as connection:
            yield connection
    else:
        connection = await psycopg.AsyncConnection.connect(form.url)
        try:
            yield connection
        finally:
            await connection.close()


async def test_a_statement_on_the_callers_connection_is_given_up_20(form, hurried, lock):
    async with connected(form) as connection:
        bound = hurried.using(connection)
        with lock(ROW), pytest.raises(Unavailable, match="nothing of it was committed"):
            await bound.state.put("k", 2)
        with pytest.raises(PgmemError):  # Its transaction is over.
            await bound.state.get("k")
        if isinstance(connection, psycopg.AsyncConnection):
            await connection.rollback()
        else:
            connection.rollback()
        assert (await bound.state.get("k")).value == 1


async def test_an_optimistic_commit_is_given_up_20(hurried, lock):
    with lock(ROW), pytest.raises((Unavailable, OutcomeUnknown)):
        async with hurried.optimistic(idempotency_key="key") as tx:
            await tx.state.put("k", 2)
    async with hurried.optimistic(idempotency_key="key") as tx:
        await tx.state.put("k", 2)
    assert tx.committed.versions == {"k": 2}


async def test_afterwards_the_memory_works(hurried, lock):
    with lock(ROW), pytest.raises(OutcomeUnknown):
        await hurried.state.put("k", 2)
    assert (await hurried.state.put("k", 3)).value == 3


def test_the_callers_own_statements_are_not_bounded(database_url):
    with Memory(database_url, timeout=1.5) as memory, memory.transaction() as tx:
        tx.state.put("k", 1)
        tx.connection.execute("SELECT pg_sleep(2)")
    with Memory(database_url) as memory:
        assert memory.state.get("k").value == 1
