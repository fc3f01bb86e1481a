"""One transaction: event, state, mark and the user's own rows, or nothing."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgmem import AsyncMemory, Event, Memory
from pgmem.admin.tables import tables
from pgmem.errors import (
    IdempotencyMismatch,
    InvalidInput,
    NotOpen,
    OutcomeUnknown,
    TransactionConflict,
    Unavailable,
    VersionConflict,
)
from tests.support.both import execute

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture
def orders(database_url):
    """The user's own table."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")


def rows(url, query="SELECT id FROM orders ORDER BY id"):
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(query)]


def alchemy_url(url, driver="postgresql+psycopg"):
    info = psycopg.conninfo.conninfo_to_dict(url)
    return sa.URL.create(
        driver,
        username=info["user"],
        password=info.get("password"),
        database=info["dbname"],
        query={"host": info["host"], "port": str(info.get("port", 5432))},
    )


async def everything(tx, n=1):
    """Append an event, put an entry and add a dedupe record."""
    await tx.events.append("s", Event(type="t", payload=n))
    await tx.events.append("s", Event(type="t", payload=n), idempotency_key=f"k{n}")
    await tx.state.put(f"key{n}", n)
    await tx.dedupe.run_once(f"work{n}", lambda: n)


async def left_behind(memory, url):
    """Return the events, entries and dedupe records that a reader finds."""
    marks = rows(url, "SELECT count(*) FROM pgmem.dedupe")[0]
    return await memory.events.count("s"), len(await memory.state.list("key")), marks


@pytest.mark.usefixtures("orders")
async def test_all_of_it_commits_together(both, database_url):
    async with both.transaction() as tx:
        await everything(tx)
        await execute(tx.connection, "INSERT INTO orders VALUES (1)")
        assert await left_behind(both, database_url) == (0, 0, 0)
    assert await left_behind(both, database_url) == (2, 1, 2)
    assert rows(database_url) == [1]


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("failure", ["in the block", "in the user's statement"])
async def test_nothing_of_it_stays_after_a_failure(both, database_url, failure):
    async def fail():
        async with both.transaction() as tx:
            await everything(tx)
            await execute(tx.connection, "INSERT INTO orders VALUES (1)")
            if failure == "in the block":
                raise RuntimeError
            await execute(tx.connection, "INSERT INTO orders VALUES (1)")

    with pytest.raises((RuntimeError, psycopg.errors.UniqueViolation)):
        await fail()
    assert await left_behind(both, database_url) == (0, 0, 0)
    assert rows(database_url) == []


async def test_conflicts_leave_the_transaction_usable(both):
    await both.events.append("v", Event(type="t"), expected_version=0, idempotency_key="k")
    async with both.transaction() as tx:
        await tx.state.put("key", 1)
        for conflict in (
            tx.state.create("key", 2),
            tx.state.compare_and_set("key", 2, expected_version=9),
            tx.state.delete("key", expected_version=9),
            tx.events.append("v", Event(type="t"), expected_version=0),
            tx.events.append("v", Event(type="t"), expected_version=0, idempotency_key="k2"),
        ):
            with pytest.raises(VersionConflict):
                await conflict
        with pytest.raises(IdempotencyMismatch):
            await tx.events.append("v", Event(type="other"), idempotency_key="k")
        await tx.state.put("key", 3)
    assert (await both.state.get("key")).value == 3


async def test_lost_version_race_leaves_the_transaction_usable(both, database_url):
    """Conflict with a version that is not committed yet, which only the unique index shows."""
    with psycopg.connect(database_url) as rival_connection:
        rival = Memory(database_url)
        rival.open()
        rival.using(rival_connection).events.append("v", Event(type="t"), expected_version=0)

        async def commit_later():
            await asyncio.sleep(0.2)
            await asyncio.to_thread(rival_connection.commit)

        def lose(key):
            with Memory(database_url) as memory, memory.transaction() as tx:
                tx.state.put(f"before {key}", 1)
                with pytest.raises(VersionConflict) as conflict:
                    tx.events.append("v", Event(type="t"), expected_version=0, idempotency_key=key)
                tx.state.put(f"after {key}", 1)
                return conflict.value.actual

        actual, without_key, _ = await asyncio.gather(
            asyncio.to_thread(lose, "k"), asyncio.to_thread(lose, None), commit_later()
        )
        rival.close()
    assert (actual, without_key) == (1, 1)
    assert len(await both.state.list()) == 4


async def test_a_swallowed_failure_is_not_a_commit(both, database_url):
    """COMMIT of a failed transaction rolls back without a word: pgmem must not."""

    async def swallow_last():
        async with both.transaction() as tx:
            await tx.state.put("key", 1)
            with pytest.raises(psycopg.errors.UndefinedTable):
                await execute(tx.connection, "SELECT * FROM nothing")

    async def swallow_first():
        async with both.transaction() as tx:
            with pytest.raises(psycopg.errors.UndefinedTable):
                await execute(tx.connection, "SELECT * FROM nothing")
            await tx.state.put("key", 1)

    with pytest.raises(TransactionConflict, match="caught"):
        await swallow_last()
    assert await both.state.get("key") is None
    with pytest.raises(TransactionConflict, match="earlier statement"):
        await swallow_first()


