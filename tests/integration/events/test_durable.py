"""Subscriptions whose position is stored: what is committed when, and what the next one gets."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import psycopg
import pytest

from pgmem import Event
from pgmem.errors import (
    AlreadyExists,
    InvalidInput,
    InvalidValue,
    LeaseLost,
    PgmemError,
)

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


async def append(memory, count, stream="payments"):
    """Append events; gives their positions."""
    return [
        (await memory.events.append(stream, Event(type="t", payload=n))).position
        for n in range(count)
    ]


def positions(events):
    return [event.position for event in events]


async def stored(memory, name="billing"):
    return (await memory.subscriptions.get(name)).position


async def test_the_next_subscription_goes_on_where_the_last_one_ended(both):
    await append(both, 3)
    async with both.events.subscribe("payments", durable="billing") as events:
        found = await events.receive(2)
        assert positions(found) == [1, 2]
        await events.commit(found[-1])
    await append(both, 1, "orders")
    async with both.events.subscribe("payments", durable="billing") as events:
        assert positions(await events.receive(timeout=5)) == [3]
        assert await events.receive(timeout=0) == []
    assert await stored(both) >= 3
    assert (await both.subscriptions.get("billing")).owner is None


async def test_after_counts_only_for_a_new_subscription(both):
    await append(both, 3)
    async with both.events.subscribe(durable="billing", after=2) as events:
        (event,) = await events.receive(timeout=5)
        assert event.position == 3
        await events.commit(event)
    async with both.events.subscribe(durable="billing", after=0) as events:
        assert await events.receive(timeout=0.05) == []
    async with both.events.subscribe(durable="late", after="now") as events:
        await append(both, 1)
        assert positions(await events.receive(timeout=5)) == [4]


async def test_asking_for_more_commits_what_was_handed_out(both):
    await append(both, 4)
    async with both.events.subscribe(durable="billing") as events:
        for handled in (0, 2, 3):
            found = await events.receive(2 if handled == 0 else 1)
            assert await stored(both) == handled
            assert events.committed == handled
            assert found[0].position == handled + 1
        assert await events.receive(timeout=0) == []
        assert await stored(both) == 4


async def test_after_an_error_uncommitted_events_are_delivered_again(both):
    await append(both, 3)
    with suppress(ZeroDivisionError):
        async with both.events.subscribe(durable="billing") as events:
            assert len(await events.receive(2)) == 2
            assert len(await events.receive(1)) == 1
            raise ZeroDivisionError
    assert await stored(both) == 2
    async with both.events.subscribe(durable="billing") as events:
        assert positions(await events.receive(timeout=5)) == [3]


async def test_an_event_in_progress_is_delivered_again(both):
    await append(both, 3)
    with suppress(ZeroDivisionError):
        async with both.events.subscribe(durable="billing") as events:
            async for event in events:
                if event.position == 2:
                    raise ZeroDivisionError
    async with both.events.subscribe(durable="billing") as events:
        assert positions(await events.receive(timeout=5)) == [2, 3]


async def test_without_auto_commit_only_commit_commits(both):
    await append(both, 4)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        first, second = await events.receive(2)
        assert len(await events.receive(1)) == 1
        assert await stored(both) == 0
        await events.commit(second)
        assert await stored(both) == 2
        await events.commit(first)  # It counts already.
        assert await stored(both) == 2
        assert await events.receive(timeout=0) != []
        assert await events.receive(timeout=0) == []
    assert await stored(both) == 2


async def test_position_and_effects_commit_together_or_not_at_all(both, database_url):
    await append(both, 2)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE bills (position bigint PRIMARY KEY)")
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        for fails in (False, True):
            (event,) = await events.receive(1)
            try:
                async with both.transaction() as tx:
                    await tx.state.put(f"bill:{event.position}", 1)
                    await events.commit(event, tx)
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
    assert await stored(both) == 1
    assert [entry.key for entry in await both.state.list("bill:")] == ["bill:1"]
    async with both.events.subscribe(durable="billing") as events:
        assert positions(await events.receive(timeout=5))[0] == 2


async def test_position_commits_in_the_callers_own_transaction(both, database_url):
    await append(both, 1)
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE bills (position bigint PRIMARY KEY)")
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        (event,) = await events.receive(1)
        async with await own_connection(both, database_url) as connection:
            bound = both.using(connection)
            await events.commit(event, bound)
            assert await stored(both) == 0
            await done(connection.commit())
    assert await stored(both) == event.position


class _Plain:
    """A synchronous connection behind an awaitable face."""

    def __init__(self, url):
        self.connection = psycopg.connect(url)

    async def __aenter__(self):
        return self.connection

    async def __aexit__(self, *_):
        self.connection.close()


async def own_connection(memory, url):
    if hasattr(memory, "wrapped"):
        return _Plain(url)
    return await psycopg.AsyncConnection.connect(url)


async def done(maybe):
    if asyncio.iscoroutine(maybe):
        await maybe


async def test_a_commit_in_no_transaction_is_refused(both):
    await append(both, 1)
    async with both.events.subscribe(durable="billing", auto_commit=False) as events:
        (event,) = await events.receive(1)
        with pytest.raises(InvalidInput, match=r"str is no transaction.*memory\.using"):
            await events.commit(event, "tx")


async def test_a_second_subscriber_stands_by_and_takes_over_when_the_first_ends(form):
    async with form.memory() as one, form.memory() as two:
        await append(one, 2)
        standby = two.events.subscribe(durable="billing")
        async with one.events.subscribe(durable="billing") as first:
            (event,) = await first.receive(1)
            async with standby:
                assert await standby.receive(timeout=0.2) == []
                assert not standby.holding
                with pytest.raises(InvalidInput, match="standing by"):
                    await standby.commit(event)
                waiting = asyncio.create_task(standby.receive(timeout=20))
                await first.close()
                assert positions(await waiting) == [1, 2]
                assert standby.holding


async def test_a_subscriber_that_lost_its_lease_gets_lease_lost_and_commits_nothing(
    form, database_url
):
    async with form.memory() as one, form.memory() as two:
        await append(one, 3)
        first = one.events.subscribe(durable="billing", auto_commit=False)
        async with first:
            (event,) = await first.receive(1)
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("UPDATE pgmem.subscriptions SET expires_at = NULL")
            async with two.events.subscribe(durable="billing") as second:
                assert positions(await second.receive(2)) == [1, 2]
                with pytest.raises(LeaseLost):
                    await first.commit(event)
                with pytest.raises(LeaseLost):
                    await effect_and_commit(one, first, event)
                with pytest.raises(LeaseLost):
                    await drain(first)
                assert await second.receive(timeout=0) != []
            assert await one.state.get("effect") is None
        assert await stored(one) == 2


async def effect_and_commit(memory, events, event):
    async with memory.transaction() as tx:
        await tx.state.put("effect", 1)
        await events.commit(event, tx)


async def drain(events):
    """Expect `LeaseLost` after the events that were ready, which may still be handed out."""
    while True:
        assert await events.receive(1) != []


async def test_a_waiting_standby_can_be_stopped(form):
    async with (
        form.memory() as one,
        form.memory() as two,
        one.events.subscribe(durable="billing"),
    ):
        standby = two.events.subscribe(durable="billing")
        waiting = asyncio.create_task(standby.receive())
        await asyncio.sleep(0.3)
        standby.stop()
        assert await asyncio.wait_for(waiting, 5) == []
        await standby.close()


async def test_unselected_events_advance_the_position(both, monkeypatch):
    for module in ("pgmem.events.durable", "pgmem._sync.events.durable"):
        monkeypatch.setattr(f"{module}.IDLE_COMMIT", 0.1)
    async with both.events.subscribe("payments", durable="billing") as events:
        await append(both, 20, "orders")
        deadline = time.monotonic() + 30
        while await stored(both) < 20:
            assert time.monotonic() < deadline
            assert await events.receive(timeout=0.15) == []


async def test_a_durable_subscription_keeps_its_filter(both):
    async with both.events.subscribe("payments", durable="billing"):
        pass
    with pytest.raises(AlreadyExists, match="billing"):
        async with both.events.subscribe("orders", durable="billing"):
            pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"durable": ""}, InvalidInput),
        ({"durable": "x" * 513}, InvalidInput),
        ({"durable": "x", "lease": 0}, InvalidInput),
        ({"durable": "x", "lease": 90_000}, InvalidInput),
        ({"durable": "x", "after": -1}, InvalidInput),
        ({"durable": "x", "after": "soon"}, InvalidInput),
    ],
)
async def test_wrong_options_are_refused_before_anything_is_sent(both, options, error):
    with pytest.raises(error):
        both.events.subscribe(**options)
    assert await both.subscriptions.list() == []


async def test_an_invalid_event_raises_once_and_can_be_passed(both):
    from pydantic import BaseModel

    class Payment(BaseModel):
        amount: int

    await both.events.append("payments", Event(type="t", payload={"amount": 1}))
    await both.events.append("payments", Event(type="t", payload="poison"))
    await both.events.append("payments", Event(type="t", payload={"amount": 3}))
    async with both.events.subscribe(
        durable="billing", model=Payment, on_invalid="raise"
    ) as events:
        assert [e.payload.amount for e in await events.receive()] == [1]
        with pytest.raises(InvalidValue):
            await events.receive()
        assert [e.payload.amount for e in await events.receive()] == [3]


async def test_a_closed_subscription_does_not_begin_again(both):
    events = both.events.subscribe(durable="billing")
    await events.close()
    with pytest.raises(PgmemError, match="closed"):
        async with events:
            pass
