"""Subscriptions: what they hand out, how they wait, and how they end."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from contextlib import suppress

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import AsyncMemory, Event, Memory
from pgmem._compat import AWakeup
from pgmem.errors import InvalidInput, InvalidOption, InvalidValue, NotOpen, PgmemError
from tests.support.both import Awaited

SOON = 5.0
"""No guarantee of speed: a deadline that a wait for the safety poll would break."""
POLL = 30.0


@pytest.fixture
async def both(form):
    """Without the safety poll: whatever arrives, arrives because of the bell."""
    async with form.memory(agent_id="tester", safety_poll=POLL) as memory:
        yield memory


def event(payload=None, type="t", **more):
    return Event(type=type, payload=payload, **more)


async def receive(subscription, count):
    """So many events, or what came of them in time."""
    found = []
    while len(found) < count:
        more = await subscription.receive(count - len(found), timeout=SOON)
        if not more:
            break
        found += more
    return found


async def payloads(subscription, count):
    return [event.payload for event in await receive(subscription, count)]


async def nothing_more(subscription):
    return await subscription.receive(timeout=0.1) == []


async def entered(subscription, count=1):
    """A task that waits for events of a subscription, once it does wait."""
    task = asyncio.ensure_future(receive(subscription, count))
    await asyncio.sleep(0.1)
    return task


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
    "none": ({"stream": "nobody"}, []),
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


async def test_a_position_that_the_log_has_not_reached_is_refused_and_leaves_nothing_behind(both):
    await both.events.append("s", event())
    with pytest.raises(InvalidOption, match="above the last position"):
        async with both.events.subscribe(after=2):
            pass
    async with both.events.subscribe(after=1):
        with pytest.raises(InvalidOption, match="above the last position"):
            async with both.events.subscribe(after=2):
                pass
    assert not followers(both)


@pytest.mark.parametrize(
    "options",
    [
        {"after": -1}, {"after": "then"}, {"after": True}, {"after": None}, {"stream": ""},
        {"stream": []}, {"stream": [1]}, {"stream": 7}, {"stream": ["x"] * 1001},
        {"stream": "a", "prefix": "b"}, {"prefix": "\0"}, {"type": ""}, {"agent_id": 5},
    ],
)  # fmt: skip
async def test_what_selects_nothing_sensible_is_refused_at_once(both, options):
    with pytest.raises(InvalidInput):
        both.events.subscribe(**options)


async def test_inside_a_transaction_nobody_can_subscribe(both):
    async with both.transaction() as tx:
        with pytest.raises(InvalidOption, match="transaction"):
            await tx.events.read(timeout=1)
        with pytest.raises(InvalidOption, match="transaction"):
            getattr(tx.events, "wrapped", tx.events).subscribe()


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
        with pytest.raises(InvalidOption):
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


# Who wakes a subscriber


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
    taken = await memory.snapshots.take()
    await memory.state.put("k", 1)
    await memory.snapshots.restore(taken.id)


WRITES = [
    put, put_with_event, change, append, append_large, append_batch, append_once, append_versioned,
    append_in_transaction, run_once_in_transaction, restore,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
async def test_whatever_writes_an_event_wakes_a_subscriber(form, both, write):
    """And what arrives with the bell is what a read gives."""
    async with form.memory(agent_id="writer") as writer, both.events.subscribe() as events:
        waiting = await entered(events)
        await write(writer)
        log = await writer.events.read(limit=1000)
        first = await asyncio.wait_for(waiting, SOON)
        rest = await receive(events, len(log) - 1) if len(log) > 1 else []
        assert [*first, *rest] == log


@pytest.mark.parametrize("text", ["", "x", "[]", "[1,1]", "[1" + ",null" * 13 + "]", "😀" * 1999])
async def test_whatever_else_is_rung_wakes_nobody_and_harms_nobody(both, database_url, text):
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
    with pytest.raises(InvalidOption, match="closed"):
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
    """Somebody writes for long: nobody is fed yet, subscriptions read by themselves."""
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


def followers(memory):
    events = memory.events
    return getattr(events, "wrapped", events)._reader.feed._followers


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
        tailer(both)._listener.wake()
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


async def test_who_comes_while_the_feed_is_failing_is_fed_as_well(both, hide_events):
    async with both.events.subscribe() as events:
        waiting = await entered(events)
        failing, go_on = threading.Event(), threading.Event()
        hold(tailer(both)._listener, failing, go_on)
        hide_events(True)
        tailer(both)._listener.wake()
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
        assert tailer(both)._feed.live
        await both.events.append("s", event(2))
        assert [e.payload for e in await asyncio.wait_for(waiting, SOON)] == [2]


def tailer(memory):
    return getattr(memory, "wrapped", memory)._tailer


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
            wakeup = AWakeup()
            thread = threading.Thread(target=wakeup.set)
            thread.start()
            assert await wakeup.wait(SOON)
            thread.join()
    finally:
        sys.setswitchinterval(before)


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
    async with both.events.subscribe(model=Payment) as events:
        assert await payloads(events, 1) == [Payment(amount=1)]
        with pytest.raises(InvalidValue) as failure:
            await events.receive(timeout=SOON)
        assert "much" not in str(failure.value)
        assert events.position == 2
        assert await payloads(events, 1) == [Payment(amount=3)]
    async with both.events.subscribe(model=Payment) as events:
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


# read(timeout=)


async def test_a_read_that_waits_wakes_with_the_first_event(both):
    waiting = asyncio.ensure_future(both.events.read("s", timeout=POLL))
    await asyncio.sleep(0.2)
    await both.events.append("other", event(1))
    await both.events.append("s", event(2))
    found = await asyncio.wait_for(waiting, SOON)
    assert [e.payload for e in found] == [2]
    again = await both.events.read("s", after=found[-1].position, timeout=0.1)
    assert again == []


async def test_a_read_that_finds_something_does_not_wait(both):
    await both.events.append("s", [event(n) for n in range(5)])
    found = await asyncio.wait_for(both.events.read(after=1, limit=3, timeout=POLL), SOON)
    assert [e.payload for e in found] == [1, 2, 3]


async def test_a_read_waits_no_longer_than_it_was_told(both):
    for timeout in (0, 0.3):
        started = time.monotonic()
        assert await both.events.read("s", timeout=timeout) == []
        assert timeout <= time.monotonic() - started < timeout + SOON


async def test_a_read_up_to_a_position_waits_for_nothing_behind_it(both):
    await both.events.append("s", [event(n) for n in range(5)])
    assert [e.payload for e in await both.events.read("s", until=3, timeout=POLL)] == [0, 1, 2]
    found = await asyncio.wait_for(both.events.read("x", until=3, timeout=POLL), SOON)
    assert found == []
    assert await asyncio.wait_for(both.events.read(after=3, until=3, timeout=POLL), SOON) == []


async def test_a_read_above_the_head_waits_or_is_refused_as_without_a_timeout(both):
    assert await both.events.read(after=7) == []
    with pytest.raises(InvalidOption, match="above the last position"):
        await both.events.read(after=7, timeout=0.2)


def transactions(url):
    """How many transactions the database has seen: exact once the sessions have ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_clear_snapshot()")
        (count,) = connection.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database"
            " WHERE datname = current_database()"
        ).fetchone()
    return count


