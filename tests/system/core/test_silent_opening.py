"""A server that is silent, or goes silent in between, while a memory opens or a schema migrates."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem import migrate
from pgmem.errors import Unavailable
from tests.support.relay import Relay
from tests.support.silence import NEVER, FallsSilent, Made, ended

pytestmark = [
    pytest.mark.both_forms,
    # Sockets of connections that were given up are closed when the relay ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


async def test_open_at_a_silent_server(form, database_url):
    with Relay(database_url) as relay, ThreadPoolExecutor(1) as threads:
        relay.silence(new=True)
        made = Made(form, relay.url, threads)
        seconds, outcome = await ended(made, made.memory.open)
    assert seconds < NEVER
    assert isinstance(outcome, Unavailable)


async def test_open_at_a_server_that_goes_silent_in_between(form, database_url):
    async def opened(threads, count):
        with FallsSilent(database_url, count) as relay:
            made = Made(form, relay.url, threads)
            seconds, outcome = await ended(made, made.memory.open)
            closed, _ = await ended(made, made.memory.close)
            return seconds, outcome, closed

    with ThreadPoolExecutor(20) as threads:
        with Relay(database_url) as relay:
            made = Made(form, relay.url, threads)
            await made.call(made.memory.open)
            sent = relay.statements
            await made.call(made.memory.close)
        found = await asyncio.gather(*(opened(threads, count) for count in range(sent)))
    assert found
    assert [one for one in found if NEVER in (one[0], one[2])] == []
    assert {type(outcome) for _, outcome, _ in found} == {Unavailable}


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_migration_at_a_server_that_goes_silent_in_between(make_database, part):
    url = make_database()
    with Relay(make_database()) as relay:
        migrate.upgrade(relay.url)
        sent = relay.statements
    with (
        FallsSilent(url, int(sent * part)) as relay,
        pytest.raises(Unavailable, match="no connection to"),
    ):
        migrate.upgrade(make_conninfo(relay.url, connect_timeout=2))
    # The server finds the connections closed. Only the answer of the commit may have been lost.
    migrate.upgrade(url)
    assert migrate.check(url) == []


def test_a_migration_that_waits_for_longer_than_that_goes_on(make_database):
    """Hold the lock of a migration. The server works on the statement that waits for it."""
    url = make_database()
    migrate.upgrade(url)
    lock = "LOCK TABLE pgmem.pgmem_version IN EXCLUSIVE MODE"
    with ThreadPoolExecutor(1) as threads, psycopg.connect(url) as other:
        other.execute(lock)
        running = threads.submit(migrate.upgrade, make_conninfo(url, connect_timeout=2))
        other.execute("SELECT pg_sleep(5)")
        assert not running.done()
        other.rollback()
        running.result(NEVER)
    assert migrate.check(url) == []
