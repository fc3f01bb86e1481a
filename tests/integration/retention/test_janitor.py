"""The janitor of a memory applies the policies in the background."""

from __future__ import annotations

import logging

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem import Event, Memory, migrate
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import PositionTrimmed
from tests.support.waiting import until, wait_until


def fill(memory, count=30):
    memory.events.append("s", [Event(type="t", payload=n) for n in range(count)])


async def test_open_memory_trims_by_the_policies(form, database_url):
    with Memory(database_url) as observer:
        fill(observer)
        observer.retention.set(max_events=10)
        async with form.memory(janitor=True):
            await until(lambda: observer.events.count() == 10)
            assert observer.leases.get(JANITOR_LEASE) is not None
        assert observer.leases.get(JANITOR_LEASE) is None, "closing releases the lease"
        with pytest.raises(PositionTrimmed, match="up to position 20"):
            observer.events.read(after=5)


def test_role_without_the_right_is_warned_once_and_can_write(database_url, make_database, caplog):
    url = make_database(template=True)
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("DROP ROLE IF EXISTS no_janitor_here")
        server.execute("CREATE ROLE no_janitor_here LOGIN")
    try:
        migrate.grant(url, agent="no_janitor_here")
        with (
            caplog.at_level(logging.WARNING, "pgmem"),
            Memory(make_conninfo(url, user="no_janitor_here"), janitor=True) as memory,
        ):
            wait_until(lambda: "the janitor of this memory ends" in caplog.text)
            fill(memory)
        assert caplog.text.count("the janitor of this memory ends") == 1
    finally:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute("DROP OWNED BY no_janitor_here")
            server.execute("DROP ROLE no_janitor_here")
