"""Subscriptions: what they hand out, and what wakes them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import Event
from pgmem.errors import InvalidInput, InvalidValue
from tests.support.both import module_name
from tests.support.subscribing import (
    POLL,
    SOON,
    entered,
    event,
    nothing_more,
    payloads,
    receive,
)

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture
async def both(form):
    """Open a memory whose safety poll is too late: an event arrives by its notification."""
    async with form.memory(agent_id="tester", safety_poll=POLL) as memory:
        yield memory


# What is handed out


async def test_first_what_is_there_then_what_comes(both):
    await both.events.append("s", [event(n) for n in range(3)])
    async with both.events.subscribe() as events:
        assert await payloads(events, 3) == [0, 1, 2]
        for n in range(3, 6):
            await both.events.append("s", event(n))
        assert await payloads(events, 3) == [3, 4, 5]
        assert await nothing_more(events)


FILTERS = {
    "one stream": ({"stream": "a"}, [0, 5]),
    "several streams": ({"stream": ["a", "b"]}, [0, 1, 5]),
    "prefix": ({"prefix": "é-"}, [2, 3]),
    "type": ({"type": "y"}, [3, 5]),
    "agent": ({"agent_id": "other"}, [4, 5]),
    "all of them": ({"stream": ["a", "c"], "type": "y", "agent_id": "other"}, [5]),
    "none": ({"stream": "unused"}, []),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_a_filter_holds_for_what_is_there_and_for_what_comes(both, name):
    selection, wanted = FILTERS[name]

    async def write():
        await both.events.append("a", event(0))
        await both.events.append("b", event(1))
        await both.events.append("é-1", event(2))
        await both.events.append("é-2", event(3, "y"))
        await both.events.append("c", event(4, agent_id="other"))
        await both.events.append("a", event(5, "y", agent_id="other"))

    await write()
    async with both.events.subscribe(**selection) as events:
        assert await payloads(events, len(wanted)) == wanted
        assert await nothing_more(events)
        await write()
        assert await payloads(events, len(wanted)) == wanted
        assert await nothing_more(events)
        assert events.position == 12


async def test_it_begins_behind_a_position_or_with_what_comes_next(both):
    receipts = await both.events.append("s", [event(n) for n in range(3)])
    async with (
        both.events.subscribe(after=receipts[1].position) as behind,
        both.events.subscribe(after="now") as now,
        both.events.subscribe(after=receipts[2].position) as at_the_head,
    ):
        await both.events.append("s", event(3))
        assert await payloads(behind, 2) == [2, 3]
        assert await payloads(now, 1) == [3]
        assert await payloads(at_the_head, 1) == [3]


async def test_an_empty_log_is_followed_from_its_first_event(both):
    async with both.events.subscribe() as events:
        assert events.position == 0
        await both.events.append("s", event(1))
        assert await payloads(events, 1) == [1]


async def test_a_subscription_after_the_head_waits_for_events_above_its_position(both):
    await both.events.append("s", event())
    async with both.events.subscribe(after=3) as events:
        assert events.position == 3
        assert await events.receive(timeout=0.05) == []
        for _ in range(4):
            await both.events.append("s", event())
        got = []
        while len(got) < 2:
            got += [e.position for e in await events.receive(timeout=SOON)]
        assert got == [4, 5]


@pytest.mark.parametrize(
    "options",
    [
        {"after": -1}, {"after": "then"}, {"after": True}, {"after": None}, {"stream": ""},
        {"stream": []}, {"stream": [1]}, {"stream": 7}, {"stream": ["x"] * 1001},
        {"stream": "a", "prefix": "b"}, {"prefix": "\0"}, {"type": ""}, {"agent_id": 5},
    ],
)  # fmt: skip
async def test_an_invalid_selection_is_refused_at_once(both, options):
    with pytest.raises(InvalidInput):
        both.events.subscribe(**options)


async def test_a_transaction_has_no_subscribe(both):
    async with both.transaction() as tx:
        assert not hasattr(getattr(tx.events, "wrapped", tx.events), "subscribe")


async def test_the_iterator_waits_for_each_event(both):
    await both.events.append("s", [event(n) for n in range(3)])
    found = []
    async with both.events.subscribe("s") as events:
        async for item in events:
            found.append(item.payload)
            assert events.position == item.position
            if item.payload == 4:
                break
            if item.payload in (2, 3):
                await both.events.append("s", event(item.payload + 1))
    assert found == [0, 1, 2, 3, 4]


async def test_without_a_context_manager_it_begins_with_the_first_event(both):
    await both.events.append("s", event(1))
    events = both.events.subscribe()
    assert await payloads(events, 1) == [1]
    await events.close()


async def test_receive_gives_what_is_there_up_to_its_limit(both):
    await both.events.append("s", [event(n) for n in range(10)])
    async with both.events.subscribe() as events:
        assert [e.payload for e in await events.receive(4)] == [0, 1, 2, 3]
        assert events.position == 4
        assert [e.payload for e in await events.receive(4, timeout=0)] == [4, 5, 6, 7]
        assert [e.payload for e in await events.receive(4, timeout=0)] == [8, 9]
        assert await events.receive(4, timeout=0) == []
        started = time.monotonic()
        assert await events.receive(timeout=0.3) == []
        assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 10_001}, {"timeout": -1}])
async def test_receive_refuses_what_cannot_be(both, options):
    async with both.events.subscribe() as events:
        with pytest.raises(InvalidInput):
            await events.receive(**options)


async def test_position_is_up_to_where_everything_was_handed_out(both):
    await both.events.append("other", [event(n) for n in range(5)])
    await both.events.append("s", event("mine"))
    await both.events.append("other", event(6))
    async with both.events.subscribe("s") as events:
        assert events.position == 0
        (only,) = await receive(events, 1)
        assert only.position <= events.position <= 7
        assert await nothing_more(events)
        assert events.position == 7


# What wakes a subscriber


async def put(memory):
    await memory.state.put("k", 1)


async def put_with_event(memory):
    await memory.state.put("k", 1, event=event("made"), stream="s")


async def change(memory):
    await memory.state.put("k", 1)
    await memory.state.compare_and_set("k", 2, expected_version=1)
    await memory.state.touch("k", ttl=100)
    await memory.state.delete("k")


async def append(memory):
    await memory.events.append("s", event("small"))


async def append_large(memory):
    await memory.events.append("s", event("x" * 20_000))


async def append_batch(memory):
    await memory.events.append("s", [event(n) for n in range(300)])


async def append_once(memory):
    await memory.events.append("s", event(), idempotency_key="k")


async def append_versioned(memory):
    await memory.events.append("s", event(), expected_version=0)


async def append_in_transaction(memory):
    async with memory.transaction() as tx:
        await tx.events.append("s", event())
        await tx.state.put("k", 1)


async def run_once_in_transaction(memory):
    async with memory.transaction() as tx:
        await tx.dedupe.run_once("w", lambda: 1)
        await tx.events.append("s", event())


async def restore(memory):
    taken = await memory.state.snapshots.take()
    await memory.state.put("k", 1)
    await memory.state.snapshots.restore(taken.id)


WRITES = [
    put, put_with_event, change, append, append_large, append_batch, append_once, append_versioned,
    append_in_transaction, run_once_in_transaction, restore,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
async def test_whatever_writes_an_event_wakes_a_subscriber(form, both, write):
    """Compare the events that arrive with what a read returns."""
    async with form.memory(agent_id="writer") as writer, both.events.subscribe() as events:
        waiting = await entered(events)
        await write(writer)
        log = await writer.events.read(limit=1000)
        first = await asyncio.wait_for(waiting, SOON)
        rest = await receive(events, len(log) - 1) if len(log) > 1 else []
        assert [*first, *rest] == log


@pytest.mark.parametrize("text", ["", "x", "[]", "[1,1]", "[1" + ",null" * 13 + "]", "😀" * 1999])
async def test_other_notifications_wake_no_subscriber(both, database_url, text):
    async with both.events.subscribe() as events:
        waiting = await entered(events)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("SELECT pg_notify(channel, %s) FROM pgmem.meta", [text])
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await both.events.append("s", event(1))
        assert [e.payload for e in await asyncio.wait_for(waiting, SOON)] == [1]


async def test_a_repeated_append_hands_nothing_out_again(both):
    async with both.events.subscribe() as events:
        await both.events.append("s", event(1), idempotency_key="k")
        await both.events.append("s", event(1), idempotency_key="k")
        await both.events.append("s", event(2))
        assert await payloads(events, 2) == [1, 2]


async def test_what_is_rolled_back_is_neither_handed_out_nor_waited_for(both):
    async with both.events.subscribe() as events:
        with suppress(ZeroDivisionError):
            async with both.transaction() as tx:
                await tx.events.append("s", event("never"))
                raise ZeroDivisionError
        await both.events.append("s", event("after"))
        assert await payloads(events, 1) == ["after"]


async def test_what_commits_later_is_handed_out_first_if_its_position_is_lower(both):
    async with both.events.subscribe() as events:
        async with both.transaction() as tx:
            await tx.events.append("s", event("first"))
            await both.events.append("s", event("second"))
            assert await nothing_more(events)
        assert await payloads(events, 2) == ["first", "second"]


# Several, and what they make of a payload


async def test_two_subscriptions_share_no_payload_and_no_place(both):
    async with both.events.subscribe() as one, both.events.subscribe() as other:
        waiting = await entered(other)
        await both.events.append("s", event({"list": [1]}, metadata={"m": []}))
        (first,) = await receive(one, 1)
        (second,) = await waiting
        first.payload["list"].append(2)
        first.metadata["m"].append(2)
        assert second.payload == {"list": [1]}
        assert second.metadata == {"m": []}
        await one.close()
        await both.events.append("s", event("more"))
        assert await payloads(other, 1) == ["more"]


class Payment(BaseModel):
    amount: int


class Paid(Event):
    amount: int


async def test_a_payload_that_does_not_fit_is_an_error_once_and_then_it_goes_on(both):
    for payload in ({"amount": 1}, {"amount": "much"}, {"amount": 3}):
        await both.events.append("s", event(payload))
    async with both.events.subscribe(model=Payment, on_invalid="raise") as events:
        assert await payloads(events, 1) == [Payment(amount=1)]
        with pytest.raises(InvalidValue) as failure:
            await events.receive(timeout=SOON)
        assert "much" not in str(failure.value)
        assert events.position == 2
        assert await payloads(events, 1) == [Payment(amount=3)]
    async with both.events.subscribe(model=Payment, on_invalid="raise") as events:
        assert [e.payload.amount for e in await events.receive(3)] == [1]
        with pytest.raises(InvalidValue):
            await events.receive(3)
        assert [e.payload.amount for e in await events.receive(3)] == [3]


async def test_what_was_written_as_a_class_comes_back_as_its_instance(form):
    async with form.memory(events=[Paid]) as memory, memory.events.subscribe() as events:
        await memory.events.append("s", Paid(amount=7))
        await memory.events.append("s", event(1))
        paid, plain = await payloads(events, 2)
        assert isinstance(paid, Paid)
        assert paid.amount == 7
        assert plain == 1


async def test_what_is_rare_is_found_over_many_pages(both, monkeypatch):
    """Look through `WINDOW` positions in one page, and go on with the next page."""
    for tree in ("sync", "async"):
        monkeypatch.setattr(f"{module_name(tree, 'events.reader')}.WINDOW", 10)
    for n in range(100):
        await both.events.append("rare" if n % 40 == 0 else "often", event(n))
    # The first subscription starts the follower.
    async with both.events.subscribe(after="now"), both.events.subscribe("rare", after=0) as events:
        assert await payloads(events, 3) == [0, 40, 80]
        assert await nothing_more(events)
