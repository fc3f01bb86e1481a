"""Up, down, where it stands, at once by two, under another's rules: on a real server."""

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import psycopg
import pytest
from alembic.config import main as alembic_main
from psycopg.conninfo import make_conninfo

from pgmem import AsyncMemory, migrate
from pgmem.core.names import SCHEMA_REVISION
from pgmem.errors import InvalidInput, PermissionDenied, SchemaError, Unavailable

CHECKOUT = Path(__file__).resolve().parents[3]


def run(url, query, *arguments):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, arguments or None)
        return cursor.fetchall() if cursor.description else []


def objects(url):
    """List the relations, functions and schemas of a database, without the server's own."""
    return run(
        url,
        """
        SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE nspname !~ '^(pg_|information_schema)'
        UNION ALL SELECT nspname, proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
         WHERE nspname !~ '^(pg_|information_schema)' ORDER BY 1, 2""",
    )


@pytest.fixture
def make_role(make_database, pg_server_url):
    """Makes a role without rights; gives a url that acts as it."""
    made = []

    def make(url):
        name = f"pgmem_test_{uuid.uuid4().hex[:10]}"
        run(url, f"CREATE ROLE {name}")
        made.append((url, name))
        return name, make_conninfo(url, options=f"-c role={name}")

    yield make
    for url, name in made:
        run(url, f"DROP OWNED BY {name}")
        run(url, f"DROP ROLE {name}")


def test_up_is_done_once_and_again_changes_nothing(make_database):
    url = make_database()
    assert migrate.current(url) is None
    migrate.upgrade(url)
    assert migrate.current(url) == SCHEMA_REVISION
    channel = run(url, "SELECT channel FROM pgmem.meta")
    before = objects(url)
    migrate.upgrade(url)
    assert (run(url, "SELECT channel FROM pgmem.meta"), objects(url)) == (channel, before)
    assert migrate.check(url) == []
    assert {schema for schema, _ in before} == {"pgmem"}


def test_down_removes_everything_that_up_made(make_database):
    url = make_database()
    for schema in ("select", "pgmem"):  # a reserved word needs its quotes everywhere
        migrate.upgrade(url, schema=schema)
        assert migrate.check(url, schema) == []
    migrate.downgrade(url, revision="base")
    left = [row for row in objects(url) if row[0] == "pgmem"]
    assert left == [("pgmem", "pgmem_version"), ("pgmem", "pgmem_version_pkc")]
    assert (migrate.current(url), migrate.current(url, "select")) == (None, SCHEMA_REVISION)
    assert migrate.check(url, "select") == []
    migrate.upgrade(url)
    assert migrate.check(url) == []


def test_each_schema_has_its_own_channel(make_database):
    url = make_database()
    for schema in ("a", "b"):
        migrate.upgrade(url, schema=schema)
    channels = run(url, "SELECT channel FROM a.meta UNION ALL SELECT channel FROM b.meta")
    assert len(set(channels)) == 2
    assert all(len(c) == 38 and c.startswith("pgmem_") and int(c[6:], 16) for (c,) in channels)


def test_second_of_two_migrations_waits(make_database):
    url = make_database()
    # With this default, the second process would read a snapshot from before its wait.
    run(
        url,
        f"ALTER DATABASE {psycopg.conninfo.conninfo_to_dict(url)['dbname']} "
        "SET default_transaction_isolation = 'repeatable read'",
    )
    failed = []

    def second():
        try:
            migrate.upgrade(url)
        except Exception as error:  # The assertion below shows it.
            failed.append(error)

    with migrate.engine(url).connect() as first, first.begin():
        config = migrate._config(connection=first, schema="pgmem", create_schema=True)
        migrate.command.upgrade(config, "head")
        thread = threading.Thread(target=second)
        thread.start()
        waiting = (
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE NOT granted AND datname = current_database()"
        )
        deadline = time.monotonic() + 10
        while run(url, waiting) != [(1,)] and thread.is_alive():
            assert time.monotonic() < deadline
        assert thread.is_alive()
        assert migrate.current(url) is None
    thread.join(10)
    assert failed == []
    assert migrate.check(url) == []
    assert run(url, "SELECT count(*) FROM pgmem.pgmem_version") == [(1,)]


def test_six_that_migrate_at_once_all_succeed(make_database):
    url = make_database()
    failed = []
    barrier = threading.Barrier(6)

    def one():
        barrier.wait()
        try:
            migrate.upgrade(url)
        except Exception as error:  # The assertion below shows it.
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert migrate.check(url) == []


