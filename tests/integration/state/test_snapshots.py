"""Snapshots: folds, and copies of the whole state."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import Event, Fold, Memory
from pgmem.errors import CallbackFailed, InvalidInput, NotFound
from pgmem.folds.models import Folded


def total(value, event):
    return value + event.payload


def fold(**changes):
    return Fold(**({"name": "total", "initial": int, "apply": total, "stream": "s"} | changes))


async def append(memory, *numbers, stream="s"):
    for number in numbers:
        await memory.events.append(stream, Event(type="t", payload=number))


async def test_fold_starts_from_its_newest_snapshot(both):
    await append(both, 1, 2, 3)
    assert await both.snapshots.fold(fold(), save_every=2) == Folded(6, 3)
    await append(both, 4)
    seen = []

    def remember(value, event):
        seen.append(event.payload)
        return value + event.payload

    assert await both.snapshots.fold(fold(apply=remember), save_every=0) == Folded(10, 4)
    assert seen == [4]


async def test_changed_fold_never_reads_an_old_snapshot(both):
    await append(both, 1, 2, 3)
    await both.snapshots.fold(fold(), save_every=1)
    doubled = fold(version=2, apply=lambda value, event: value + 2 * event.payload)
    assert (await both.snapshots.fold(doubled, save_every=1)).value == 12
    assert (await both.snapshots.load("total", fold_version=1)).value == 6
    assert (await both.snapshots.load("total", fold_version=2)).value == 12
    assert await both.snapshots.load("total", fold_version=3) is None


async def test_fold_of_a_stream_moves_on_over_other_streams(both):
    await append(both, 1)
    await append(both, 7, 7, stream="other")
    folded = await both.snapshots.fold(fold(), save_every=1)
    assert folded == Folded(1, 3)
    assert await both.snapshots.fold(fold(stream=None, version=2)) == Folded(15, 3)


async def test_fold_over_many_pages(both):
    await both.events.append("s", [Event(type="t", payload=1)] * 10_000)
    await both.events.append("s", [Event(type="t", payload=1)] * 2_345)
    assert (await both.snapshots.fold(fold())).value == 12_345


async def test_fold_ends_below_what_is_still_being_written(both, database_url):
    await append(both, 1)
    with psycopg.connect(database_url) as writer:
        writer.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '10')")
        await append(both, 100)
        assert await both.snapshots.fold(fold(), save_every=1) == Folded(1, 1)
        writer.commit()
    assert await both.snapshots.fold(fold(), save_every=1) == Folded(111, 3)


async def test_fold_of_a_model(both):
    class Balance(BaseModel):
        amount: int = 0

    def add(balance, event):
        return Balance(amount=balance.amount + event.payload)

    await append(both, 1, 2)
    balances = fold(initial=Balance, apply=add)
    await both.snapshots.fold(balances, save_every=1, model=Balance)
    await append(both, 3)
    assert (await both.snapshots.fold(balances, model=Balance)).value == Balance(amount=6)


async def test_fold_that_raises_keeps_nothing(both):
    await append(both, 1, 0)
    with pytest.raises(CallbackFailed, match="position 2"):
        await both.snapshots.fold(fold(apply=lambda value, event: 1 // event.payload), save_every=1)
    assert await both.snapshots.load("total") is None


async def test_saving_one_position_twice_changes_nothing(both):
    assert await both.snapshots.save("mine", {"a": 1}, position=5)
    assert not await both.snapshots.save("mine", {"a": 2}, position=5)
    assert await both.snapshots.load("mine") == Folded({"a": 1}, 5)


async def state(memory):
    return {entry.key: entry.value for entry in await memory.state.list(limit=1000)}


async def test_take_and_restore(both):
    for key, value in {"a": 1, "b": {"x": [None]}, "c": "ü"}.items():
        await both.state.put(key, value)
    await both.state.put("gone", 1)
    await both.state.delete("gone")
    before = await state(both)
    taken = await both.snapshots.take("nightly")
    assert (taken.name, taken.entries, taken.position) == ("nightly", 3, 5)
    entries = [entry async for entry in both.snapshots.entries(taken.id)]
    assert {entry.key: entry.value for entry in entries} == before
    await both.state.put("a", 2)
    await both.state.delete("b")
    await both.state.put("d", 1)
    assert await both.snapshots.restore(taken.id) == (2, 1)
    assert await state(both) == before
    assert await both.snapshots.restore(taken.id) == (0, 0)
    assert (await both.snapshots.list())[0] == taken
    assert await both.snapshots.list("other") == []


async def test_restore_is_a_change_like_any_other(both):
    await both.state.put("a", 1)
    taken = await both.snapshots.take()
    await both.state.put("a", 2)
    await both.state.put("b", 1)
    await both.snapshots.restore(taken.id)
    restored = await both.state.get("a")
    assert restored.version == 3
    history = await both.state.history("a")
    assert [(event.type, event.change.value) for event in history] == [
        ("state.put", 1), ("state.put", 2), ("state.restored", 1),
    ]  # fmt: skip
    assert [event.type for event in await both.state.history("b")] == ["state.put", "state.deleted"]


async def test_restore_keeps_expiry(both):
    entry = await both.state.put("a", 1, ttl=600)
    taken = await both.snapshots.take()
    await both.state.put("a", 1)
    assert await both.snapshots.restore(taken.id) == (1, 0)
    assert (await both.state.get("a")).expires_at == entry.expires_at


async def test_snapshot_that_is_not_there(both):
    with pytest.raises(NotFound, match="7"):
        await both.snapshots.restore(7)
    with pytest.raises(NotFound):
        _ = [entry async for entry in both.snapshots.entries(7)]


async def test_copies_and_folds_are_refused_inside_a_transaction(both):
    async with both.transaction() as tx:
        with pytest.raises(InvalidInput, match="outside"):
            await tx.snapshots.take()
        with pytest.raises(InvalidInput, match="outside"):
            await tx.snapshots.fold(fold())


async def test_a_copy_holds_exactly_what_the_log_says_at_its_position(both, database_url):
    """Also when entries change after the position but before the copy: they are looked up."""
    with psycopg.connect(database_url) as writer, Memory(database_url) as other:
        for key in "abc":
            await both.state.put(key, 1)
        writer.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '0')")
        other.state.put("a", 2)
        other.state.delete("b")
        other.state.put("new", 1)
        taken = await both.snapshots.take()
        writer.rollback()
    assert taken.position == 3
    entries = [(e.key, e.value, e.version) async for e in both.snapshots.entries(taken.id)]
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
        taken.append(await both.snapshots.take())
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
        entries = [entry async for entry in both.snapshots.entries(snapshot.id)]
        assert {e.key: (e.value, e.version) for e in entries} == replayed
