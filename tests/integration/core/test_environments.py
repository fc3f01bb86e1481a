"""Settings that administrators give to roles and databases change no value and fail no call."""

from __future__ import annotations

import inspect
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format

from pgmem import Event, migrate
from pgmem.errors import InvalidInput, InvalidValue, Unavailable
from tests.support.both import Both
from tests.support.server import drop_database
from tests.support.waiting import until

SETTINGS = [
    ("DateStyle", "German, DMY"),
    ("DateStyle", "SQL, MDY"),
    ("DateStyle", "Postgres, DMY"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "Asia/Ho_Chi_Minh"),
    ("TimeZone", "<+03>-03"),  # Python knows no such zone.
    ("client_encoding", "LATIN1"),
    ("client_encoding", "SQL_ASCII"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_isolation", "serializable"),
    ("search_path", ""),
    ("search_path", "other, pg_catalog"),
    ("standard_conforming_strings", "off"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("array_nulls", "off"),
    ("row_security", "off"),
    ("synchronous_commit", "off"),
    ("statement_timeout", "20s"),
    ("lock_timeout", "20s"),
    ("idle_in_transaction_session_timeout", "20s"),
]

ENCODINGS = [("SQL_ASCII", "đơn ☂ 𝄞"), ("LATIN1", "Müller é"), ("EUC_JP", "振込")]

TEXT = "Nguyễn ☂ 𝄞 \\n ' \" %"
NUMBER = 0.1 + 0.2  # 17 digits


def alter(url, name, value):
    """Set a default of the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS other")
        # A function of the caller's that an unqualified call would find first.
        connection.execute(
            "CREATE OR REPLACE FUNCTION other.pg_notify(text, text) RETURNS void "
            "LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$"
        )
        database = sql.Identifier(connection.info.dbname)
        setting = sql.SQL("ALTER DATABASE {} SET {} = {}")
        # A list of schemas is not one name in quotes.
        given = sql.SQL(value) if name == "search_path" and value else sql.Literal(value)
        connection.execute(setting.format(database, sql.SQL(name), given))


async def maybe(result):
    """Await what a connection of either form returned."""
    return await result if inspect.isawaitable(result) else result


@asynccontextmanager
async def caller(form, url, **options):
    """Open a psycopg connection of one form, as a caller of `using()` has it."""
    if form == "async":
        async with await psycopg.AsyncConnection.connect(url, **options) as connection:
            yield connection
    else:
        with psycopg.connect(url, **options) as connection:
            yield connection


def is_now(moment):
    return moment.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - moment) < timedelta(
        minutes=5
    )


async def write(memory, text):
    """Call the verbs that write, of a memory or of a transaction."""
    payload = {"text": text, "number": NUMBER}
    await memory.events.append("keyed", Event(type=text, payload=payload))
    await memory.events.append("batch", [Event(type="t", payload=payload), Event(type="t")])
    await memory.events.append("versioned", [Event(type="t")] * 2, expected_version=0)
    for _ in range(2):
        await memory.events.append("once", Event(type="t"), idempotency_key=text)
    entry = await memory.state.put("put", payload, ttl=3600)
    assert entry.version == 1
    assert (await memory.state.update("update", lambda held: (held or 0) + NUMBER)).value == NUMBER
    assert (await memory.state.increment("number", 3)).value == 3
    await memory.state.delete("update")
    for _ in range(2):
        assert (await memory.dedupe.run_once(text, lambda: payload)).result == payload
    assert (await memory.limits.acquire("limit", rate=100, burst=50)).granted
    await memory.folds.save("fold", payload, position=1)
    assert (await memory.folds.load("fold")).value == payload


async def check(memory, text):
    """Check what `write` has written once, by the verbs that read."""
    payload = {"text": text, "number": NUMBER}
    (event,) = await memory.events.read("keyed")
    assert (event.type, event.payload) == (text, payload)
    assert is_now(event.recorded_at)
    assert [e.payload for e in await memory.events.read("batch")] == [payload, None]
    assert await memory.events.count("once") == 1
    assert await memory.events.version("versioned") == 2
    entry = await memory.state.get("put")
    assert entry.value == payload
    assert is_now(entry.updated_at)
    assert is_now(entry.expires_at - timedelta(hours=1))
    assert await memory.state.get("update") is None
    assert [e.key for e in await memory.state.search("", where={"number": NUMBER})] == ["put"]


async def follow(memory, text):
    """Call the verbs that wait, claim and follow."""
    lease = await memory.leases.acquire("lease", ttl=60, timeout=0)
    assert is_now((await memory.leases.get("lease")).expires_at - timedelta(minutes=1))
    await lease.release()
    group = await memory.groups.create("group", stream="keyed")
    (delivery,) = await group.read(text)
    assert delivery.event.type == text
    await delivery.ack()
    async with memory.events.subscribe("keyed", durable=text, after=0) as subscription:
        (event,) = await subscription.receive(timeout=30)
        assert event.type == text
    async with memory.events.subscribe("live", after="now") as subscription:
        await memory.events.append("live", Event(type="t", payload=text))
        (event,) = await subscription.receive(timeout=30)
        assert (event.payload, is_now(event.recorded_at)) == (text, True)
    snapshot = await memory.state.snapshots.take()
    assert is_now(snapshot.taken_at)


async def everything(form, text):
    async with form.memory() as memory:
        await write(memory, text)
        await check(memory, text)
        await follow(memory, text)
    async with form.memory() as memory, memory.transaction() as tx:
        await tx.events.append("tx", Event(type="t", payload=text))
        assert [event.payload for event in await tx.events.read("tx")] == [text]


@pytest.mark.both_forms
@pytest.mark.parametrize("form_name", ["async", "sync"])
@pytest.mark.parametrize(("name", "value"), SETTINGS)
async def test_a_setting_changes_nothing(form_name, make_database, name, value):
    url = make_database(template=True)
    alter(url, name, value)
    await everything(Both(form_name, url), TEXT)
    assert migrate.check(url) == []


@pytest.mark.parametrize("form_name", ["async", "sync"])
@pytest.mark.parametrize(("name", "value"), SETTINGS)
async def test_a_setting_changes_nothing_on_the_callers_connection(
    form_name, make_database, name, value
):
    """Give using() a connection with all settings of the database, client_encoding too."""
    url = make_database(template=True)
    alter(url, name, value)
    text = "Müller é" if value == "LATIN1" else TEXT
    async with Both(form_name, url).memory() as memory, caller(form_name, url) as connection:
        await write(memory.using(connection), text)
        await maybe(connection.commit())
        await check(memory, text)
        if value == "LATIN1":
            with pytest.raises(InvalidValue, match="client_encoding"):
                await memory.using(connection).state.put("refused", "☂")


@pytest.fixture(params=ENCODINGS, ids=lambda given: given[0])
def encoded(request, pg_server_url):
    """The URL of a migrated database in another encoding, the encoding, and a text that it has."""
    encoding, text = request.param
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(pg_server_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        )
    url = psycopg.conninfo.make_conninfo(pg_server_url, dbname=name)
    migrate.upgrade(url)
    yield url, encoding, text
    drop_database(pg_server_url, name)


@pytest.mark.parametrize("form_name", ["async", "sync"])
async def test_a_text_is_kept_or_refused_in_a_database_of_another_encoding(form_name, encoded):
    url, encoding, text = encoded
    await everything(Both(form_name, url), text)
    async with Both(form_name, url).memory() as memory:
        if encoding != "SQL_ASCII":
            before = await memory.events.count()
            with pytest.raises(InvalidValue, match="encoding of the database"):
                await memory.state.put("refused", "𝄞")
            assert await memory.state.get("refused") is None
            assert await memory.events.count() == before


@pytest.mark.parametrize("form_name", ["async", "sync"])
async def test_a_client_in_sql_ascii_is_refused_where_bytes_would_be_mixed(form_name, encoded):
    url, encoding, text = encoded
    async with (
        Both(form_name, url).memory() as memory,
        caller(form_name, url, client_encoding="SQL_ASCII") as connection,
    ):
        bound = memory.using(connection)
        if encoding == "SQL_ASCII":
            await bound.state.put("k", text)
            await maybe(connection.commit())
            assert (await memory.state.get("k")).value == text
        else:
            with pytest.raises(InvalidInput, match="client_encoding=UTF8"):
                await bound.state.put("k", "ascii")


@pytest.mark.parametrize("form_name", ["async", "sync"])
async def test_a_read_only_default_refuses_writes_and_leaves_reads(form_name, make_database):
    url = make_database(template=True)
    async with Both(form_name, url).memory() as memory:
        await memory.events.append("s", Event(type="t"))
    alter(url, "default_transaction_read_only", "on")
    async with Both(form_name, url).memory() as memory:
        with pytest.raises(Unavailable, match="default_transaction_read_only"):
            await memory.state.put("k", 1)
        assert [event.type for event in await memory.events.read()] == ["t"]
        async with memory.events.subscribe("s", after=0) as subscription:
            assert len(await subscription.receive(timeout=30)) == 1


@pytest.mark.parametrize("form_name", ["async", "sync"])
async def test_what_the_process_registers_with_psycopg_is_not_used(
    form_name, database_url, monkeypatch
):
    """Change psycopg's global adapters, as a program may after it has imported pgmem."""

    class Wrong(Loader):
        def load(self, data):
            return "wrong"

    monkeypatch.setattr(psycopg.postgres, "adapters", AdaptersMap(psycopg.adapters))
    for name in ("text", "int8", "timestamptz", "bool"):
        for loader in (Wrong, type("WrongBinary", (Wrong,), {"format": Format.BINARY})):
            psycopg.postgres.adapters.register_loader(name, loader)
    await everything(Both(form_name, database_url), TEXT)


@pytest.mark.parametrize("form_name", ["async", "sync"])
@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
async def test_a_statement_that_the_server_ends_changes_nothing(form_name, make_database, setting):
    url = make_database(template=True)
    alter(url, setting, "100ms")
    async with Both(form_name, url).memory() as memory:
        await memory.state.put("k", 1)
        with psycopg.connect(url) as connection:
            connection.execute("SET statement_timeout = 0")
            connection.execute("SELECT FROM pgmem.state FOR UPDATE")
            with pytest.raises(Unavailable, match=f"{setting}|{setting.replace('_', ' ')}"):
                await memory.state.put("k", 2)
        assert (await memory.state.get("k")).value == 1


@pytest.mark.both_forms
@pytest.mark.parametrize("form_name", ["async", "sync"])
async def test_a_durable_subscription_goes_on_after_its_commit_was_ended(form_name, make_database):
    url = make_database(template=True)
    alter(url, "lock_timeout", "100ms")
    handled = []
    async with Both(form_name, url).memory() as memory:
        async with memory.events.subscribe("s", durable="durable", after=0) as subscription:
            for number in range(3):
                await memory.events.append("s", Event(type="t", payload=number))
                with psycopg.connect(url) as connection:
                    if number == 1:
                        connection.execute("SELECT FROM pgmem.subscriptions FOR UPDATE")
                    handled += [event.payload for event in await subscription.receive(timeout=30)]
                    await subscription.receive(timeout=0.5)  # It commits.
        assert handled == [0, 1, 2]
        (stored,) = await memory.subscriptions.list()
        assert stored.position == await memory.events.head()


@pytest.mark.both_forms
@pytest.mark.parametrize("form_name", ["async", "sync"])
async def test_a_transaction_that_the_server_ended_is_not_committed(form_name, make_database):
    """Learn from the server why it has ended the session, so the outcome is known."""
    url = make_database(template=True)
    alter(url, "idle_in_transaction_session_timeout", "50ms")

    async def stand_still(memory):
        async with memory.transaction() as tx:
            await tx.state.put("k", 1)
            pid = tx.connection.info.backend_pid
            with psycopg.connect(url, autocommit=True) as connection:
                query = "SELECT FROM pg_stat_activity WHERE pid = %s"
                await until(lambda: connection.execute(query, [pid]).fetchone() is None)

    async with Both(form_name, url).memory() as memory:
        with pytest.raises(Unavailable, match="Nothing was committed"):
            await stand_still(memory)
        assert await memory.state.get("k") is None
