"""Members that wait: what wakes them, in their own memory and in others, and what they cost."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from pgmem.errors import LeaseLost
from tests.support.groups import fill, positions, waiting
from tests.support.subscribing import POLL, SOON
from tests.support.subscriptions import sql

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture(params=["same", "other"])
async def pair(request, form):
    """Open a memory that acts and one that waits, without the safety poll: one memory, or two."""
    async with form.memory(agent_id="tester", safety_poll=POLL) as memory:
        if request.param == "same":
            yield memory, memory
        else:
            async with form.memory(safety_poll=POLL) as other:
                yield memory, other


async def at_work(pair, count=2):
    """Return the group of both memories, with every event handed out to "a"."""
    memory, other = pair
    await fill(memory, count)
    group, elsewhere = await memory.groups.create("g"), await other.groups.get("g")
    return group, elsewhere, await group.read("a", lease=60)


async def test_an_append_wakes(pair):
    _, elsewhere, _ = await at_work(pair)
    waiter = await waiting(elsewhere, timeout=20)
    await fill(pair[0], 1)
    assert positions(await asyncio.wait_for(waiter, SOON)) == [3]


async def test_a_nack_wakes(pair):
    _, elsewhere, held = await at_work(pair)
    waiter = await waiting(elsewhere, timeout=20)
    await held[1].nack()
    assert positions(await asyncio.wait_for(waiter, SOON)) == [2]


async def test_a_requeue_wakes(pair):
    group, elsewhere, held = await at_work(pair)
    await held[0].dead_letter()
    waiter = await waiting(elsewhere, timeout=20)
    assert await group.requeue() == 1
    assert positions(await asyncio.wait_for(waiter, SOON)) == [1]


async def test_a_reset_wakes(pair):
    group, elsewhere, _ = await at_work(pair)
    waiter = await waiting(elsewhere, timeout=20)
    await group.reset(1)
    assert positions(await asyncio.wait_for(waiter, SOON)) == [2]


async def test_the_end_of_a_lease_wakes(pair):
    group, elsewhere, held = await at_work(pair)
    await held[0].extend(2)
    waiter = await waiting(elsewhere, timeout=20)
    assert positions(await asyncio.wait_for(waiter, SOON)) == [1]
    assert [one.member for one in await group.pending()] == ["waiter", None]


async def test_the_end_of_a_delay_wakes(pair):
    _, elsewhere, held = await at_work(pair)
    await held[0].nack(delay=2)
    waiter = await waiting(elsewhere, timeout=20)
    assert positions(await asyncio.wait_for(waiter, SOON)) == [1]


async def test_a_read_without_timeout_finds_what_another_memory_gave_back(pair):
    """Whatever its memory knew before."""
    _, elsewhere, held = await at_work(pair)
    assert await elsewhere.read("b", timeout=0.1) == []
    await held[0].nack()
    assert positions(await elsewhere.read("b")) == [1]
    await fill(pair[0], 1)
    assert positions(await elsewhere.read("b")) == [3]


async def test_without_notifications_the_safety_poll_finds_it(form, database_url):
    async with form.memory(safety_poll=0.3) as memory:
        await fill(memory, 1)
        group = await memory.groups.create("g")
        await group.read("a", lease=60)
        waiter = await waiting(group, timeout=20)
        with psycopg.connect(database_url) as silent:
            silent.execute(
                "INSERT INTO pgmem.events (stream, type, payload) VALUES ('work', 'job', '1');"
                "INSERT INTO pgmem.delayed (group_name, position, attempts, available_at) "
                "VALUES ('g', 1, 0, clock_timestamp())"
            )
        assert positions(await asyncio.wait_for(waiter, SOON)) == [1]
        assert positions(await group.read("a", timeout=5)) == [2]


async def test_a_wait_ends_in_time(both):
    group = await both.groups.create("g")
    started = time.monotonic()
    assert await group.read("a", timeout=0.4) == []
    assert 0.4 <= time.monotonic() - started < SOON


async def test_one_event_goes_to_one_of_many_waiting_members(form):
    async with form.memory(pool=8, safety_poll=POLL) as memory:
        group = await memory.groups.create("g")
        waiters = await asyncio.gather(*(waiting(group, f"m{n}", timeout=3) for n in range(5)))
        await fill(memory, 1)
        found = await asyncio.gather(*waiters)
    assert sorted(map(len, found)) == [0, 0, 0, 0, 1]


async def test_waiting_for_what_a_transaction_keeps_is_no_busy_loop(both, database_url):
    """Let a lease expire while its acknowledgement is not committed."""
    await fill(both, 1)
    group = await both.groups.create("g")
    held = await group.read("a", lease=0.2)
    await asyncio.sleep(0.3)
    asked = []
    raw = getattr(group, "wrapped", group)._claims
    ask = raw._ask
    raw._ask = lambda *args: (asked.append(1), ask(*args))[1]
    async with both.transaction() as tx:
        await group.ack(held, tx)
        assert await group.read("b", timeout=0.6) == []
    assert 2 <= len(asked) <= 16


async def test_an_idle_member_looks_as_rarely_as_the_follower_polls(form):
    """Twenty safety polls would pass. If notifications arrive, only every tenth is made."""
    async with form.memory(safety_poll=0.1) as memory:
        group = await memory.groups.create("g")
        asked = []
        raw = getattr(group, "wrapped", group)._claims
        ask = raw._ask
        raw._ask = lambda *args: (asked.append(1), ask(*args))[1]
        assert await group.read("a", timeout=2) == []
    assert 2 <= len(asked) <= 6


async def handed_after_a_wait(pair):
    """Return a member that waited for its event and knows that there is no other."""
    group, elsewhere, held = await at_work(pair)
    waiter = await waiting(elsewhere, timeout=20)
    await fill(pair[0], 1)
    mine = await asyncio.wait_for(waiter, SOON)
    assert positions(mine) == [3]
    return group, elsewhere, held, mine


async def test_what_was_given_back_while_it_was_at_work_is_not_missed(pair):
    _, elsewhere, held, mine = await handed_after_a_wait(pair)
    await held[1].nack()
    await asyncio.sleep(0.2)  # The notification has come, and no member waited for it.
    more = await asyncio.wait_for(elsewhere.read("waiter", timeout=20, ack=mine), SOON)
    assert positions(more) == [2]


async def test_a_lease_that_ends_while_it_was_at_work_is_not_missed(pair):
    _, elsewhere, held, mine = await handed_after_a_wait(pair)
    await held[0].extend(2)
    # Asked anew, as something new is there; then it knows when that lease ends.
    await fill(pair[0], 1)
    await asyncio.sleep(0.1)
    mine = await elsewhere.read("waiter", timeout=20, ack=mine)
    assert positions(mine) == [4]
    more = await asyncio.wait_for(elsewhere.read("waiter", timeout=20, ack=mine), SOON)
    assert positions(more) == [1]


async def test_a_member_that_has_all_events_acknowledges_and_waits(pair):
    group, elsewhere, _, mine = await handed_after_a_wait(pair)
    assert await elsewhere.read("waiter", timeout=0.1, ack=mine) == []
    assert [one.position for one in await group.pending()] == [1, 2]
    with pytest.raises(LeaseLost):
        await elsewhere.read("waiter", timeout=0.1, ack=mine)


async def test_a_slot_that_was_empty_and_is_not_is_left_alone(pair, database_url):
    """Let other members fill the batch row that a member knows as its own."""
    group, elsewhere, held, mine = await handed_after_a_wait(pair)
    assert await elsewhere.read("waiter", timeout=0.1, ack=mine) == []
    waiter = await waiting(elsewhere, timeout=20)
    sql(
        database_url,
        "UPDATE pgmem.batches SET token = nextval('pgmem.batches_token_seq')"
        " WHERE positions = '{}'",
    )
    await fill(pair[0], 1)
    last = await asyncio.wait_for(waiter, SOON)
    assert positions(last) == [4]
    await group.ack([*held, *last])