async def test_block_that_was_ended_inside_is_an_error(both):
    async def end():
        async with both.transaction() as tx:
            await tx.state.put("key", 1)
            await execute(tx.connection, "COMMIT")

    with pytest.raises(InvalidInput, match="Leave commit"):
        await end()


async def test_a_finished_transaction_is_refused(both):
    async with both.transaction() as tx:
        pass
    with pytest.raises(NotOpen, match="over"):
        await tx.state.put("key", 1)


async def test_lost_connection_in_a_transaction_loses_all_of_it(both):
    async def lose():
        async with both.transaction() as tx:
            await tx.state.put("key", 1)
            pid = tx.connection.info.backend_pid
            async with both.transaction() as other:
                await execute(other.connection, "SELECT pg_terminate_backend(%s, 5000)", [pid])
            await tx.state.put("key", 2)

    with pytest.raises(Unavailable, match="nothing of it was committed"):
        await lose()
    assert await both.state.get("key") is None


async def test_lost_connection_at_commit_is_an_unknown_outcome(both):
    async def lose():
        async with both.transaction() as tx:
            await tx.state.put("key", 1)
            pid = tx.connection.info.backend_pid
            async with both.transaction() as other:
                await execute(other.connection, "SELECT pg_terminate_backend(%s, 5000)", [pid])

    with pytest.raises(OutcomeUnknown, match="during the commit"):
        await lose()


async def test_deferred_constraint_of_the_user_fails_as_the_users_own(both, database_url):
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE own (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); ")

    async def violate():
        async with both.transaction() as tx:
            await tx.state.put("key", 1)
            await execute(tx.connection, "INSERT INTO own VALUES (1), (1)")

    with pytest.raises(psycopg.errors.UniqueViolation):
        await violate()
    assert await both.state.get("key") is None


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_stricter_isolation_of_the_caller_gives_a_conflict(both, database_url, level):
    await both.state.put("key", 1)
    with psycopg.connect(database_url) as connection, Memory(database_url) as memory:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        bound = memory.using(connection)
        assert bound.state.get("key").version == 1
        memory.state.put("key", 2)
        with pytest.raises(TransactionConflict, match="whole transaction"):
            bound.state.compare_and_set("key", 3, expected_version=1)


async def test_hidden_winner_of_a_version_is_a_conflict_and_no_endless_loop(both, database_url):
    with psycopg.connect(database_url) as connection, Memory(database_url) as memory:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        bound = memory.using(connection)
        assert bound.events.version("v") == 0
        await both.events.append("v", Event(type="t"), expected_version=0)
        with pytest.raises(TransactionConflict, match="whole transaction"):
            bound.events.append("v", Event(type="t"), expected_version=0, idempotency_key="k")
        with pytest.raises(TransactionConflict, match="whole transaction"):
            bound.events.append("v", Event(type="t"), expected_version=0)


async def test_serializable_by_default_still_works(both, database_url):
    """Execute single statements on a server whose default isolation level is stricter."""
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"
        )

    def count():
        with Memory(database_url) as memory:
            for _ in range(20):
                memory.state.update("key", lambda value: (value or 0) + 1, max_retries=100)

    await asyncio.gather(*(asyncio.to_thread(count) for _ in range(4)))
    assert (await both.state.get("key")).value == 80


# using(): the caller's own transaction


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_using_a_psycopg_connection(memory, database_url, end):
    with psycopg.connect(database_url) as connection:
        bound = memory.using(connection)
        bound.events.append("s", Event(type="t"))
        bound.state.update("key", lambda value: 1)
        bound.dedupe.run_once(
            "work", lambda: connection.execute("INSERT INTO orders VALUES (1)") and 1
        )
        getattr(connection, end)()
    kept = end == "commit"
    assert (memory.events.count("s"), bool(memory.state.get("key"))) == (int(kept), kept)
    assert rows(database_url) == [1] * kept


def test_using_keeps_the_callers_settings(memory, database_url):
    """Row factory, adapters and autocommit are the caller's."""
    with psycopg.connect(database_url, row_factory=psycopg.rows.dict_row) as connection:
        bound = memory.using(connection)
        bound.state.put("key", {"n": 1})
        assert bound.state.get("key").value == {"n": 1}
        assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_using_a_connection_that_commits_each_statement_is_refused(memory, database_url):
    with psycopg.connect(database_url, autocommit=True) as connection:
        bound = memory.using(connection)
        with pytest.raises(InvalidInput, match="autocommit"):
            bound.state.put("key", 1)
        with connection.transaction():
            bound.state.put("key", 1)
    assert memory.state.get("key").version == 1