def test_a_migration_that_fails_leaves_nothing(make_database):
    url = make_database()
    run(url, "CREATE SCHEMA pgmem; CREATE TABLE pgmem.meta (mine int)")
    before = objects(url)
    with pytest.raises(migrate.DatabaseFault, match="already exists") as caught:
        migrate.upgrade(url)
    assert caught.value.sqlstate == "42P07"
    assert objects(url) == before


def test_create_schema_off_asks_for_what_the_administrator_has_to_do(make_database, make_role):
    url = make_database()
    role, as_role = make_role(url)
    with pytest.raises(SchemaError) as caught:
        migrate.upgrade(as_role, schema="mine", create_schema=False)
    statement = f'CREATE SCHEMA "mine" AUTHORIZATION "{role}";'
    assert statement in str(caught.value)
    assert objects(url) == []
    with pytest.raises(PermissionDenied, match="administrator"):
        migrate.upgrade(as_role, schema="mine")  # may not create a schema
    run(url, statement)
    for create in (False, True):  # and need not be allowed to, once it is there
        migrate.upgrade(as_role, schema="mine", create_schema=create)
        assert migrate.check(as_role, "mine") == []
    assert objects(url) != []


def test_hostile_search_path_is_ignored(make_database):
    url = make_database()
    run(
        url,
        """
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
        CREATE FUNCTION evil.gen_random_uuid() RETURNS uuid LANGUAGE sql
            AS $$SELECT '00000000-0000-0000-0000-000000000000'::uuid$$;
        CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql
            AS $$SELECT 'epoch'::timestamptz$$;
        CREATE TABLE evil.pgmem_version (version_num text);
        INSERT INTO evil.pgmem_version VALUES ('0001')""",
    )
    hostile = make_conninfo(url, options="-c search_path=evil,pg_catalog")
    migrate.upgrade(hostile)
    assert migrate.check(url) == []
    assert migrate.check(hostile) == []
    assert run(url, "SELECT channel FROM pgmem.meta")[0][0] != "pgmem_" + "0" * 32
    with pytest.raises(psycopg.errors.CheckViolation):
        run(hostile, "INSERT INTO pgmem.trimmed (stream, position) VALUES (repeat('x', 519), 1)")
    migrate.downgrade(hostile, revision="base")


def test_the_sql_for_an_administrator_makes_the_same_schema(make_database, capfd):
    url = make_database()
    script = migrate.sql("mine")
    assert script.startswith("BEGIN;")
    assert script.rstrip().endswith("COMMIT;")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script)
        # Nothing is left behind in the session.
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
    assert migrate.check(url, "mine") == []
    assert migrate.current(url, "mine") == SCHEMA_REVISION
    migrate.upgrade(url, schema="mine")  # and alembic takes it from there
    assert capfd.readouterr() == ("", "")


def test_the_sql_without_create_schema(make_database):
    script = migrate.sql(create_schema=False)
    assert "CREATE SCHEMA" not in script
    assert 'CREATE SCHEMA IF NOT EXISTS "pgmem"' in migrate.sql()
    assert "CREATE TABLE" not in migrate.sql(from_revision=SCHEMA_REVISION)


@pytest.mark.parametrize(
    "call",
    [
        lambda url, name: migrate.upgrade(url, schema=name),
        lambda url, name: migrate.downgrade(url, revision="base", schema=name),
        lambda url, name: migrate.current(url, name),
        lambda url, name: migrate.check(url, name),
        lambda url, name: migrate.sql(name),
        lambda url, name: migrate.grant(url, schema=name, reader="r"),
    ],
)
def test_a_bad_schema_name_or_revision_never_reaches_a_server(call):
    with pytest.raises(InvalidInput):
        call("host=/nowhere", 'x"; DROP SCHEMA pgmem; --')


@pytest.mark.parametrize("revision", ["nine", "", "0000", "0001; DROP", "../x", "ae10%"])
def test_a_revision_that_does_not_exist_never_reaches_a_server(revision):
    for call in (migrate.upgrade, migrate.downgrade):
        with pytest.raises(InvalidInput, match="take one of 0001, head"):
            call("host=/nowhere", revision=revision)
    with pytest.raises(InvalidInput):
        migrate.sql(revision=revision)


def test_steps_too_far_are_an_invalid_option(database_url):
    with pytest.raises(InvalidInput):
        migrate.downgrade(database_url, revision="-7")
    assert migrate.check(database_url) == []


