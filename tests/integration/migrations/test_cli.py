"""`pgmem migrate`, run in this process."""

import json
import os
import subprocess
import sys

import psycopg
import pytest


def test_up_check_and_down(pgmem, make_database):
    url = make_database()
    at = ("--url", url, "--schema", "mine")
    assert pgmem("migrate", "current", *at) == (0, "(none)\n", "")
    assert pgmem("migrate", "up", *at) == (0, "schema mine: (none) → 0001\n", "")
    assert pgmem("migrate", "up", *at) == (0, "schema mine: at 0001, nothing to do\n", "")
    assert pgmem("migrate", "current", *at) == (0, "0001\n", "")
    assert pgmem("migrate", "check", *at)[0] == 0
    assert pgmem("migrate", "down", "base", "--yes", *at) == (0, "schema mine: 0001 → (none)\n", "")
    code, out, err = pgmem("migrate", "check", *at)
    assert (code, out) == (1, "")
    assert (
        err == "pgmem: the schema 'mine' has no pgmem tables. "
        "Run `pgmem migrate up --schema mine`\n"
    )


def test_json(pgmem, make_database):
    url = make_database()
    at = ("--url", url, "--json")
    assert json.loads(pgmem("migrate", "up", *at)[1]) == {
        "schema": "pgmem",
        "before": None,
        "after": "0001",
    }
    assert json.loads(pgmem("migrate", "current", *at)[1]) == {
        "schema": "pgmem",
        "revision": "0001",
        "needed": "0001",
    }
    assert json.loads(pgmem("migrate", "check", *at)[1]) == {
        "schema": "pgmem",
        "revision": "0001",
        "ok": True,
        "problems": [],
    }
    with psycopg.connect(url) as server:
        server.execute("DROP INDEX pgmem.events_type_position_idx")
    code, out, _ = pgmem("migrate", "check", *at)
    assert code == 1
    assert json.loads(out)["problems"] == ["index events.events_type_position_idx is missing"]
    assert pgmem("migrate", "check", "--url", url)[:2] == (
        1,
        "index events.events_type_position_idx is missing\n",
    )


def test_down_asks_first(pgmem, database_url):
    code, out, err = pgmem("migrate", "down", "base", "--url", database_url, stdin=b"n\n")
    assert (code, out) == (1, "")
    assert "with its data?" in err
    assert "Traceback" not in err
    with psycopg.connect(database_url) as server:
        server.execute("SELECT 1 FROM pgmem.events")


def test_printed_sql_runs(pgmem, make_database):
    code, script, err = pgmem("migrate", "sql", "--schema", "mine")
    assert (code, err) == (0, "")
    url = make_database()
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(script)
    assert pgmem("migrate", "check", "--url", url, "--schema", "mine")[0] == 0
    assert "CREATE SCHEMA" not in pgmem("migrate", "sql", "--no-create-schema")[1]


def test_grant(pgmem, database_url):
    assert pgmem("migrate", "grant", "--sql", "--reader", "bob")[1].startswith(
        'GRANT USAGE ON SCHEMA "pgmem" TO "bob";'
    )
    code, _, err = pgmem("migrate", "grant", "--url", database_url, "--reader", "no such role")
    assert code == 1
    assert "does not exist" in err
    with psycopg.connect(database_url) as server:
        (role,) = server.execute("SELECT current_user").fetchone()
    assert pgmem("migrate", "grant", "--url", database_url, "--agent", role)[0] == 0
    assert pgmem("migrate", "grant", "--url", database_url, "--janitor", role)[1:] == (
        f"{role}: janitor of schema pgmem\n",
        "",
    )


def test_revision_can_be_named(pgmem, make_database):
    at = ("--url", make_database())
    assert pgmem("migrate", "up", "0001", *at)[1] == "schema pgmem: (none) → 0001\n"
    assert pgmem("migrate", "up", *at)[1] == "schema pgmem: at 0001, nothing to do\n"
    assert pgmem("migrate", "down", "base", "--yes", *at)[1] == "schema pgmem: 0001 → (none)\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["up", "--schema", "Not-One"], "the schema name 'Not-One' cannot be used"),
        (["up", "nine"], "there is no revision 'nine'"),
        (
            ["up", "--no-create-schema", "--schema", "missing"],
            'CREATE SCHEMA "missing" AUTHORIZATION',
        ),
        (["current", "--url", "postgresql+asyncpg://u:s3cr3t@h/d"], "the driver 'asyncpg'"),
        (
            ["current", "--url", "postgresql://u:s3cr3t@/d?host=/no/where&connect_timeout=2"],
            "no connection to host=/no/where port=5432 dbname=d user=u",
        ),
    ],
)
def test_an_error_is_one_line_without_a_password(
    pgmem, make_database, monkeypatch, arguments, said
):
    monkeypatch.delenv("PGPORT", raising=False)
    monkeypatch.setenv("PGMEM_DATABASE_URL", make_database())
    code, out, err = pgmem("migrate", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("pgmem: ")
    assert said in err
    assert err.count("\n") == 1
    assert "s3cr3t" not in err
    assert "Traceback" not in err


@pytest.mark.thorough
def test_closed_pipe_prints_no_traceback():
    code = "from pgmem.cli.app import main; main()"
    command = f'{sys.executable} -c "{code}" migrate sql | true'
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        timeout=120,
    )
    assert done.stderr == ""