def test_run_once_does_not_end_a_transaction_that_has_not_begun(memory, database_url):
    with psycopg.connect(database_url) as connection:
        memory.using(connection).dedupe.run_once("work", lambda: 1)
        connection.rollback()
    with memory.transaction() as tx:
        assert tx.dedupe.run_once("work", lambda: 2).status == "processed"


@pytest.mark.parametrize("source", ["postgresql://", None, 5])
def test_using_something_else_is_refused(memory, source):
    with pytest.raises(InvalidInput, match="using"):
        memory.using(source).state.get("key")


@pytest.fixture
def engine(database_url):
    engine = sa.create_engine(alchemy_url(database_url), poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("kind", [sa.Connection, Session])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_using_sqlalchemy(memory, database_url, engine, kind, end):
    with engine.connect() if kind is sa.Connection else Session(engine) as source:
        source.execute(sa.text("INSERT INTO orders VALUES (1)"))
        bound = memory.using(source)
        bound.events.append("s", Event(type="t"))
        bound.state.put("key", 1)
        bound.dedupe.run_once("work", lambda: 1)
        getattr(source, end)()
    kept = end == "commit"
    assert (memory.events.count("s"), bool(memory.state.get("key"))) == (int(kept), kept)
    assert rows(database_url) == [1] * kept
    assert rows(database_url, "SELECT count(*) FROM pgmem.dedupe") == [int(kept)]


@pytest.mark.usefixtures("orders")
def test_using_a_session_that_has_done_nothing_yet(memory, engine):
    with Session(engine) as session:
        memory.using(session).state.put("key", 1)
        session.rollback()
    with Session(engine) as session, session.begin():
        memory.using(session).state.put("other", 1)
    assert [entry.key for entry in memory.state.list()] == ["other"]


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("kind", ["connection", "session", "psycopg"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_using_async(database_url, kind, end):
    engine = create_async_engine(alchemy_url(database_url), poolclass=NullPool)
    insert = "INSERT INTO orders VALUES (1)"
    async with AsyncMemory(database_url) as memory:
        if kind == "psycopg":
            source = await psycopg.AsyncConnection.connect(database_url)
            await source.execute(insert)
        else:
            source = engine.connect() if kind == "connection" else AsyncSession(engine)
            source = await source.__aenter__()
            await source.execute(sa.text(insert))
        bound = memory.using(source)
        await everything(bound)
        await getattr(source, end)()
        await source.close()
        kept = end == "commit"
        assert await left_behind(memory, database_url) == ((2, 1, 2) if kept else (0, 0, 0))
    await engine.dispose()
    assert rows(database_url) == [1] * kept


def test_own_tables_join_with_pgmems(memory, engine, orders):
    memory.state.put("order:1", {"paid": True})
    with Session(engine) as session:
        session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        state = tables().state
        mine = sa.table("orders", sa.column("id"))
        query = sa.select(mine.c.id, state.c.value["paid"].as_boolean()).join(
            state, state.c.key == sa.func.concat("order:", mine.c.id)
        )
        assert session.execute(query).all() == [(1, True)]


# durability


@pytest.mark.parametrize(("durability", "expected"), [("strict", "on"), ("relaxed", "off")])
async def test_relaxed_concerns_pgmems_own_transactions_only(form, durability, expected):
    async with form.memory(durability=durability, pool=1) as memory:
        async with memory.transaction() as tx:
            await tx.state.put("key", 1)
            assert await execute(tx.connection, "SHOW synchronous_commit") == [(expected,)]
        await memory.state.put("key", 2)
        await memory.events.append("s", Event(type="t"))
    with psycopg.connect(form.url) as connection, Memory(form.url, durability=durability) as own:
        own.using(connection).state.put("key", 3)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


async def test_relaxed_statements_commit_asynchronously(database_url):
    """Seen in the WAL: a relaxed commit does not wait for its own flush."""
    with Memory(database_url, durability="relaxed", pool=1) as memory:
        memory.state.put("key", 1)
        with memory.transaction() as tx:
            found = tx.connection.execute("SHOW synchronous_commit").fetchone()
        assert found == ("off",)
        # Nothing of it outlives the transaction: a pooler may hand the connection to others.
        link = memory._database.acquire("look at a connection")
        shown = link.execute("SHOW synchronous_commit").fetchone()
        memory._database.release(link)
        assert shown == ("on",)


async def test_a_rollback_leaves_the_next_transaction_its_statements(form, database_url, orders):
    """After a rollback psycopg deallocates all prepared statements, pgmem's among them."""
    async with form.memory(pool=1) as memory:

        async def work(number):
            async with memory.transaction() as tx:
                await execute(tx.connection, "INSERT INTO orders VALUES (%s)", [number])
                await tx.state.put("k", number)

        for number in range(3):  # Both drivers prepare what they execute more than once.
            await work(number)
        for _ in range(2):
            with pytest.raises(psycopg.errors.UniqueViolation):
                await work(0)
        await work(3)
        assert (await memory.state.get("k")).value == 3
