"""Reads in the order of positions walk an index in that order, whatever the statistics say."""

from __future__ import annotations

import psycopg
import pytest

from pgmem.core.statements import Dialect, statement
from pgmem.events import read_ops
from pgmem.events.filter import EventFilter
from pgmem.events.page import NEVER, read_page

FILTERS = {
    "all": EventFilter(),
    "stream": EventFilter.of("account:7"),
    "streams": EventFilter.of(["account:7", "account:8", "account:9"]),
    "prefix": EventFilter(prefix="account:"),
    "empty prefix": EventFilter(prefix=""),
    "type": EventFilter.of(type="t"),
    "types": EventFilter.of(type=["t", "u"]),
    "agents": EventFilter.of(agent_id=["a", "b"]),
    "prefix and type": EventFilter(prefix="account:", types=["t"]),
}


@pytest.fixture(scope="module")
def never_analyzed(pg_server_url):
    """6,000 events in a table without statistics."""
    from tests.support.server import TEMPLATE, fresh_database

    with (
        fresh_database(pg_server_url, TEMPLATE) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        connection.execute("ALTER TABLE pgmem.events SET (autovacuum_enabled = off)")
        connection.execute(
            "INSERT INTO pgmem.events (stream, type, agent_id, payload) "
            "SELECT 'account:' || n % 100, 't', 'a', '{}' FROM generate_series(1, 6000) n"
        )
        yield connection


def plan_of(connection, op):
    query = statement(op.statement, Dialect("pgmem"), op.fragments)
    found = connection.execute(b"EXPLAIN " + query, op.params).fetchall()
    return "\n".join(line for (line,) in found)


def analyzed(connection):
    (count,) = connection.execute(
        "SELECT count(*) FROM pg_stats WHERE tablename = 'events' AND schemaname = 'pgmem'"
    ).fetchone()
    return count > 0


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
def test_a_page_needs_no_sort_before_the_first_analyze(never_analyzed, wanted, limit):
    assert not analyzed(never_analyzed)
    op = read_page(wanted, limit=limit, since=NEVER)
    plan = plan_of(never_analyzed, op)
    assert "Sort" not in plan, plan
    assert "Seq Scan on events" not in plan, plan


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
def test_a_visible_read_needs_no_sort_before_the_first_analyze(never_analyzed, wanted, reverse):
    op = read_ops.read(wanted, limit=100, reverse=reverse)
    plan = plan_of(never_analyzed, op)
    assert "Sort" not in plan, plan


def test_a_stream_is_read_by_version_without_a_sort(never_analyzed):
    op = read_ops.read_stream("account:7", limit=100)
    plan = plan_of(never_analyzed, op)
    assert "events_stream_version_key" in plan, plan
