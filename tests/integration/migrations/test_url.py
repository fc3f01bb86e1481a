"""One connection string out of many ways to write it; a password is never said."""

import os
import subprocess
import sys

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgmem.core.url import ENVIRONMENT, connection_string, redacted
from pgmem.errors import InvalidInput


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in [n for n in os.environ if n.startswith("PG") or n in ENVIRONMENT]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "scheme",
    [
        "postgresql",
        "postgres",
        "POSTGRESQL",
        "postgresql+psycopg",
        "postgres+psycopg_async",
        "postgresql+psycopg2",
    ],
)
def test_the_same_place_in_every_way_to_write_a_url(scheme):
    got = conninfo_to_dict(connection_string(f"{scheme}://u:p%40s%2Fs%25@h:6543/d?sslmode=require"))
    assert {k: str(v) for k, v in got.items()} == {
        "user": "u",
        "password": "p@s/s%",
        "host": "h",
        "port": "6543",
        "dbname": "d",
        "sslmode": "require",
    }


def test_a_dsn_and_socket_directories():
    want = {"host": "/tmp/a b", "dbname": "d", "user": "u"}
    for url in (
        "host='/tmp/a b' dbname=d user=u",
        " dbname=d user=u host='/tmp/a b' ",
        "postgresql://u@/d?host=/tmp/a%20b",
        "postgresql+psycopg://u@/d?host=/tmp/a%20b",
        "postgresql://u@%2Ftmp%2Fa%20b/d",
    ):
        assert conninfo_to_dict(connection_string(url)) == want


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_several_hosts(scheme):
    got = conninfo_to_dict(connection_string(f"{scheme}://u@/d?host=a:1&host=b:2"))
    assert (got["host"], str(got["port"])) == ("a,b", "1,2")


def test_libpq_writes_several_hosts_itself():
    got = conninfo_to_dict(connection_string("postgresql://a:1,b:2/d?target_session_attrs=primary"))
    assert (got["host"], got["port"], got["target_session_attrs"]) == ("a,b", "1,2", "primary")


def test_the_environment_in_its_order(monkeypatch):
    assert connection_string() == ""
    monkeypatch.setenv("DATABASE_URL", "postgresql://second/d")
    assert conninfo_to_dict(connection_string())["host"] == "second"
    monkeypatch.setenv("PGMEM_DATABASE_URL", "postgresql+psycopg://first/d")
    assert conninfo_to_dict(connection_string())["host"] == "first"
    monkeypatch.setenv("PGMEM_DATABASE_URL", "")
    assert conninfo_to_dict(connection_string())["host"] == "second"
    assert connection_string("host=given") == "host=given"


def test_an_error_names_the_variable_that_it_came_from(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "mysql://root:s3cr3t@h/d")
    with pytest.raises(InvalidInput, match=r"^DATABASE_URL is for 'mysql'"):
        connection_string()


UNUSABLE = [
    "",
    "   ",
    "\0",
    "host=a\0b",
    "justaname",
    "mysql://u:s3cr3t@h/d",
    "sqlite:///x",
    "postgresql+asyncpg://u:s3cr3t@h/d",
    "postgresql+pg8000://u:s3cr3t@h/d",
    "postgresql://u:s3cr3t%zz@h/d",
    "postgresql://u:a@s3cr3t@h/d",
    "postgresql://u:a/s3cr3t@h/d",
    "postgresql+psycopg://u:a@s3cr3t@h/d",
    "postgresql+psycopg://u:p@h:s3cr3t/d",
    "postgresql://u:p@h:s3cr3t/d",
    "postgresql://u:a?s3@s3cr3t@h/d",
    "host=h password=a s3cr3t=1",
    "host=h password='s3cr3t",
    "postgresql://u:s3cr3t@h/d?sslmod=require",
    "postgresql+psycopg://u:s3cr3t@h/d?sslmod=require",
    "host=h@s3cr3t",
    "://u:s3cr3t@h",
    "postgresql+psycopg://u:s3cr3t@h:99999999/d",
]


@pytest.mark.parametrize("url", [*UNUSABLE, 5, b"host=a"])
def test_an_unusable_url_is_refused_without_being_quoted(url):
    with pytest.raises(InvalidInput) as caught:
        connection_string(url)
    error = caught.value
    assert "s3cr3t" not in str(error) + repr(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.thorough
def test_no_traceback_shows_the_password():
    urls = [u for u in UNUSABLE if "s3cr3t" in u]
    code = """
import sys, traceback, pgmem.core.url
for url in sys.stdin.read().splitlines():
    try:
        pgmem.core.url.connection_string(url)
    except pgmem.core.url.InvalidInput:
        traceback.print_exc()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\n".join(urls),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr.count("InvalidInput: ") == len(urls)
    assert "s3cr3t" not in done.stderr


def test_a_misspelt_option_gets_a_hint():
    for url in (
        "postgresql://h/d?sslmod=require",
        "postgresql+psycopg://h/d?sslmod=require",
        "host=h sslmod=require",
    ):
        with pytest.raises(InvalidInput, match="did you mean 'sslmode'"):
            connection_string(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t@h:1/d?sslpassword=s3cr3t",
        "postgresql+psycopg://me:s3cr3t@h:1/d",
        "host=h port=1 dbname=d user=me password=s3cr3t passfile=/s3cr3t options='-c a.b=s3cr3t'",
    ],
)
def test_redacted_shows_the_place_and_nothing_else(url):
    assert redacted(url) == "host=h port=1 dbname=d user=me"
    assert redacted(connection_string(url)) == "host=h port=1 dbname=d user=me"


def test_redacted_fills_in_what_libpq_would(monkeypatch):
    monkeypatch.setenv("PGHOST", "/run/pg")
    monkeypatch.setenv("PGPASSWORD", "s3cr3t")
    assert redacted("dbname=d user=u") == "host=/run/pg port=5432 dbname=d user=u"
    assert "host=/run/pg" in redacted("")
    assert "s3cr3t" not in redacted("")


@pytest.mark.parametrize(
    "text",
    [
        "dbname='postgresql://u:s3cr3t@h/d'",
        "dbname='host=h password=s3cr3t'",
        "postgresql://u:a@s3cr3t@h",
        "nonsense s3cr3t",
    ],
)
def test_redacted_never_shows_what_may_hold_a_password(text):
    assert "s3cr3t" not in redacted(text)
