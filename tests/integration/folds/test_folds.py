"""Folds: values that are computed from events, and their snapshots."""

from __future__ import annotations

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import Event, Fold
from pgmem.errors import CallbackFailed
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
    assert await both.folds.fold(fold(), save_every=2) == Folded(6, 3)
    await append(both, 4)
    seen = []

    def remember(value, event):
        seen.append(event.payload)
        return value + event.payload

    assert await both.folds.fold(fold(apply=remember), save_every=0) == Folded(10, 4)
    assert seen == [4]


async def test_changed_fold_never_reads_an_old_snapshot(both):
    await append(both, 1, 2, 3)
    await both.folds.fold(fold(), save_every=1)
    doubled = fold(version=2, apply=lambda value, event: value + 2 * event.payload)
    assert (await both.folds.fold(doubled, save_every=1)).value == 12
    assert (await both.folds.load("total", version=1)).value == 6
    assert (await both.folds.load("total", version=2)).value == 12
    assert await both.folds.load("total", version=3) is None


async def test_fold_of_a_stream_moves_on_over_other_streams(both):
    await append(both, 1)
    await append(both, 7, 7, stream="other")
    folded = await both.folds.fold(fold(), save_every=1)
    assert folded == Folded(1, 3)
    assert await both.folds.fold(fold(stream=None, version=2)) == Folded(15, 3)


async def test_fold_over_many_pages(both):
    await both.events.append("s", [Event(type="t", payload=1)] * 10_000)
    await both.events.append("s", [Event(type="t", payload=1)] * 2_345)
    assert (await both.folds.fold(fold())).value == 12_345


async def test_fold_ends_below_what_is_still_being_written(both, database_url):
    await append(both, 1)
    with psycopg.connect(database_url) as writer:
        writer.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('s', 't', '10')")
        await append(both, 100)
        assert await both.folds.fold(fold(), save_every=1) == Folded(1, 1)
        writer.commit()
    assert await both.folds.fold(fold(), save_every=1) == Folded(111, 3)


async def test_fold_of_a_model(both):
    class Balance(BaseModel):
        amount: int = 0

    def add(balance, event):
        return Balance(amount=balance.amount + event.payload)

    await append(both, 1, 2)
    balances = fold(initial=Balance, apply=add)
    await both.folds.fold(balances, save_every=1, model=Balance)
    await append(both, 3)
    assert (await both.folds.fold(balances, model=Balance)).value == Balance(amount=6)


async def test_fold_that_raises_keeps_nothing(both):
    await append(both, 1, 0)
    with pytest.raises(CallbackFailed, match="position 2"):
        await both.folds.fold(fold(apply=lambda value, event: 1 // event.payload), save_every=1)
    assert await both.folds.load("total") is None


async def test_saving_one_position_twice_changes_nothing(both):
    assert await both.folds.save("mine", {"a": 1}, position=5)
    assert not await both.folds.save("mine", {"a": 2}, position=5)
    assert await both.folds.load("mine") == Folded({"a": 1}, 5)


async def test_delete_removes_the_snapshots_of_a_fold(both):
    for version, position in ((1, 5), (1, 9), (2, 9)):
        await both.folds.save("mine", 1, position=position, version=version)
    await both.folds.save("other", 1, position=9)
    assert await both.folds.delete("mine", version=1) == 2
    assert await both.folds.load("mine") is None
    assert await both.folds.load("mine", version=2) == Folded(1, 9)
    assert await both.folds.delete("mine") == 1
    assert await both.folds.load("other") is not None


async def test_a_transaction_has_only_the_verbs_that_work_in_it(both):
    async with both.transaction() as tx:
        assert not hasattr(getattr(tx, "wrapped", tx).folds, "fold")
        assert await tx.folds.save("mine", {"a": 1}, position=5)
        assert await tx.folds.load("mine") == Folded({"a": 1}, 5)
    assert await both.folds.load("mine") == Folded({"a": 1}, 5)
