"""The step from 0003 to 0004, and back: the table of imports."""

import psycopg
import pytest

from pgmem import migrate

PART = (
    "INSERT INTO pgmem.imports (source, part, target, cursor, token) "
    "VALUES ('redis', 'stream s', 's', '1-1', 'x')"
)


@pytest.fixture
def url(make_database):
    """A database at 0003 with an event in it."""
    url = make_database()
    migrate.upgrade(url, revision="0003")
    run(url, "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '1')")
    return url


def run(url, query):
    with psycopg.connect(url, autocommit=True) as server:
        cursor = server.execute(query)
        return cursor.fetchall() if cursor.description else []


def test_up_adds_the_table_and_down_takes_it_away(url):
    before = run(url, "SELECT * FROM pgmem.events")
    migrate.upgrade(url, revision="0004")
    run(url, PART)
    assert run(url, "SELECT step, done, refused, detail::text FROM pgmem.imports") == [
        (0, 0, 0, "{}")
    ]
    with migrate.engine(url).connect() as connection:
        up = migrate.describe(connection, "pgmem")
    migrate.downgrade(url, revision="0003")
    with migrate.engine(url).connect() as connection:
        down = migrate.describe(connection, "pgmem")
    assert set(up["table"]) - set(down["table"]) == {"imports"}
    assert run(url, "SELECT * FROM pgmem.events") == before


def test_no_two_parts_fill_one_stream(url):
    migrate.upgrade(url)
    run(url, PART)
    with pytest.raises(psycopg.errors.UniqueViolation, match="imports_target_key"):
        run(url, PART.replace("'redis'", "'another'"))
    for other in ("NULL", "'t'"):  # what fills no stream, or another one, is free
        run(url, PART.replace("'redis'", f"'{other[1:2]}'").replace("'s', '1", f"{other}, '1"))
