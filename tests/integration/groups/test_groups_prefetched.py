"""Prefetched events are handed out once, in order, and never kept from other members."""

from __future__ import annotations

import asyncio

import pytest

import pgmem._sync.groups.batches as sync_batches
import pgmem.groups.batches as async_batches
from pgmem.errors import LeaseLost
from pgmem.groups import claim_ops as claims
from pgmem.groups import prefetch_ops
from pgmem.retention import sweep_ops as sweeps
from tests.support.groups import batch_rows, fill, lapse, opened, positions
from tests.support.subscriptions import sql
from tests.system.retention.test_trimmed import trim


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Prefetch four batches for a minute, however slow the machine is."""
    for module in (async_batches, sync_batches):
        monkeypatch.setattr(module, "batches_to_prefetch", lambda count, _: 4)
    for module in (async_batches, sync_batches, claims, prefetch_ops):
        monkeypatch.setattr(module, "PREFETCH_SECONDS", 60.0)


def prefetched(url) -> list[int]:
    return sql(
        url,
        "SELECT coalesce(array_agg(one ORDER BY one), '{}') "
        "FROM pgmem.batches CROSS JOIN LATERAL unnest(prefetched) AS one",
    )[0][0]


def leave(url):
    """Let a member not have come for what is reserved for it."""
    sql(url, "UPDATE pgmem.batches SET claimed_at = claimed_at - interval '2 minutes'")


async def prefetching(both, database_url, *, more=True):
    """Create a group and a member that holds events 3 and 4, with 5 to 12 prefetched for it.

    13 to 36 are behind that; or, without `more`, with another member.
    """
    group = await opened(both, 36)
    held = await group.read("a", 2)
    held = await group.read("a", 2, ack=held)
    assert positions(held) == [3, 4]
    assert prefetched(database_url) == [*range(5, 13)]
    if not more:
        assert positions(await group.read("z", 99)) == [*range(13, 37)]
    return group, held


async def test_a_member_gets_all_in_order_and_touches_the_group_now_and_then(both, database_url):
    group, held = await prefetching(both, database_url)
    moved, got = set(), [1, 2]
    while held:
        got += positions(held)
        assert {one.attempts for one in held} == {1}
        moved.add(sql(database_url, "SELECT position FROM pgmem.groups")[0][0])
        held = await group.read("a", 2, ack=held)
    assert got == [*range(1, 37)]
    # Never more than a quarter of what there is.
    assert moved == {12, 20, 26, 30, 32, 34, 36}
    assert prefetched(database_url) == []


async def test_what_is_reserved_is_not_handed_out(both, database_url):
    group, _ = await prefetching(both, database_url)
    info = await group.info()
    assert (info.position, info.held, info.delayed) == (12, 2, 0)
    assert await group.lag() == 32
    assert [one.position for one in await group.pending()] == [3, 4]


async def test_each_batch_has_a_token_and_a_lease_of_its_own(both, database_url):
    group, held = await prefetching(both, database_url)
    then = await group.read("a", 2, lease=90, ack=held)
    assert then[0].token > held[0].token
    assert (then[0].expires_at - held[0].expires_at).total_seconds() > 50
    with pytest.raises(LeaseLost):
        await group.ack(held)
    await group.ack(then)


async def test_an_idle_member_gets_prefetched_events_at_once(both, database_url):
    group, held = await prefetching(both, database_url, more=False)
    others = await group.read("b", 3)
    assert positions(others) == [5, 6, 7]
    assert {one.attempts for one in others} == {1}
    assert positions(await group.read("a", 9, ack=held)) == [8, 9, 10, 11, 12]
    assert await group.read("c") == []


async def test_prefetched_events_before_ones_own_are_not_taken(both, database_url):
    group, _ = await prefetching(both, database_url, more=False)
    assert await group.read("z") == []
    leave(database_url)
    assert positions(await group.read("z", timeout=20)) == [*range(5, 13)]


async def test_others_get_what_is_new_as_long_as_its_member_is_quick(both, database_url):
    group, held = await prefetching(both, database_url)
    assert positions(await group.read("b", 3)) == [13, 14, 15]
    assert positions(await group.read("a", 2, ack=held)) == [5, 6]


async def test_what_is_left_comes_before_what_is_new(both, database_url):
    group, held = await prefetching(both, database_url)
    leave(database_url)
    assert positions(await group.read("b", 3)) == [5, 6, 7]
    assert positions(await group.read("a", 3, ack=held)) == [8, 9, 10]


async def test_left_events_come_first_for_an_acknowledging_member_too(both, database_url):
    group, _ = await prefetching(both, database_url)
    other = await group.read("b", 2)
    assert positions(other) == [13, 14]
    leave(database_url)
    assert positions(await group.read("b", 2, ack=other)) == [5, 6]


async def test_reading_on_without_acknowledging_keeps_the_order(both, database_url):
    group, held = await prefetching(both, database_url)
    more = await group.read("a", 3)
    assert positions(more) == [5, 6, 7]
    assert {one.attempts for one in more} == {1}
    await group.ack([*held, *more])


async def test_acknowledging_a_part_keeps_the_order(both, database_url):
    group, held = await prefetching(both, database_url)
    more = await group.read("a", 3, ack=held[:1])
    assert positions(more) == [5, 6, 7]
    assert [one.position for one in await group.pending()][:4] == [4, 5, 6, 7]
    assert positions(await group.read("a", 3, ack=[held[1], *more])) == [8, 9, 10]


async def test_a_member_that_was_slow_looks_for_all_else_first(both, database_url, monkeypatch):
    group, held = await prefetching(both, database_url)
    other = await group.read("b", 1)
    await other[0].nack()
    for module in (async_batches, sync_batches, claims, prefetch_ops):
        monkeypatch.setattr(module, "PREFETCH_SECONDS", 0.1)
    await asyncio.sleep(0.15)
    assert positions(await group.read("a", 9, ack=held)) == [*range(5, 14)]


async def test_a_waiting_member_is_woken_when_prefetched_events_are_left(both, database_url):
    """Another member asks for it, and takes less than there is."""
    group, _ = await prefetching(both, database_url, more=False)
    assert positions(await group.read("b", 1)) == [5]
    assert positions(await group.read("c", 99, timeout=5)) == [*range(6, 13)]


@pytest.fixture
async def elsewhere(form):
    """Another process, as far as pgmem can tell."""
    async with form.memory() as memory:
        yield memory


async def test_a_lost_lease_gives_nothing(both, elsewhere, database_url):
    group, held = await prefetching(both, database_url)
    lapse(database_url)
    assert positions(await (await elsewhere.groups.get("g")).read("b", 2)) == [3]
    with pytest.raises(LeaseLost):
        await group.read("a", 2, ack=held)
    assert prefetched(database_url) == []


async def test_a_takeover_loses_no_prefetched_event(both, elsewhere, database_url):
    await prefetching(both, database_url)
    lapse(database_url)
    other = await elsewhere.groups.get("g")
    taken = await other.read("b", 2)
    got = []
    while taken:
        got += positions(taken)
        taken = await other.read("b", 2, ack=taken)
    assert got == [*range(3, 37)]


async def test_a_reset_forgets_it(both, database_url):
    group, held = await prefetching(both, database_url)
    await group.reset(15)
    assert prefetched(database_url) == []
    with pytest.raises(LeaseLost):
        await group.read("a", 2, ack=held)
    assert positions(await group.read("a", 2)) == [16, 17]


async def test_no_trim_removes_it(both, database_url):
    group, held = await prefetching(both, database_url)
    await group.ack(held)
    done = await both.retention.trim(max_events=1)
    assert (done.removed, prefetched(database_url)[0]) == (4, 5)
    assert positions(await group.read("a", 1)) == [5]


async def test_a_forced_trim_of_it_is_no_secret(both, database_url):
    group, held = await prefetching(both, database_url)
    trim(database_url, 7)
    got = []
    while held := await group.read("a", 2, ack=held):
        got += positions(held)
    assert sorted(got) == [*range(8, 37)]
    lapse(database_url)
    assert await group.read("b", 9) == []
    buried = await group.dead_letters()
    assert [one.event and one.event.position for one in buried] == [None] * 3
    assert {one.error for one in buried} == {"retention has removed the event"}


async def test_a_batch_row_with_prefetched_events_is_neither_used_nor_swept(
    both, database_url, monkeypatch
):
    monkeypatch.setattr(sweeps, "KEPT_BATCHES", 0)
    group, held = await prefetching(both, database_url)
    await group.ack(held)
    await group.read("b", 1)
    assert batch_rows(database_url) == 2
    sql(database_url, "UPDATE pgmem.batches SET claimed_at = claimed_at - interval '9 days'")
    await both.retention.maintain()
    assert prefetched(database_url) == [*range(5, 13)]


async def test_an_ordered_group_prefetches_nothing(both, database_url):
    await fill(both, 20, key=lambda n: str(n % 3))
    group = await both.groups.create("g", ordered_by="key")
    held = await group.read("a", 2)
    held = await group.read("a", 2, ack=held)
    assert positions(held) == [3, 4]
    assert prefetched(database_url) == []


async def test_a_member_that_lost_prefetched_events_pauses_prefetching(both, database_url):
    group, held = await prefetching(both, database_url, more=False)
    await group.read("b", 99)
    await fill(both, 20)
    for _ in range(3):
        held = await group.read("a", 2, ack=held)
    assert positions(held) == [41, 42]
    assert prefetched(database_url) == []


@pytest.mark.parametrize(
    ("count", "interval", "batches"),
    [(1, 0.0001, 16), (1, 0.01, 12), (1, 0.2, 0), (10, 0.001, 12), (100, 0.001, 1),
     (1000, 0.0, 1), (50, 0.06, 2)],
)  # fmt: skip
def test_how_much(count, interval, batches, monkeypatch):
    monkeypatch.setattr(prefetch_ops, "PREFETCH_SECONDS", 0.25)
    assert prefetch_ops.batches_to_prefetch(count, interval) == batches
