"""Events that no trim removes: unread by a stored reader, claimed, or above the stable position."""

from __future__ import annotations

import psycopg
import pytest

from pgmem import Event
from pgmem.retention import ops
from pgmem.retention.models import LaggingReader
from tests.support.retention import (
    add_batch,
    add_dead_letter,
    add_delayed,
    fill,
    left,
    marks,
    report,
    run,
    store_group,
    store_subscription,
)


async def test_slowest_subscription_holds_back_a_trim(both, database_url):
    await fill(both, 20)
    store_subscription(database_url, 15, "fast")
    store_subscription(database_url, 7, "slow")
    store_group(database_url, 9, "slow too")
    done = await both.retention.trim(max_events=4)
    assert done == report(7, 1, 7, holder=LaggingReader("subscription", "slow", 7))
    store_subscription(database_url, 12, "slow")
    done = await both.retention.trim(max_events=4)
    assert done == report(2, 8, 9, holder=LaggingReader("group", "slow too", 9))
    store_group(database_url, 16, "slow too")
    store_subscription(database_url, 16, "slow")
    assert await both.retention.trim(max_events=4) == report(
        6, 10, 15, holder=LaggingReader("subscription", "fast", 15)
    )
    assert await both.retention.trim(max_events=4, force=True) == report(1, 16, 16)


async def test_subscription_at_0_holds_back_everything(both, database_url):
    await fill(both, 20)
    async with both.events.subscribe(durable="new", auto_commit=False) as events:
        done = await both.retention.trim(max_events=1)
        assert done == report(0, None, None, holder=LaggingReader("subscription", "new", 0))
        found = await events.receive(100)
        assert len(found) == 20
        await events.commit(found[-1])
        assert await both.retention.trim(max_events=1) == report(19, 1, 19)


MAY_WANT = ["{}", '{"streams": ["a"]}', '{"streams": ["b", "a"]}', '{"prefix": "a"}',
            '{"types": ["x"]}', '{"agents": ["x"]}', '{"streams": ["a"], "types": ["x"]}',
            '{"prefix": ""}']  # fmt: skip
DOES_NOT = ['{"streams": ["b"]}', '{"streams": ["b", "ab"]}', '{"prefix": "ab"}', '{"prefix": "b"}',
            '{"streams": ["b"], "types": ["t"]}']  # fmt: skip


@pytest.mark.parametrize("store", [store_subscription, store_group])
async def test_trim_of_a_stream_heeds_readers_that_may_select_it(memory, database_url, store):
    for n in range(20):
        memory.events.append("a", Event(type="t", payload=n))
    for n, selection in enumerate(DOES_NOT):
        store(database_url, 3, f"other {n}", selection)
    for n, selection in enumerate(MAY_WANT):
        store(database_url, n + 5, "wants", selection)
        run(
            database_url,
            "UPDATE pgmem.subscriptions SET filter = %s WHERE name = 'wants'",
            [selection],
        )
        run(database_url, "UPDATE pgmem.groups SET filter = %s WHERE name = 'wants'", [selection])
        (done,) = memory.retention.trim("a", max_events=1).streams
        assert done.held_back_by == LaggingReader(store.__name__[6:], "wants", n + 5), selection
        assert marks(database_url)["a"][0] == n + 5
    # A reader of another stream holds back a trim of the whole log.
    (done,) = memory.retention.trim(max_events=1).streams
    assert done.held_back_by.position == 3


@pytest.mark.parametrize("force", [False, True])
async def test_events_claimed_by_a_group_stay(both, database_url, force):
    await fill(both, 20)
    store_group(database_url, 20)
    add_batch(database_url, 3, 4, 18)
    add_batch(database_url)
    add_delayed(database_url, 8)
    add_dead_letter(database_url, 9)
    assert await both.retention.trim(max_events=4, force=force) == report(12, 1, 16, kept=4)
    assert left(database_url) == [3, 4, 8, 9, 17, 18, 19, 20]
    # After the group has dropped them, they are removed, too.
    run(database_url, "DELETE FROM pgmem.batches; DELETE FROM pgmem.delayed")
    done = await both.retention.trim(max_events=4, force=force)
    assert done == report(3, 3, 8, kept=1)
    assert left(database_url) == [9, 17, 18, 19, 20]
    assert marks(database_url) == {"": (16, 15)}


async def test_kept_events_are_checked_again_in_parts(both, database_url, monkeypatch):
    monkeypatch.setattr(ops, "BATCH", 3)
    await fill(both, 60)
    store_group(database_url, 60)
    add_batch(database_url, *range(1, 51))
    assert await both.retention.trim(max_events=5) == report(5, 51, 55, kept=50)
    run(database_url, "DELETE FROM pgmem.batches")
    removed = [(await both.retention.trim(max_events=5)).removed for _ in range(6)]
    assert sum(removed) == 50
    assert max(removed) == 4 * 3
    assert left(database_url) == [56, 57, 58, 59, 60]


async def test_a_versioned_stream_goes_on_counting(both, database_url):
    for version in range(5):
        await both.events.append("v", Event(type="t"), expected_version=version)
    await both.events.append("w", Event(type="t"), expected_version=0)
    await fill(both, 5)
    assert await both.retention.trim(max_events=1, force=True) == report(8, 1, 10, kept=2)
    assert left(database_url) == [5, 6, 11]
    assert await both.events.version("v") == 5
    receipt = await both.events.append("v", Event(type="t"), expected_version=5)
    assert (receipt.position, receipt.version) == (12, 6)
    assert await both.retention.trim(max_events=1) == report(2, 5, 11, kept=1)
    assert left(database_url) == [6, 12]
    assert await both.events.version("w") == 1


async def test_trim_ends_at_the_stable_position(both, database_url):
    await fill(both, 5)
    with psycopg.connect(database_url) as slow:
        slow.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('a', 't', '1')")
        await fill(both, 5)
        assert await both.retention.trim(max_events=1) == report(4, 1, 4)
        slow.commit()
    assert await both.retention.trim(max_events=1) == report(6, 5, 10)
