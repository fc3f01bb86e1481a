"""Following the changes of state: `state.watch`, and a cache that the follower invalidates."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import Event
from pgmem.errors import InvalidInput
from tests.support.cached import cache_of

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


async def changes_of(watch, count):
    found = []
    while len(found) < count:
        got = await watch.receive(timeout=10)
        assert got, f"{len(found)} of {count} changes came"
        found += got
    return found


async def test_every_recorded_change_comes_once_and_in_order(both):
    async with both.state.watch("account:") as watch:
        await both.state.put("account:1", {"balance": 1})
        await both.state.put("order:1", "another prefix")
        await both.state.compare_and_set("account:1", None, expected_version=1)
        await both.state.put("account:2", 2, event=Event(type="t", payload="p"), stream="s")
        await both.state.touch("account:2", ttl=60)
        await both.state.put("account:3", 3, record=False)
        await both.state.delete("account:1")
        found = await changes_of(watch, 5)
    assert [(c.key, c.version, c.value, c.deleted) for c in found] == [
        ("account:1", 1, {"balance": 1}, False),
        ("account:1", 2, None, False),
        ("account:2", 1, 2, False),
        ("account:2", None, None, False),
        ("account:1", 3, None, True),
    ]
    assert found[3].expires_at is not None
    assert {change.agent_id for change in found} == {"tester"}
    assert [c.position for c in found] == sorted(c.position for c in found)


async def test_the_first_unrecorded_write_over_a_recorded_value_is_a_change(both):
    await both.state.put("k", 1)
    async with both.state.watch() as watch:
        await both.state.put("k", 2, record=False)
        await both.state.put("k", 3, record=False)
        await both.state.put("k", 4)
        assert [c.value for c in await changes_of(watch, 2)] == [2, 4]


async def test_from_the_beginning_it_tells_the_whole_history(both):
    for n in range(3):
        await both.state.put("k", n)
    async with both.state.watch("k", after=0) as watch:
        assert [c.value for c in await changes_of(watch, 3)] == [0, 1, 2]


async def test_values_fit_a_model(both):
    class Account(BaseModel):
        balance: int

    async with both.state.watch(model=Account) as watch:
        await both.state.put("k", {"balance": 7})
        await both.state.delete("k")
        first, second = await changes_of(watch, 2)
    assert first.value == Account(balance=7)
    assert second.value is None


async def test_what_cannot_be_watched_is_refused(both):
    with pytest.raises(InvalidInput):
        both.state.watch("x" * 513)
    async with both.transaction() as tx:
        assert not hasattr(getattr(tx, "wrapped", tx).state, "watch")


async def seen(memory, key, wanted):
    deadline = time.monotonic() + 30
    while (await memory.state.get(key)).value != wanted:
        assert time.monotonic() < deadline, "the old value stayed"
        await asyncio.sleep(0.001)


async def follows(memory):
    """Wait until the follower has made the cache usable."""
    deadline = time.monotonic() + 30
    while time.monotonic() >= cache_of(memory).fresh_until:
        assert time.monotonic() < deadline, "the log is not followed"
        await asyncio.sleep(0.005)


async def test_the_follower_drops_what_another_memory_has_changed(form):
    # With this safety poll only a notification is in time.
    async with form.memory(cache=10, safety_poll=60) as cached, form.memory() as other:
        await follows(cached)
        await other.state.put("k", 0)
        await other.state.put("unrecorded", 0)
        for n in range(1, 20):
            assert (await cached.state.get("k")) is not None
            await other.state.put("k", n)
            await seen(cached, "k", n)
        await cached.state.get("unrecorded")
        await other.state.put("unrecorded", 1, record=False)
        await seen(cached, "unrecorded", 1)
        await other.state.put("unrecorded", 2, record=False)
        assert (await cached.state.get("unrecorded")).value == 2


async def test_a_change_behind_an_open_gap_drops_the_copy_at_once(form, database_url):
    """Drop a copy at the commit of the change, also above an open transaction's position."""
    async with form.memory(cache=10, safety_poll=60) as cached, form.memory() as other:
        await follows(cached)
        await other.state.put("k", 0)
        await seen(cached, "k", 0)
        with psycopg.connect(database_url) as open_one:
            open_one.execute(
                "INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')"
            )
            await other.state.put("k", 1)
            await seen(cached, "k", 1)


async def test_without_a_feed_nothing_is_served_from_the_cache(form, database_url):
    async with form.memory(cache=10, safety_poll=0.2) as cached, form.memory() as other:
        await follows(cached)
        await other.state.put("k", 0)
        await seen(cached, "k", 0)
        # The listener hears nothing any more, and looks at nothing.
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE pgmem.trimmed IN ACCESS EXCLUSIVE MODE")
            blocker.execute("UPDATE pgmem.state SET value = '1' WHERE key = 'k'")
            await asyncio.sleep(0.5)
            assert time.monotonic() >= cache_of(cached).fresh_until
