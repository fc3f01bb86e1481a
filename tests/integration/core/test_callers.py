"""Give using() the connections that callers and their frameworks make."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from functools import partial

import django
import psycopg
import pytest
import sqlalchemy as sa
from django.conf import settings
from django.db import connection as django_connection
from django.db import connections, transaction
from psycopg import rows
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types.json import set_json_loads
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from pgmem import AsyncMemory, Event
from pgmem.errors import CallbackFailed, InvalidInput
from tests.integration.core.test_environments import caller, check, maybe, write
from tests.integration.core.test_transactions import alchemy_url


class Wrong(Loader):
    def load(self, data):
        return "wrong"


class WrongBinary(Wrong):
    format = Format.BINARY


class WrongText(Dumper):
    def dump(self, obj):
        return b"wrong"


def wrong_loaders(connection):
    for name in ("text", "int8", "float8", "bool", "timestamptz", "json"):
        connection.adapters.register_loader(name, Wrong)
        connection.adapters.register_loader(name, WrongBinary)


SETUPS = {
    "client cursor": ({"cursor_factory": (psycopg.ClientCursor, psycopg.AsyncClientCursor)}, None),
    "raw cursor": ({"cursor_factory": (psycopg.RawCursor, psycopg.AsyncRawCursor)}, None),
    "dict rows": ({"row_factory": (rows.dict_row, rows.dict_row)}, None),
    "scalar rows": ({"row_factory": (rows.scalar_row, rows.scalar_row)}, None),
    "wrong loaders": ({}, wrong_loaders),
    "wrong dumper": ({}, lambda c: c.adapters.register_dumper(str, WrongText)),
    "JSON with Decimal": (
        {}, lambda c: set_json_loads(partial(json.loads, parse_float=Decimal), c)
    ),
    "never prepared": ({"prepare_threshold": (None, None)}, None),
    "prepared at once": ({"prepare_threshold": (0, 0)}, None),
}  # fmt: skip


@pytest.mark.parametrize("setup", SETUPS)
async def test_a_connection_may_be_set_up_in_any_way(form, database_url, setup):
    options, prepare = SETUPS[setup]
    chosen = {name: pair[form.name == "async"] for name, pair in options.items()}
    async with form.memory() as memory, caller(form.name, database_url, **chosen) as connection:
        if prepare:
            prepare(connection)
        await write(memory.using(connection), "text")
        await maybe(connection.commit())
        await check(memory, "text")


@asynccontextmanager
async def pipeline(connection):
    block = connection.pipeline()
    if isinstance(connection, psycopg.AsyncConnection):
        async with block:
            yield
    else:
        with block:
            yield


async def test_pipeline_mode_is_refused(form, database_url):
    async with form.memory() as memory, caller(form.name, database_url) as connection:
        bound = memory.using(connection)
        async with pipeline(connection):
            with pytest.raises(InvalidInput, match=r"connection\.pipeline"):
                await bound.state.put("k", 1)
        await bound.state.put("k", 2)
        await maybe(connection.commit())
        async with memory.transaction() as tx:
            async with pipeline(tx.connection):
                with pytest.raises(InvalidInput, match="pipeline mode"):
                    await tx.state.get("k")
            assert (await tx.state.get("k")).value == 2


# two-phase commit


async def test_a_two_phase_transaction_can_be_prepared(form, database_url):
    """Notify in no statement, as PostgreSQL would refuse to prepare the transaction."""
    async with (
        form.memory(safety_poll=0.2) as memory,
        caller(form.name, database_url) as connection,
        memory.events.subscribe("keyed") as subscription,
    ):
        await maybe(connection.tpc_begin("pgmem-test"))
        await write(memory.using(connection), "text")
        await maybe(connection.tpc_prepare())
        assert await memory.events.count() == 0
        await maybe(connection.tpc_commit())
        (event,) = await subscription.receive(timeout=30)
        assert event.type == "text"
        await check(memory, "text")


def test_a_two_phase_session_of_sqlalchemy_commits(memory, database_url):
    engine = sa.create_engine(alchemy_url(database_url), poolclass=NullPool)
    with Session(engine, twophase=True) as session, session.begin():
        bound = memory.using(session)
        bound.events.append("s", Event(type="t"))
        with pytest.raises(CallbackFailed):
            bound.dedupe.run_once("work", lambda: 1 / 0)
        assert bound.dedupe.run_once("work", lambda: 1).status == "processed"
    assert memory.events.count("s") == 1


# savepoints that the framework knows


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]


@contextmanager
def sync_session(url):
    engine = sa.create_engine(alchemy_url(url), poolclass=NullPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def test_a_session_learns_that_run_once_undid_its_objects(memory, database_url):
    with sync_session(database_url) as session:
        order = Order(id=1, state="open")
        session.add(order)
        session.flush()

        def fail():
            order.state = "paid"
            session.add(Order(id=2, state="new"))
            session.flush()
            raise ZeroDivisionError

        with pytest.raises(CallbackFailed):
            memory.using(session).dedupe.run_once("work", fail)
        assert order.state == "open"
        session.add(Order(id=2, state="again"))  # The session does not think that there is one.
        session.commit()
        assert session.scalars(sa.select(Order.state).order_by(Order.id)).all() == ["open", "again"]


async def test_an_async_session_learns_that_run_once_undid_its_objects(database_url):
    with sync_session(database_url):
        engine = create_async_engine(alchemy_url(database_url), poolclass=NullPool)
    async with AsyncMemory(database_url) as memory, AsyncSession(engine) as session:
        order = Order(id=1, state="open")
        session.add(order)
        await session.flush()

        async def fail():
            order.state = "paid"
            await session.flush()
            raise ZeroDivisionError

        with pytest.raises(CallbackFailed):
            await memory.using(session).dedupe.run_once("work", fail)
        await session.refresh(order)
        assert order.state == "open"
        await memory.using(session).dedupe.run_once("work", lambda: 1)
        await session.commit()
        assert not session.in_nested_transaction()
    await engine.dispose()


# Django


@pytest.fixture
def alias(database_url):
    """The name of a connection of Django's to the test's database."""
    if not settings.configured:
        settings.configure(DATABASES={})
        django.setup()
    info = psycopg.conninfo.conninfo_to_dict(database_url)
    connections.settings = connections.configure_settings(
        {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": info["dbname"],
                "USER": info["user"],
                "PASSWORD": info.get("password", ""),
                "HOST": info["host"],
                "PORT": str(info.get("port", 5432)),
            }
        }
    )
    yield "default"
    connections["default"].close()
    del connections["default"]


@pytest.mark.parametrize("proxy", [True, False])
def test_django_commits_and_rolls_back_with_its_own_blocks(memory, alias, proxy):
    given = django_connection if proxy else connections[alias]
    called = []
    with pytest.raises(InvalidInput, match=r"transaction\.atomic"):
        memory.using(given).state.put("k", 0)
    with transaction.atomic():
        bound = memory.using(given)
        bound.state.put("k", 1)

        def fail():
            transaction.on_commit(lambda: called.append("undone"))
            raise ZeroDivisionError

        with pytest.raises(CallbackFailed):
            bound.dedupe.run_once("work", fail)
        bound.dedupe.run_once("work", lambda: transaction.on_commit(lambda: called.append("done")))
    assert memory.state.get("k").value == 1
    assert called == ["done"]

    def roll_back():
        with transaction.atomic():
            memory.using(given).state.put("k", 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        roll_back()
    assert memory.state.get("k").value == 1


# the memory inside its own transaction


@pytest.mark.filterwarnings("error")
async def test_a_call_on_the_memory_inside_its_own_transaction_warns_once(form):
    async with form.memory() as memory, memory.transaction() as tx:
        with pytest.warns(RuntimeWarning, match="get state 'k'.*inside its own") as caught:
            await memory.state.get("k")
        await memory.state.get("k")  # A second warning would be an error of this test.
        await tx.state.get("k")
    if form.name == "async":
        assert caught[0].filename == __file__


async def test_a_second_transaction_inside_the_first_warns(form):
    async with form.memory() as memory, memory.transaction():
        with pytest.warns(RuntimeWarning, match=r"transaction\(\) block"):
            async with memory.transaction():
                pass


@pytest.mark.filterwarnings("error")
async def test_calls_beside_a_transaction_do_not_warn(form, database_url):
    """Other tasks, other memories, after the block, and what a lease needs inside it."""
    async with form.memory() as memory, form.memory() as other:
        lease = await memory.leases.acquire("lease", ttl=60)
        begun, done = asyncio.Event(), asyncio.Event()

        async def beside():
            await begun.wait()
            await memory.state.put("beside", 1)
            done.set()

        task = asyncio.create_task(beside())
        async with memory.transaction() as tx:
            begun.set()
            await done.wait()
            await tx.state.put("k", 1)
            await other.state.get("k")
            await maybe(lease.renew())
        await memory.state.put("k", 2)
        await maybe(lease.release())
        await task
