"""`state.put_many`: several entries in one statement."""

from __future__ import annotations

import contextlib
import threading

import psycopg
import pytest

from pgmem import Memory
from pgmem.errors import InvalidInput, InvalidValue
from tests.support.cached import cache_of, fresh, value


async def test_entries_are_returned_in_the_order_given(both):
    await both.state.put("b", 0)
    written = await both.state.put_many({"c": {"n": 1}, "a": "text", "b": None}, ttl=60)
    assert [(e.key, e.value, e.version, e.ttl) for e in written] == [
        ("c", {"n": 1}, 1, 60), ("a", "text", 1, 60), ("b", None, 2, 60),
    ]  # fmt: skip
    assert [e.position for e in written] == [4, 2, 3]
    for entry in written:
        assert await both.state.get(entry.key) == entry._replace(position=None)
        *_, event = await both.state.history(entry.key)
        assert (event.position, event.type) == (entry.position, "state.put")
        assert event.agent_id == "tester"
        assert (event.change.value, event.change.expires_at) == (entry.value, entry.expires_at)


async def test_unrecorded_writes_append_an_event_only_after_a_recorded_one(both):
    await both.state.put("a", 1)
    first = await both.state.put_many({"a": 2, "b": 2}, record=False)
    assert [e.position for e in first] == [2, None]
    second = await both.state.put_many({"a": 3, "b": 3}, record=False)
    assert [(e.version, e.position) for e in second] == [(3, None), (2, None)]
    assert await both.events.count() == 2


async def test_one_wrong_value_writes_none(both):
    for values in ({"a": 1, "b": {1}}, {"a": 1, "": 2}, {"a": 1, "b": float("inf")}):
        with pytest.raises((InvalidValue, InvalidInput)):
            await both.state.put_many(values)
    assert await both.state.list() == []


@pytest.mark.parametrize("values", [{}, [("a", 1)], None, dict.fromkeys(map(str, range(10_001)))])
async def test_what_is_not_one_to_ten_thousand_values_is_refused(both, values):
    with pytest.raises(InvalidInput):
        await both.state.put_many(values)


async def test_it_joins_a_transaction(both):
    with contextlib.suppress(InvalidInput):
        async with both.transaction() as tx:
            await tx.state.put_many({"a": 1, "b": 2})
            await tx.state.put_many({})
    assert await both.state.list() == []
    async with both.transaction() as tx:
        await tx.state.put_many({"a": 1, "b": 2})
    assert len(await both.state.list()) == 2


async def test_opposite_orders_do_not_deadlock(database_url):
    rounds, failures = 60, []

    def write(keys):
        try:
            with Memory(database_url, pool=1) as memory:
                for n in range(rounds):
                    memory.state.put_many(dict.fromkeys(keys, n))
        except Exception as error:  # The assertion below shows it.
            failures.append(error)

    keys = [f"k{n}" for n in range(20)]
    threads = [threading.Thread(target=write, args=(k,)) for k in (keys, keys[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with psycopg.connect(database_url) as connection:
        versions = connection.execute("SELECT DISTINCT version FROM pgmem.state").fetchall()
    assert versions == [(2 * rounds,)]


async def test_readers_follow_the_writes(form):
    async with form.memory() as memory, memory.state.watch("k") as changes:
        await memory.state.put_many({"k2": 2, "k1": 1, "other": 0})
        found = []
        while len(found) < 2:
            found += await changes.receive(timeout=10)
    assert [(change.key, change.value) for change in found] == [("k1", 1), ("k2", 2)]


@pytest.mark.parametrize(("options", "kept"), [({}, 2), ({"ttl": 60}, 0), ({"record": False}, 0)])
async def test_the_cache_keeps_what_may_be_kept(form, options, kept):
    async with fresh(form) as memory:
        await memory.state.put("a", "old")
        await memory.state.put_many({"a": "new", "b": "new"}, **options)
        assert len(cache_of(memory)) == kept
        assert [await value(memory, key) for key in "ab"] == ["new", "new"]
