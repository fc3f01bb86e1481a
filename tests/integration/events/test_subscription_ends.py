"""Subscriptions: how they end, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from contextlib import suppress

import psycopg
import pytest

from pgmem import AsyncMemory, Memory
from pgmem.core.concurrency import AsyncWakeup
from pgmem.errors import InvalidInput, NotOpen, PgmemError
from tests.support.both import Awaited
from tests.support.subscribing import POLL, SOON, entered, event, followers, payloads, receive

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture
async def both(form):
    """Open a memory whose safety poll is too late: an event arrives by its notification."""
    async with form.memory(agent_id="tester", safety_poll=POLL) as memory:
        yield memory


# How it ends


async def test_stop_ends_a_wait_from_another_thread(both):
    async with both.events.subscribe() as events:
        waiting = await entered(events)
        thread = threading.Thread(target=events.stop)
        thread.start()
        assert await asyncio.wait_for(waiting, SOON) == []
        thread.join()
        assert [item async for item in events] == []


async def test_stop_before_the_first_wait_is_kept(both):
    await both.events.append("s", event())
    events = both.events.subscribe()
    events.stop()
    assert [item async for item in events] == []
    await events.close()


async def test_close_from_elsewhere_ends_the_iteration(both):
    events = both.events.subscribe()
    waiting = await entered(events)
    await events.close()
    assert await asyncio.wait_for(waiting, SOON) == []
    assert await events.receive(timeout=SOON) == []
    await events.close()


async def test_a_closed_subscription_is_not_used_again(both):
    events = both.events.subscribe()
    await events.close()
    assert await events.receive() == []
    with pytest.raises(InvalidInput, match="closed"):
        async with events:
            pass


async def test_a_memory_closed_under_a_waiting_subscription_ends_it(form):
    async with form.memory() as memory:
        events = [memory.events.subscribe() for _ in range(3)]
        waiting = [await entered(each) for each in events]
        await asyncio.wait_for(memory.close(), SOON)
        assert await asyncio.wait_for(asyncio.gather(*waiting), SOON) == [[], [], []]
        assert [item async for item in events[0]] == []
        with pytest.raises(NotOpen):
            async with memory.events.subscribe():
                pass
        for each in events:
            await each.close()


async def test_a_memory_closed_under_a_subscription_that_catches_up_ends_it(form, memory):
    """While a writer is open for long, subscriptions read from the database."""
    with memory.transaction() as tx:
        tx.events.append("s", event())
        for n in range(6):
            async with form.memory() as other:
                events = other.events.subscribe()
                waiting = asyncio.ensure_future(receive(events, 1))
                await asyncio.sleep(0.05 + n * 0.03)
                await asyncio.wait_for(other.close(), SOON)
                assert await asyncio.wait_for(waiting, SOON) == []


async def test_a_memory_that_is_not_open_is_not_followed(form, database_url):
    memory = Awaited(Memory(database_url)) if form.name == "sync" else AsyncMemory(database_url)
    with pytest.raises(NotOpen):
        await memory.events.subscribe().receive()


async def test_cancelling_a_subscriber_leaks_no_task_connection_or_follower(database_url):
    async with AsyncMemory(database_url, pool=2) as memory:
        await memory.events.append("s", event())

        async def follow(after, pause):
            async with memory.events.subscribe("s", after=after) as events:
                async for _ in events:
                    await asyncio.sleep(pause)

        async with memory.events.subscribe() as keeper:
            await receive(keeper, 1)
            before = asyncio.all_tasks()
            for n in range(60):
                task = asyncio.create_task(follow((0, "now", 1)[n % 3], 0))
                await asyncio.sleep(n * 0.0003)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert asyncio.all_tasks() == before
            assert len(followers(memory)) == 1
            # Every connection can be had again.
            async with memory.transaction(), memory.transaction():
                pass
            await memory.events.append("s", event("after"))
            assert await payloads(keeper, 1) == ["after"]
        assert not followers(memory)


async def test_a_cancelled_receive_loses_no_event(database_url):
    async with AsyncMemory(database_url) as memory, memory.events.subscribe() as events:
        found = []
        for n in range(100):
            task = asyncio.create_task(events.receive(timeout=SOON))
            await memory.events.append("s", event(n))
            await asyncio.sleep(n * 0.00005)
            task.cancel()
            with suppress(asyncio.CancelledError):
                found += [item.payload for item in await task]
        found += await payloads(events, 100 - len(found))
        assert found == list(range(100))


async def test_subscriptions_that_are_forgotten_do_not_pile_up(both):
    for _ in range(8):
        events = both.events.subscribe()
        await events.receive(timeout=0)
        del events
        gc.collect()
    assert len(followers(both)) <= 3


async def test_no_thread_or_task_outlives_the_memory(form):
    threads, tasks = threading.active_count(), asyncio.all_tasks()
    async with form.memory() as memory:
        async with memory.events.subscribe(after="now") as events:
            waiting = await entered(events)
            await memory.events.append("s", event(1))
            await waiting
        await memory.close()
    names = {thread.name for thread in threading.enumerate()}
    assert not [name for name in names if name.startswith(("pgmem", "pool"))]
    assert asyncio.all_tasks() == tasks
    assert threading.active_count() <= threads + 2  # those of to_thread stay


@pytest.fixture
def hide_events(database_url):
    """Takes the table of events away, and brings it back."""

    def rename(old, new):
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE pgmem.{old} RENAME TO {new}")

    return lambda hidden: rename(*(("events", "hidden") if hidden else ("hidden", "events")))


async def test_a_failure_of_the_feed_reaches_every_subscriber_and_the_next_one_starts_it_again(
    both, hide_events
):
    async with both.events.subscribe() as one, both.events.subscribe("s") as other:
        waiting = [await entered(one), await entered(other)]
        hide_events(True)
        with suppress(PgmemError):
            await both.events.append("s", event())
        poll_now(follower_of(both))
        for each in waiting:
            with pytest.raises(PgmemError):
                await asyncio.wait_for(each, SOON)
        with pytest.raises(PgmemError):
            await one.receive(timeout=SOON)
    hide_events(False)
    async with both.events.subscribe(after="now") as events:
        waiting = await entered(events)
        await both.events.append("s", event("again"))
        assert [e.payload for e in await asyncio.wait_for(waiting, SOON)] == ["again"]


async def test_a_subscription_that_begins_while_following_fails_gets_its_events(both, hide_events):
    async with both.events.subscribe() as events:
        waiting = await entered(events)
        failing, go_on = threading.Event(), threading.Event()
        hold(follower_of(both)._listener, failing, go_on)
        hide_events(True)
        poll_now(follower_of(both))
        with pytest.raises(PgmemError):
            await asyncio.wait_for(waiting, SOON)
    assert await asyncio.to_thread(failing.wait, SOON)
    hide_events(False)
    async with both.events.subscribe() as events:
        await both.events.append("s", event(1))
        assert await payloads(events, 1) == [1]
        go_on.set()
        waiting = await entered(events)
        await asyncio.sleep(0.5)
        assert follower_of(both)._buffer.live
        await both.events.append("s", event(2))
        assert [e.payload for e in await asyncio.wait_for(waiting, SOON)] == [2]


def follower_of(memory):
    return getattr(memory, "wrapped", memory)._follower


def poll_now(follower):
    """Let the follower poll, as a notification without an event does."""
    follower._listener.payloads.append("")
    follower._listener.wake()


def hold(listener, reached, go_on):
    """Keep a listener from disconnecting, once."""
    real = listener.disconnect

    def sync():
        listener.disconnect = real
        reached.set()
        go_on.wait(SOON)
        real()

    async def asynchronous():
        listener.disconnect = real
        reached.set()
        await asyncio.to_thread(go_on.wait, SOON)
        await real()

    listener.disconnect = asynchronous if asyncio.iscoroutinefunction(real) else sync


async def test_a_call_from_another_thread_is_not_lost_when_the_wait_begins():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(500):
            wakeup = AsyncWakeup()
            thread = threading.Thread(target=wakeup.set)
            thread.start()
            assert await wakeup.wait(SOON)
            thread.join()
    finally:
        sys.setswitchinterval(before)