def test_a_database_without_migrations_says_what_to_run(make_database):
    url = make_database()
    with pytest.raises(SchemaError, match="pgmem migrate up"):
        migrate.check(url)
    with pytest.raises(SchemaError):
        migrate.downgrade(url, revision="base")
    with pytest.raises(SchemaError):
        migrate.grant(url, reader="nobody")
    assert objects(url) == []


def test_a_schema_newer_than_the_library_says_so(database_url):
    run(database_url, "UPDATE pgmem.pgmem_version SET version_num = '9999'")
    for call in (migrate.upgrade, migrate.check, lambda u: migrate.downgrade(u, revision="base")):
        with pytest.raises(SchemaError, match=r"'9999'.*Upgrade pgmem-agents"):
            call(database_url)


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
async def test_schema_of_an_unreleased_version_is_refused(make_database, revision):
    url = make_database()
    run(
        url,
        f"""
        CREATE SCHEMA pgmem;
        CREATE TABLE pgmem.events (position bigint);
        CREATE TABLE pgmem.pgmem_version (version_num text);
        INSERT INTO pgmem.pgmem_version VALUES ('{revision}')""",
    )
    for call in (
        migrate.upgrade,
        migrate.check,
        lambda u: migrate.downgrade(u, revision="base"),
        lambda u: migrate.grant(u, reader="r"),
    ):
        with pytest.raises(SchemaError, match=r"created by an unreleased version.*drop the"):
            call(url)
    with pytest.raises(SchemaError, match="created by an unreleased version"):
        async with AsyncMemory(url):
            pass
    migrate.upgrade(url, schema="another")
    assert migrate.check(url, "another") == []


def test_a_server_that_is_not_there_is_unavailable_and_the_password_unsaid(monkeypatch, tmp_path):
    url = f"postgresql+psycopg://u:s3cr3t@/d?host={tmp_path}&connect_timeout=2"
    for call in (migrate.upgrade, migrate.current, migrate.check):
        with pytest.raises(Unavailable) as caught:
            call(url)
        assert f"host={tmp_path}" in str(caught.value)
        error = caught.value
        while error is not None:
            assert "s3cr3t" not in f"{error!r} {error}"
            error = error.__cause__


def test_role_without_rights_is_refused(database_url, make_role):
    _, as_role = make_role(database_url)
    for call in (migrate.current, migrate.check, migrate.upgrade):
        with pytest.raises(PermissionDenied):
            call(as_role)


def test_no_logger_is_touched_and_nothing_printed(make_database, capfd):
    handlers = list(logging.root.handlers)
    url = make_database()
    migrate.upgrade(url)
    migrate.downgrade(url, revision="base")
    assert logging.root.handlers == handlers
    assert {type(h) for h in logging.getLogger("alembic").handlers} <= {logging.NullHandler}
    assert capfd.readouterr() == ("", "")


def test_a_connection_handed_over_keeps_its_transaction_and_search_path(make_database):
    url = make_database()
    with migrate.engine(url).connect() as connection:
        config = migrate._config(connection=connection, schema="pgmem", create_schema=True)
        outer = connection.begin()
        migrate.command.upgrade(config, "head")
        path = connection.exec_driver_sql("SHOW search_path").scalar_one()
        assert path == '"$user", public'
        outer.rollback()
        assert migrate.current(url) is None
        migrate.command.upgrade(config, "head")  # none begun: alembic's own, committed
    assert migrate.check(url) == []


def alembic(*arguments, url=None, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **environment},
        timeout=120,
    )


def test_alembic_command_upgrades_from_the_checkout(make_database):
    url = make_database()
    done = alembic("upgrade", "head", PGMEM_DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert migrate.check(url) == []


@pytest.fixture
def alembic_here(monkeypatch, capsys):
    """Return a function that runs the alembic command in this process: its stdout."""
    for name in os.environ:
        if name.startswith("PG") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(CHECKOUT)

    def run(*arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        alembic_main(list(arguments))
        return capsys.readouterr().out

    return run


def test_alembic_command_takes_url_and_schema(make_database, alembic_here):
    url = make_database()
    alembic_here("-x", f"url={url}", "-x", "schema=other", "upgrade", "head")
    assert migrate.check(url, "other") == []
    assert migrate.current(url, "other") == SCHEMA_REVISION
    with pytest.raises(SchemaError, match="CREATE SCHEMA"):
        alembic_here(
            "-x", "create_schema=false", "upgrade", "head", PGMEM_SCHEMA="third", DATABASE_URL=url
        )


def test_alembic_command_prints_sql(alembic_here):
    printed = alembic_here("-x", "schema=mine", "upgrade", "head", "--sql")
    assert printed.strip() == migrate.sql("mine").strip()
