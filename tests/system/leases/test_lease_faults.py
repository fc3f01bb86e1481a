"""Leases without notifications or connections: slower, and never two holders."""

from __future__ import annotations

import asyncio
import time

import pytest

from pgmem import AsyncMemory
from pgmem.core.statements import statement
from pgmem.errors import LeaseHeld
from tests.support.leases import notifiable, queue, raw, row
from tests.support.relay import Relay
from tests.support.stalls import Stalls

POLL = 0.3


def send_no_notifications(memory):
    """Send no notification from now on, as a role that may not read the channel."""
    raw(memory)._database.channel = ""


async def test_waiters_poll_without_notifications(form, database_url):
    delays = []
    with Stalls() as stalls:
        async with form.memory(safety_poll=POLL) as memory, form.memory() as other:
            send_no_notifications(other)
            for _ in range(5):
                lease = await other.leases.acquire("job")
                [task] = await queue(database_url, memory)
                released = time.monotonic()
                await lease.release()
                new = await asyncio.wait_for(task, 10)
                delays.append(time.monotonic() - released)
                await new.release()
    print(f"no notifications: worst {max(delays):.3f} s")
    assert max(delays) <= POLL + 0.5 + stalls.allowance


async def test_first_waiter_gets_an_expired_lease(form, database_url):
    # Without a release and a notification, the first of ten waiters gets it.
    async with form.memory() as memory:
        async with form.memory() as dead:
            await dead.leases.acquire("job", ttl=4)
        tasks = await queue(database_url, memory, 10)
        (expires_at,) = {info.expires_at for info in await memory.leases.list()}
        first = await asyncio.wait_for(tasks[0], 10)
        acquired_at = (await memory.leases.get("job")).acquired_at
        print(f"taken {(acquired_at - expires_at).total_seconds() * 1000:.1f} ms after its end")
        assert (acquired_at - expires_at).total_seconds() < 10
        assert not any(task.done() for task in tasks[1:])
        for task in tasks[1:]:
            await first.release()
            first = await asyncio.wait_for(task, 5)
        await first.release()


@pytest.mark.parametrize(
    ("new", "pool"),
    [(False, 2), (False, (4, 5)), pytest.param(True, 2, marks=pytest.mark.thorough)],
    ids=["known ones", "four known ones", "all"],
)
async def test_lease_over_silent_connections(form, database_url, new, pool):
    # Renewals use other connections. Without any, the holder knows by its own clock.
    with Relay(database_url) as relay:
        async with (
            form.memory(relay.url, timeout=1, pool=pool) as memory,
            AsyncMemory(database_url) as other,
        ):
            lease = await memory.leases.acquire("job", ttl=2.4)
            relay.silence(new=new)
            await asyncio.sleep(2.6)
            if new:
                assert "ran out" in str(lease.lost)
                await (await other.leases.acquire("job", timeout=1)).release()
            else:
                assert lease.lost is None
                with pytest.raises(LeaseHeld):
                    await other.leases.acquire("job", timeout=0)
            relay.cut(refuse=True)


@pytest.fixture
def full_queue(monkeypatch):
    """Let the server answer that its notification queue is filling up."""
    monkeypatch.setattr("pgmem.core.statements.NOTIFY_LISTENER", "'full'::text")
    statement.cache_clear()
    yield
    statement.cache_clear()


@pytest.mark.usefixtures("full_queue")
async def test_full_notification_queue_only_delays_waiters(form, database_url):
    # The memory stops notifying for a while.
    async with form.memory(safety_poll=POLL) as memory, form.memory() as other:
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, memory)
        await lease.release()
        await (await asyncio.wait_for(task, 5)).release()
        assert raw(other)._database._notify_paused_until > time.monotonic()
    assert row(database_url) is None
    assert notifiable(database_url) == 0
