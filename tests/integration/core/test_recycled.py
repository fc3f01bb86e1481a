"""The database that one test after the other gets is as new, or another one."""

from __future__ import annotations

import psycopg
import pytest

from pgmem import Event, Memory
from tests.support.server import Recycled


@pytest.fixture
def database(pg_server_url):
    recycled = Recycled(pg_server_url)
    yield recycled
    recycled.drop()


def use(url):
    """Write to each table; gives what a new database gives."""
    with Memory(url) as memory:
        first = memory.events.append("s", Event(type="t"), idempotency_key="k", expected_version=0)
        entry = memory.state.put("k", 1)
        claim = memory.dedupe.claim("w")
        memory.folds.save("fold", 1, position=1)
        taken = memory.state.snapshots.take()
        return first.position, first.duplicate, entry.version, claim.token, taken.id


def test_what_was_written_is_gone_and_every_number_begins_again(database):
    with database.lend() as url:
        found = use(url)
    with database.lend() as again:
        assert again == url
        with psycopg.connect(url) as connection:
            for table in ("events", "state", "dedupe", "fold_snapshots", "state_snapshots"):
                query = f"SELECT count(*), pg_relation_size('pgmem.{table}') FROM pgmem.{table}"
                assert connection.execute(query).fetchone() == (0, 0)
        assert use(again) == found


CHANGES = [
    "CREATE TABLE mine ()",
    "CREATE SCHEMA mine",
    "DROP INDEX pgmem.events_type_position_idx",
    "ALTER TABLE pgmem.state ALTER version DROP NOT NULL",
    "ALTER TABLE pgmem.state SET (fillfactor = 100)",
    "ALTER TABLE pgmem.events DISABLE TRIGGER events_refuse_change",
    "ALTER FUNCTION pgmem.refuse_change() RESET ALL",
    "ALTER SEQUENCE pgmem.dedupe_token_seq CYCLE",
    "GRANT SELECT ON pgmem.events TO public",
    "UPDATE pgmem.pgmem_version SET version_num = '9999'",
    "UPDATE pgmem.meta SET channel = channel",
    "INSERT INTO pgmem.state (key, value, version) VALUES ('k', '1', 1); ANALYZE pgmem.state",
    "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 99', current_database()); END$$",
    "DROP SCHEMA pgmem CASCADE",
]


def test_a_database_that_was_changed_is_not_used_again(database):
    with database.lend() as url:
        for change in CHANGES:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(change)
            assert not database._renewed(), change
            if change != CHANGES[-1]:
                # On with the next change, as if this database were a new one.
                with psycopg.connect(url, autocommit=True) as connection:
                    database._known = database._take_stock(connection)
    with database.lend() as other:
        assert other != url


@pytest.mark.parametrize("left", ["a session", "a prepared transaction"])
def test_what_is_left_open_is_not_left_to_the_next_test(database, left):
    with psycopg.connect(database._server, autocommit=True) as admin:
        limit = admin.execute("SHOW max_prepared_transactions").fetchone()[0]
    if left == "a prepared transaction" and limit == "0":
        pytest.skip("this server prepares no transactions")
    with database.lend() as url:
        session = psycopg.connect(url, autocommit=True)
        if left == "a prepared transaction":
            session.execute("BEGIN; CREATE TABLE mine (); PREPARE TRANSACTION 'left'")
        assert not database._renewed()
        if left == "a prepared transaction":
            session.execute("ROLLBACK PREPARED 'left'")
        session.close()
