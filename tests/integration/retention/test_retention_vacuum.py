"""Maintenance makes the room of dead rows usable again, where autovacuum would come too late."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgmem import Memory
from pgmem.errors import Unavailable
from pgmem.retention import sweep_ops as ops
from tests.support.retention import insert, roles, run
from tests.support.waiting import until

DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'pgmem.events'::regclass"

VACUUMING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^VACUUM'"
)


@pytest.fixture
def removed(database_url):
    """A log of which a trim has removed all but ten events: the server knows how much is dead."""

    def remove(number):
        with psycopg.connect(database_url, autocommit=True) as link:
            # No autovacuum: it would do what is to be seen here.
            link.execute("ALTER TABLE pgmem.events SET (autovacuum_enabled = false)")
        insert(database_url, number)
        with Memory(database_url) as memory:
            memory.retention.trim(max_events=10)
        # A session tells what it did by the time it has ended.
        for _ in range(100):
            if run(database_url, DEAD)[0][0] >= number - 10:
                return
            run(database_url, "SELECT pg_sleep(0.05)")
        raise AssertionError("the server did not count the dead rows")

    return remove


async def test_many_dead_rows_are_vacuumed(both, database_url, removed):
    removed(ops.DEAD + 100)
    report = await both.retention.maintain()
    assert report.vacuumed == ("events",)
    assert run(database_url, DEAD) == [(0,)]
    # Now there is nothing to do.
    assert (await both.retention.maintain()).vacuumed == ()


async def test_vacuum_makes_space_usable(both, database_url, removed):
    size = "SELECT pg_relation_size('pgmem.events')"
    removed(ops.DEAD + 100)
    await both.retention.maintain()
    full = run(database_url, size)
    insert(database_url, ops.DEAD - 100)
    assert run(database_url, size) == full


async def test_few_dead_rows_are_left_to_autovacuum(both, removed):
    removed(ops.DEAD - 100)
    assert (await both.retention.maintain()).vacuumed == ()


async def test_a_large_table_is_left_to_autovacuum(both, removed, monkeypatch):
    removed(ops.DEAD + 100)
    monkeypatch.setattr(ops, "VACUUMED_SIZE", 8192)
    assert (await both.retention.maintain()).vacuumed == ()


async def test_dead_rows_are_weighed_against_living_ones(both, removed, monkeypatch):
    removed(ops.DEAD + 100)
    monkeypatch.setattr(ops, "DEAD_SHARE", 20.0)
    assert (await both.retention.maintain()).vacuumed == ()


async def test_another_vacuum_is_not_waited_for(both, database_url, removed):
    removed(ops.DEAD + 100)
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE pgmem.events IN SHARE UPDATE EXCLUSIVE MODE")
        assert (await both.retention.maintain()).vacuumed == ("events",)
        assert run(database_url, DEAD) != [(0,)]


async def test_vacuum_takes_no_connection_of_the_pool(form, database_url, removed):
    removed(ops.DEAD + 100)
    # So slow that it would take minutes.
    slow = "-c vacuum_cost_delay=100 -c vacuum_cost_limit=1"
    url = psycopg.conninfo.make_conninfo(database_url, options=slow)
    async with form.memory(url, pool=1) as memory:
        wrapped = getattr(memory, "wrapped", None)
        maintain = (
            memory.retention.maintain()
            if wrapped is None
            else asyncio.to_thread(wrapped.retention.maintain)
        )
        pass_ = asyncio.ensure_future(maintain)
        pids = await until(lambda: run(database_url, VACUUMING))
        await asyncio.wait_for(memory.state.put("k", 1), 5)
        assert run(database_url, VACUUMING) == pids
        run(database_url, "SELECT pg_terminate_backend(%s)", pids[0])
        with pytest.raises(Unavailable):
            await pass_


@pytest.mark.parametrize("kind", ["owner", "janitor"])
async def test_roles_that_may_vacuum(form, database_url, removed, kind):
    # On PostgreSQL 15 and 16 only the owner may.
    removed(ops.DEAD + 100)
    with roles(database_url) as url_of:
        async with form.memory(None if kind == "owner" else url_of(kind)) as memory:
            report = await memory.retention.maintain()
    [(version,)] = run(database_url, "SHOW server_version_num")
    may = kind == "owner" or int(version) >= 170000
    assert report.vacuumed == (("events",) if may else ())
