"""Snapshots: copies of the whole state."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import NotFound


async def state(memory):
    return {entry.key: entry.value for entry in await memory.state.list(limit=1000)}


async def test_take_and_restore(both):
    for key, value in {"a": 1, "b": {"x": [None]}, "c": "ü"}.items():
        await both.state.put(key, value)
    await both.state.put("gone", 1)
    await both.state.delete("gone")
    before = await state(both)
    taken = await both.state.snapshots.take("nightly")
    assert (taken.name, taken.entries, taken.position) == ("nightly", 3, 5)
    entries = [entry async for entry in both.state.snapshots.entries(taken.id)]
    assert {entry.key: entry.value for entry in entries} == before
    await both.state.put("a", 2)
    await both.state.delete("b")
    await both.state.put("d", 1)
    assert await both.state.snapshots.restore(taken.id) == (2, 1)
    assert await state(both) == before
    assert await both.state.snapshots.restore(taken.id) == (0, 0)
    assert (await both.state.snapshots.list())[0] == taken
    assert await both.state.snapshots.list("other") == []


async def test_restore_is_a_change_like_any_other(both):
    await both.state.put("a", 1)
    taken = await both.state.snapshots.take()
    await both.state.put("a", 2)
    await both.state.put("b", 1)
    await both.state.snapshots.restore(taken.id)
    restored = await both.state.get("a")
    assert restored.version == 3
    history = await both.state.history("a")
    assert [(event.type, event.change.value) for event in history] == [
        ("state.put", 1), ("state.put", 2), ("state.restored", 1),
    ]  # fmt: skip
    assert [event.type for event in await both.state.history("b")] == ["state.put", "state.deleted"]


async def test_restore_keeps_expiry(both):
    entry = await both.state.put("a", 1, ttl=600)
    taken = await both.state.snapshots.take()
    await both.state.put("a", 1)
    assert await both.state.snapshots.restore(taken.id) == (1, 0)
    assert (await both.state.get("a")).expires_at == entry.expires_at


async def test_snapshot_that_is_not_there(both):
    with pytest.raises(NotFound, match="7"):
        await both.state.snapshots.restore(7)
    with pytest.raises(NotFound):
        _ = [entry async for entry in both.state.snapshots.entries(7)]


async def test_a_transaction_has_only_the_verbs_that_work_in_it(both):
    await both.state.put("k", "old")
    taken = await both.state.snapshots.take()
    async with both.transaction() as tx:
        state = getattr(tx, "wrapped", tx).state
        for absent in ("take", "watch"):
            assert not hasattr(state, absent)
            assert not hasattr(state.snapshots, absent)
        await tx.state.put("k", "new")
        assert await tx.state.snapshots.get(taken.id) == taken
        assert await tx.state.snapshots.restore(taken.id) == (1, 0)
    assert (await both.state.get("k")).value == "old"


async def test_restore_brings_back_the_lifetime(both):
    await both.state.put("k", "v", ttl=60)
    taken = await both.state.snapshots.take()
    await both.state.put("k", "v")
    await both.state.snapshots.restore(taken.id)
    assert (await both.state.get("k")).ttl == 60


async def test_a_deleted_snapshot_is_gone(both):
    await both.state.put("k", "v")
    first, second = await both.state.snapshots.take(), await both.state.snapshots.take()
    assert await both.state.snapshots.delete(first.id)
    assert not await both.state.snapshots.delete(first.id)
    assert await both.state.snapshots.list() == [second]
    with pytest.raises(NotFound):
        await both.state.snapshots.restore(first.id)


async def test_a_copy_holds_exactly_what_the_log_says_at_its_position(both, database_url):
    """Also when entries change after the position but before the copy: they are looked up."""
    with psycopg.connect(database_url) as writer, Memory(database_url) as other:
        for key in "abc":
            await both.state.put(key, 1)
        writer.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')")
        other.state.put("a", 2)
        other.state.delete("b")
        other.state.put("new", 1)
        taken = await both.state.snapshots.take()
        writer.rollback()
    assert taken.position == 3
    entries = [(e.key, e.value, e.version) async for e in both.state.snapshots.entries(taken.id)]
    assert entries == [("a", 1, 1), ("b", 1, 1), ("c", 1, 1)]


async def test_copies_under_load_are_what_replaying_the_log_gives(both, database_url):
    stop = threading.Event()

    def write(seed):
        with Memory(database_url) as memory:
            n = 0
            while not stop.is_set():
                n += 1
                key = f"k{(seed + n) % 7}"
                if n % 5 == 0:
                    memory.state.delete(key)
                elif n % 3 == 0:
                    memory.state.put(key, [seed, n], event=Event(type="x"), stream="mine")
                else:
                    memory.state.put(key, [seed, n])

    writers = [asyncio.to_thread(write, seed) for seed in range(4)]
    running = [asyncio.ensure_future(writer) for writer in writers]
    taken = []
    for _ in range(8):
        await asyncio.sleep(0.05)
        taken.append(await both.state.snapshots.take())
    stop.set()
    await asyncio.gather(*running)
    log = await both.events.read(limit=100_000)
    for snapshot in taken:
        replayed = {}
        for event in log:
            if event.position <= snapshot.position and event.change:
                if event.change.deleted:
                    replayed.pop(event.change.key)
                else:
                    replayed[event.change.key] = (event.change.value, event.change.version)
        entries = [entry async for entry in both.state.snapshots.entries(snapshot.id)]
        assert {e.key: (e.value, e.version) for e in entries} == replayed