def ended(url):
    """Wait until no other session is left: what they did is counted when they end."""
    with psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + SOON
        while connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)


async def test_who_waits_leaves_the_database_alone(form, database_url):
    async def cost(wait):
        ended(database_url)
        before = transactions(database_url)
        async with form.memory(safety_poll=POLL) as memory:
            assert await memory.events.read("s", timeout=wait) == []
            async with memory.events.subscribe() as events:
                assert await events.receive(timeout=wait) == []
        ended(database_url)
        return transactions(database_url) - before

    await cost(0.05)
    seen = []
    for _ in range(3):  # Autovacuum's transactions count too, now and then.
        seen.append((await cost(0.2), await cost(1.2)))
        short, long = seen[-1]
        if long <= short + 10:
            return
    pytest.fail(f"{seen}: a poll each tenth of a second would be 20 more")


async def test_fifty_subscriptions_cost_the_database_no_more_than_one(form, database_url):
    async def cost(followers, events):
        ended(database_url)
        before = transactions(database_url)
        async with form.memory(safety_poll=POLL, pool=1) as memory:
            first = memory.events.subscribe()
            await memory.events.append("s", event())
            await receive(first, 1)
            live = await memory.events.append("s", event())
            await receive(first, 1)
            await asyncio.sleep(0.1)
            subscriptions = [memory.events.subscribe(after=live.position) for _ in range(followers)]
            for each in subscriptions:
                assert await each.receive(timeout=0) == []
            for n in range(events):
                await memory.events.append(f"s{n}", event(n))
                for each in subscriptions:
                    assert await payloads(each, 1) == [n]
                await asyncio.sleep(0.02)  # each event by itself: two at once may share a look
        ended(database_url)
        return transactions(database_url) - before

    count = 30
    one = await cost(1, count) - await cost(1, 0)
    fifty = await cost(50, count) - await cost(50, 0)
    print(f"statements for {count} events: {one} with one subscription, {fifty} with fifty")
    assert fifty <= one + count / 2
