"""A stored position follows what was handled, never what was handed out."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import pytest

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import InvalidInput, LeaseLost
from tests.support.both import module_name

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


class HandlerError(Exception):
    """A handler raised."""


async def append(memory, count):
    await memory.events.append("payments", [Event(type="t", payload=n + 1) for n in range(count)])


async def stored(memory, name="billing"):
    return (await memory.subscriptions.get(name)).position


async def handle_each(memory, handle, **options):
    """Handle the events of an iteration, until there are none or `handle` raises."""
    async with memory.events.subscribe(durable="billing", **options) as events:
        async for event in events:
            await handle(events, event)
            if event.position == 10:
                break


def failing_at(*positions):
    """Return a handler that raises at each of the positions once, and the list of the handled."""
    handled, failing = [], list(positions)

    async def handle(events, event):
        if event.position in failing:
            failing.remove(event.position)
            raise HandlerError
        handled.append(event.position)

    return handle, handled


async def test_an_iteration_continues_at_the_event_where_its_handler_raised(both):
    await append(both, 10)
    handle, handled = failing_at(3, 8)
    for position in (2, 7):
        with pytest.raises(HandlerError):
            await handle_each(both, handle)
        assert await stored(both) == position
    await handle_each(both, handle)
    assert handled == list(range(1, 11))


@pytest.mark.parametrize("auto_commit", [True, False])
async def test_a_batch_comes_again_if_its_handler_raised(both, auto_commit):
    await append(both, 10)
    with suppress(HandlerError):
        async with both.events.subscribe(durable="billing", auto_commit=auto_commit) as events:
            for event in await events.receive():
                if event.position == 3:
                    raise HandlerError
    assert await stored(both) == 0
    async with both.events.subscribe(durable="billing") as events:
        assert [event.position for event in await events.receive()] == list(range(1, 11))


@pytest.mark.parametrize("auto_commit", [True, False])
async def test_a_block_left_in_the_middle_of_a_batch_commits_nothing_of_it(both, auto_commit):
    await append(both, 10)
    async with both.events.subscribe(durable="billing", auto_commit=auto_commit) as events:
        for event in await events.receive():
            if event.position == 4:
                break
    assert await stored(both) == 0
    async with both.events.subscribe(durable="billing") as events:
        assert len(await events.receive()) == 10


async def test_a_block_left_after_a_break_stores_what_came_before_the_last_event(both):
    await append(both, 10)
    async with both.events.subscribe(durable="billing") as events:
        async for event in events:
            if event.position == 4:
                break
    assert await stored(both) == 3
    async with both.events.subscribe(durable="billing") as events:
        async for event in events:
            if event.position == 7:
                await events.commit(event)
                break
    assert await stored(both) == 7


async def test_without_auto_commit_an_iteration_stores_only_what_commit_names(both):
    await append(both, 10)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        async for event in events:
            if event.position == 3:
                await events.commit(event)
            if event.position == 6:
                break
    assert await stored(both) == 3


async def test_a_cancelled_handler_has_not_handled_its_event(form):
    async with form.memory() as memory:
        await append(memory, 10)
        begun = asyncio.Event()

        async def handle(events, event):
            if event.position == 3:
                begun.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(handle_each(memory, handle))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await stored(memory) == 2


async def test_cancelling_a_receive_that_waits_loses_no_event(database_url):
    async with AsyncMemory(database_url) as memory:
        await append(memory, 2)
        got = []
        async with memory.events.subscribe(durable="billing") as events:
            for _ in range(40):
                waiting = asyncio.create_task(events.receive())
                appending = asyncio.create_task(append(memory, 1))
                await asyncio.sleep(0.002)
                if not waiting.cancel() or not await ended(waiting):
                    got += [event.position for event in await waiting]
                await appending
            while more := await events.receive(timeout=0.2):
                got += [event.position for event in more]
        assert got == list(range(1, 43))


async def ended(task):
    """Return True if a task ended by its cancellation."""
    with suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


async def test_the_loop_of_the_guide_bills_each_event_once(both):
    """Commit each event in the transaction of its effect; raise once."""
    await append(both, 10)
    failing = [3]

    async def consume():
        async with both.events.subscribe(
            "payments", durable="billing", auto_commit=False
        ) as events:
            for event in await events.receive(timeout=0):
                async with both.transaction() as tx:
                    await tx.state.put(f"bill:{event.position}", 1)
                    if event.position in failing:
                        failing.remove(event.position)
                        raise HandlerError
                    await events.commit(event, tx)

    with pytest.raises(HandlerError):
        await consume()
    assert await stored(both) == 2
    assert len(await both.state.keys("bill:")) == 2
    await consume()
    assert await stored(both) >= 10  # The events of the state writes are not selected.
    entries = await both.state.list("bill:")
    assert [entry.version for entry in entries] == [1] * 10  # None was billed twice.


async def test_commits_in_another_order_keep_the_highest_position(both):
    await append(both, 3)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        first, second, third = await events.receive()
        for event, expected in ((second, 2), (first, 2), (third, 3), (second, 3)):
            async with both.transaction() as tx:
                await tx.state.put("last", event.position)
                await events.commit(event, tx)
            assert await stored(both) == expected
    assert (await both.state.get("last")).value == 2  # The effects of each committed.


async def test_a_commit_that_was_rolled_back_counts_for_nothing(both):
    await append(both, 3)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        found = await events.receive()
        with suppress(HandlerError):
            async with both.transaction() as tx:
                await events.commit(found[2], tx)
                raise HandlerError
        assert await stored(both) == 0
        await events.commit(found[0])
    assert await stored(both) == 1


async def test_only_an_event_that_was_handed_out_can_be_committed(both):
    await append(both, 10)
    later = await both.events.get(7)
    async with both.events.subscribe(durable="billing") as events:
        (event, *_) = await events.receive(3)
        with pytest.raises(InvalidInput, match="7 was not handed out, the last one was 3"):
            await events.commit(later)
        async with both.transaction() as tx:
            with pytest.raises(InvalidInput, match=r"takes an event.*Transaction"):
                await events.commit(getattr(tx, "wrapped", tx))
        for wrong in (None, 3, "3"):
            with pytest.raises(InvalidInput, match="takes an event"):
                await events.commit(wrong)
        await events.commit(event)
    assert await stored(both) == 1


async def test_the_last_event_stands_for_unselected_ones_after_it(both):
    await append(both, 2)
    await both.events.append("orders", [Event(type="t")] * 5)
    async with both.events.subscribe("payments", durable="billing", auto_commit=False) as events:
        first, second = await events.receive(timeout=0)
        await events.commit(first)
        assert await stored(both) == 1
        await events.commit(second)
        assert await stored(both) in (2, 7)  # 7 once it has seen that no more are selected.


async def test_a_long_iteration_stores_its_position_now_and_then(form, monkeypatch):
    monkeypatch.setattr(f"{module_name(form.name, 'events.durable')}.COMMIT_EVERY", 0.0)
    async with form.memory() as memory:
        await append(memory, 10)
        async with memory.events.subscribe(durable="billing") as events:
            async for event in events:
                assert await stored(memory) == event.position - 1
                if event.position == 10:
                    break


async def test_closing_stores_what_is_handled(both):
    await append(both, 4)
    events = both.events.subscribe(durable="billing")
    assert len(await events.receive(2)) == 2
    assert len(await events.receive(2)) == 2
    await events.close()
    assert await stored(both) == 2


async def test_an_optimistic_transaction_stores_a_position_with_its_writes(both):
    await append(both, 3)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        found = await events.receive()
        async with both.optimistic() as tx:
            await tx.state.put("bill", 1)
            await tx.commit(events, found[1])
        assert await stored(both) == 2  # Not 3, which was handed out.
        with suppress(HandlerError):
            async with both.optimistic() as tx:
                await tx.commit(events, found[2])
                raise HandlerError
        assert await stored(both) == 2
    assert (await both.state.get("bill")).version == 1


async def test_an_optimistic_transaction_without_writes_stores_a_position(both):
    await append(both, 1)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        (event,) = await events.receive()
        async with both.optimistic() as tx:
            await tx.commit(events, event)
    assert await stored(both) == 1


async def write_and_commit(memory, events, event):
    async with memory.optimistic() as tx:
        await tx.state.put("bill", 1)
        await tx.commit(events, event)


async def test_an_optimistic_transaction_of_a_former_holder_writes_nothing(form, database_url):
    async with form.memory() as one, form.memory() as two:
        await append(one, 2)
        async with one.events.subscribe(durable="billing", auto_commit=False) as first:
            (event, _) = await first.receive()
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("UPDATE pgmem.subscriptions SET expires_at = NULL")
            async with two.events.subscribe(durable="billing"):
                with pytest.raises(LeaseLost):
                    await write_and_commit(one, first, event)
        assert await one.state.get("bill") is None
        assert await stored(one) == 0


async def test_an_optimistic_transaction_refuses_what_was_not_handed_out(both):
    await append(both, 3)
    later = await both.events.get(3)
    async with both.events.subscribe(durable="billing") as events, both.optimistic() as tx:
        await events.receive(1)
        with pytest.raises(InvalidInput, match="3 was not handed out"):
            await tx.commit(events, later)
        with pytest.raises(InvalidInput, match="durable subscription"):
            await tx.commit("billing", later)


async def test_a_repeated_optimistic_transaction_stores_the_position(both):
    """Two events may name one piece of work: the second is handled, too."""
    await append(both, 2)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        for event in await events.receive():
            async with both.optimistic(idempotency_key="bill:17") as tx:
                await tx.state.put("bill", event.position)
                await tx.commit(events, event)
            assert await stored(both) == event.position
    entry = await both.state.get("bill")
    assert (entry.value, entry.version) == (1, 1)


async def test_a_repeated_optimistic_transaction_acknowledges_its_deliveries(both):
    await append(both, 2)
    group = await both.groups.create("billing")
    for delivery in await group.read("w"):
        async with both.optimistic(idempotency_key="bill:17") as tx:
            await tx.state.put("bill", delivery.event.position)
            await tx.ack(delivery)
    info = await group.info()
    assert (info.position, info.held) == (2, 0)


def test_a_process_that_exits_in_its_handler_repeats_that_event(database_url):
    """Leave the plain loop of the sync form by an exception that no handler catches."""
    with Memory(database_url) as memory:
        memory.events.append("payments", [Event(type="t")] * 5)
        with suppress(SystemExit), memory.events.subscribe(durable="billing") as events:
            for event in events:
                if event.position == 4:
                    raise SystemExit
        with memory.events.subscribe(durable="billing") as events:
            assert [event.position for event in events.receive(timeout=0)] == [4, 5]
