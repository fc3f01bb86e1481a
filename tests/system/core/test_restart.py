"""A server that restarts, or is not up yet: what callers wait for, and what is logged."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest

from pgmem import Event, migrate
from tests.support.relay import Relay
from tests.support.waiting import wait_until

pytestmark = pytest.mark.both_forms


@pytest.fixture
def relay(database_url):
    with Relay(database_url) as relay:
        yield relay


async def test_one_line_for_an_interruption_and_one_for_its_end(form, relay, caplog):
    with caplog.at_level(logging.INFO):
        async with form.memory(relay.url, pool=(3, 3), timeout=20) as memory:
            await memory.state.put("k", 1)
            async with memory.events.subscribe("s") as events:
                caplog.clear()
                for n in range(2):
                    relay.cut(refuse=True)
                    calls = [asyncio.ensure_future(_get(memory)) for _ in range(4)]
                    await asyncio.to_thread(
                        wait_until, lambda n=n: caplog.text.count("is interrupted") > n
                    )
                    relay.heal()
                    assert [entry.value for entry in await asyncio.gather(*calls)] == [1] * 4
                    await memory.events.append("s", Event(type="t", payload=n))
                    assert [e.payload for e in await events.receive(timeout=20)] == [n]
                    # The subscription reads by itself until the follower has connected again.
                    await asyncio.to_thread(
                        wait_until, lambda n=n: caplog.text.count("again after") > n
                    )
    lines = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [record.levelname for record in lines] == ["WARNING", "INFO"] * 2
    for lost, back in zip(lines[::2], lines[1::2], strict=True):
        assert "127.0.0.1" in lost.getMessage()
        assert "is interrupted: " in lost.getMessage()
        assert "127.0.0.1" in back.getMessage()
        assert "again after" in back.getMessage()
    assert {record.name for record in lines} == {"pgmem"}


async def _get(memory):
    if hasattr(memory, "wrapped"):
        return await asyncio.to_thread(memory.wrapped.state.get, "k")
    return await memory.state.get("k")


async def test_open_waits_for_a_server_that_is_not_up_yet(form, relay):
    relay.cut(refuse=True)

    async def bring_up():
        await asyncio.sleep(0.5)
        relay.heal()

    up = asyncio.ensure_future(bring_up())
    memory = await asyncio.to_thread(_open, form, relay.url)
    await up
    assert memory


def _open(form, url):
    async def opened():
        async with form.memory(url, timeout=20) as memory:
            return (await memory.state.put("k", 1)).version == 1

    return asyncio.run(opened())


async def test_migrate_waits_for_a_server_that_is_not_up_yet(relay):
    relay.cut(refuse=True)
    migrated = asyncio.ensure_future(asyncio.to_thread(migrate.upgrade, relay.url))
    await asyncio.sleep(0.5)
    relay.heal()
    await migrated


async def test_a_refusal_by_a_server_that_is_up_is_told_at_once(form, database_url):
    url = psycopg.conninfo.make_conninfo(database_url, dbname="no_such_database")
    with pytest.raises(Exception, match="no_such_database"):
        await asyncio.wait_for(asyncio.to_thread(_open, form, url), 15)
