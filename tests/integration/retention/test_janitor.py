"""The janitor, elected by a lease, applies the rules in the background."""

from __future__ import annotations

import logging
import time

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem import Event, Memory, migrate
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import PositionTrimmed
from tests.support.both import module_name
from tests.support.processes import Worker
from tests.support.waiting import until, wait_until


@pytest.fixture(autouse=True)
def often(monkeypatch):
    for tree in ("_async", "_sync"):
        monkeypatch.setattr(f"{module_name(tree, 'retention.janitor')}.INTERVAL", 0.05)


def fill(memory, count=30):
    memory.events.append("s", [Event(type="t", payload=n) for n in range(count)])


async def test_it_trims_by_the_rules_while_the_memory_is_open(form, database_url):
    with Memory(database_url) as looking:
        fill(looking)
        looking.retention.set(max_events=10)
        async with form.memory(janitor=True):
            await until(lambda: looking.events.count() == 10)
            assert looking.leases.get(JANITOR_LEASE) is not None
        assert looking.leases.get(JANITOR_LEASE) is None, "closed, it let another one be elected"
        with pytest.raises(PositionTrimmed, match="up to position 20"):
            looking.events.read(after=5)


def test_of_several_one_is_the_janitor_and_another_takes_over_at_its_end(database_url):
    first, second = (Memory(database_url, agent_id=name, janitor=True) for name in "ab")
    with Memory(database_url) as looking:
        first.open()
        wait_until(lambda: looking.leases.get(JANITOR_LEASE) is not None)
        token = looking.leases.get(JANITOR_LEASE).token
        with second:
            time.sleep(0.3)
            assert looking.leases.get(JANITOR_LEASE).token == token
            first.close()
            wait_until(
                lambda: (
                    (held := looking.leases.get(JANITOR_LEASE)) is not None and held.token > token
                )
            )
            fill(looking)
            looking.retention.set(max_events=7)
            wait_until(lambda: looking.events.count() == 7)


JANITOR = """
import json, sys
from pgmem import Memory
import pgmem._sync.retention.janitor as janitor
janitor.INTERVAL, janitor.TTL = 0.05, 1.0
with Memory(sys.argv[1], janitor=True):
    print(json.dumps("open"), flush=True)
    sys.stdin.readline()
"""


def test_another_takes_over_from_one_that_was_killed(database_url, monkeypatch):
    monkeypatch.setattr("pgmem._sync.retention.janitor.TTL", 1.0)
    with Memory(database_url) as looking:
        other = Worker(JANITOR, database_url)
        wait_until(lambda: looking.leases.get(JANITOR_LEASE) is not None)
        with Memory(database_url, janitor=True):
            other.kill()
            fill(looking)
            looking.retention.set(max_events=3)
            wait_until(lambda: looking.events.count() == 3)


def test_a_role_without_the_rights_is_told_once_and_writes_go_on(
    database_url, make_database, caplog
):
    url = make_database(template=True)
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("DROP ROLE IF EXISTS no_janitor_here")
        server.execute("CREATE ROLE no_janitor_here LOGIN")
    try:
        migrate.grant(url, writer="no_janitor_here")
        with (
            caplog.at_level(logging.WARNING, "pgmem"),
            Memory(make_conninfo(url, user="no_janitor_here"), janitor=True) as memory,
        ):
            wait_until(lambda: "the janitor of this memory ends" in caplog.text)
            time.sleep(0.2)
            fill(memory)
        assert caplog.text.count("the janitor of this memory ends") == 1
    finally:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute("DROP OWNED BY no_janitor_here")
            server.execute("DROP ROLE no_janitor_here")
