"""Schema names and the tables that users join with."""

import subprocess
import sys

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from pgmem.admin.tables import include_object, tables
from pgmem.core.names import check_schema_name
from pgmem.errors import InvalidInput


@pytest.mark.parametrize("name", ["pgmem", "pgmem2", "_", "a", "select", "user", "a" * 63, "t_1"])
def test_a_plain_identifier_is_a_schema_name(name):
    assert check_schema_name(name) == name
    assert tables(name).events.schema == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "Pgmem",
        "1a",
        "a-b",
        "a b",
        "a.b",
        'a"b',
        "a;drop",
        "a\n",
        "\na",
        "a\0",
        "é",
        "a" * 64,
        "pg_",
        "pg_temp",
        "pg_catalog",
        "information_schema",
        "public",
        "a$",
        "ａ",
        None,
        5,
        b"pgmem",
    ],
)
def test_a_schema_name_that_is_no_identifier_is_refused(name):
    for use in (check_schema_name, include_object):
        with pytest.raises(InvalidInput, match="schema name"):
            use(name)
    if isinstance(name, str):
        with pytest.raises(InvalidInput):
            tables(name)


def test_the_tables_of_a_schema_are_made_once():
    assert tables() is tables("pgmem")
    assert tables("other") is not tables()
    with pytest.raises(AttributeError):
        tables().events = None


def test_a_join_names_the_schema():
    t = tables("mine")
    query = select(t.events.c.position).join(t.state, t.state.c.key == t.events.c.state_key)
    assert "JOIN mine.state ON mine.state.key" in str(query.compile(dialect=postgresql.dialect()))


@pytest.mark.thorough
def test_the_tables_do_without_alembic():
    code = "import pgmem.admin.tables, sys; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
