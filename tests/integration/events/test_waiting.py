"""Waiting for events: `read(timeout=)`, and what waiting costs the database."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from pgmem import Append, Memory
from tests.support.server import MAINTENANCE
from tests.support.subscribing import POLL, SOON, entered, event, payloads, receive

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture
async def both(form):
    """Open a memory whose safety poll is too late: an event arrives by its notification."""
    async with form.memory(agent_id="tester", safety_poll=POLL) as memory:
        yield memory


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


async def test_a_read_above_the_head_waits_for_events_above_its_position(both):
    assert await both.events.read(after=2) == []
    assert await both.events.read(after=2, timeout=0.05) == []
    waiting = asyncio.ensure_future(both.events.read(after=2, timeout=POLL))
    for _ in range(3):
        await both.events.append("s", event())
    assert [e.position for e in await asyncio.wait_for(waiting, SOON)] == [3]


def transactions(url):
    """Count the transactions of the database. The count is exact once the sessions have ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_clear_snapshot()")
        (count,) = connection.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database"
            " WHERE datname = current_database()"
        ).fetchone()
    return count


def ended(url):
    """Wait until no other session is left: what they did is counted when they end.

    In one transaction, however long it takes: it is counted, too.
    """
    with psycopg.connect(url) as connection:
        deadline = time.monotonic() + SOON
        while connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            " AND application_name <> %s",
            [MAINTENANCE],
        ).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            connection.execute("SELECT pg_stat_clear_snapshot()")


async def test_a_waiting_subscription_costs_no_statements(form, database_url):
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
    for _ in range(6):  # Autovacuum's transactions count too, now and then.
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
                await asyncio.sleep(0.02)  # each event by itself: two at once may share a poll
        ended(database_url)
        return transactions(database_url) - before

    count = 30
    one = await cost(1, count) - await cost(1, 0)
    fifty = await cost(50, count) - await cost(50, 0)
    print(f"statements for {count} events: {one} with one subscription, {fifty} with fifty")
    assert fifty <= one + count / 2


class CountedStatements:
    """Count the statements of a memory's follower, by name, from its first poll on."""

    def __init__(self, follower):
        self.names = []
        self._send = follower._listener.send
        follower._listener.send = self

    def __call__(self, op):
        self.names.append(op.statement)
        self._send(op)

    @classmethod
    async def of(cls, memory):
        follower = getattr(memory, "wrapped", memory)._follower
        deadline = time.monotonic() + SOON
        while follower._listener.busy or follower._poller._schedule.due() < time.monotonic():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        return cls(follower)


@pytest.mark.parametrize("stream", ["mine", "other"])
async def test_events_one_after_the_other_cost_no_poll(form, database_url, stream):
    count = 30
    async with (
        form.memory(safety_poll=POLL, pool=1) as memory,
        memory.events.subscribe("mine", after="now") as following,
    ):
        waiting = await entered(following, count + 1)
        counted = await CountedStatements.of(memory)
        with Memory(database_url, pool=1) as writer:
            for n in range(count):
                await asyncio.to_thread(writer.events.append, stream, event(n))
            rest = 1 if stream == "mine" else count + 1
            await asyncio.to_thread(writer.events.append, "mine", [event(n) for n in range(rest)])
        assert len(await asyncio.wait_for(waiting, SOON)) == count + 1
        # The last batch may be too large for its notification.
        assert counted.names in ([], ["event_page"])


async def test_many_writers_at_once_cost_few_statements(form, database_url):
    """Count per event: an event that its notification brings needs none."""
    writers, count = 8, 40
    async with (
        form.memory(safety_poll=POLL, pool=1) as memory,
        memory.events.subscribe("s", after="now") as following,
    ):
        waiting = await entered(following, writers * count)
        counted = await CountedStatements.of(memory)
        with Memory(database_url, pool=writers) as writer:

            def write():
                for n in range(count):
                    writer.events.append("s", event(n))

            await asyncio.gather(*[asyncio.to_thread(write) for _ in range(writers)])
        assert len(await asyncio.wait_for(waiting, SOON)) == writers * count
    print(f"{len(counted.names)} statements for {writers * count} events")
    assert len(counted.names) < writers * count / 2


TRANSACTION = "the events of a transaction"


@pytest.mark.parametrize("way", ["append_many", "append_all", "versioned", "put_many", TRANSACTION])
async def test_several_small_events_are_in_their_notification(form, way):
    """Several events of one statement, and those of a transaction, cost no poll either."""
    async with (
        form.memory(safety_poll=POLL, pool=1) as memory,
        memory.events.subscribe(after="now") as following,
    ):
        waiting = await entered(following, 3)
        counted = await CountedStatements.of(memory)
        three = [event(n) for n in range(3)]
        if way == "append_many":
            await memory.events.append("s", three)
        elif way == "append_all":
            await memory.events.append_all([Append(f"s{n}", three[n]) for n in range(3)])
        elif way == "versioned":
            await memory.events.append("s", three, expected_version=0)
        elif way == "put_many":
            await memory.state.put_many({f"k{n}": n for n in range(3)})
        else:
            async with memory.transaction() as tx:
                await tx.events.append("s", three[0])
                await tx.state.put("k", 1)
                await tx.events.append("s", three[2])
        found = await asyncio.wait_for(waiting, SOON)
        assert [e.payload for e in found] == [0, 1, 2]
        assert counted.names == []
        again = await memory.events.read(after=0)
        assert again == found
