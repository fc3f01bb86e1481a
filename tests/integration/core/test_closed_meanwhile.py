"""A call that waits in a thread or task ends when its memory is closed, or at Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import NotOpen
from tests.support.database import lock_waits, sql
from tests.support.waiting import wait_until


def receive(memory, **options):
    with memory.events.subscribe("none", **options) as events:
        return events.receive()


def watch(memory):
    with memory.state.watch("key") as changes:
        return changes.receive()


# What waits for ever, and what it gives when the memory is closed under it.
WAITS = {
    "receive": (receive, []),
    "watch": (watch, []),
    "events.read": (lambda memory: memory.events.read("none", timeout=None), []),
    "group.read": (lambda memory: memory.groups.get("g").read("a", timeout=None), []),
    "group.run": (lambda memory: memory.groups.get("g").run(print), NotOpen),
    "leases.acquire": (lambda memory: memory.leases.acquire("job"), NotOpen),
    "limits.acquire": (lambda m: m.limits.acquire("l", 1 / 3600, 1, timeout=None), NotOpen),
    "dedupe.run_once": (lambda m: m.dedupe.run_once("key", lambda: 1, timeout=None), NotOpen),
}


@pytest.fixture
def held(database_url):
    """Hold everything that the calls wait for."""
    with Memory(database_url) as memory:
        memory.groups.create("g", stream="none")
        lease = memory.leases.acquire("job", ttl=3600)
        claim = memory.dedupe.claim("key", lease=3600)
        memory.limits.acquire("l", 1 / 3600, 1)
        yield memory
        memory.dedupe.release(claim)
        lease.release()


@pytest.mark.both_forms
@pytest.mark.parametrize("name", WAITS)
def test_a_call_that_waits_in_a_thread_ends_at_the_close(held, database_url, name):
    call, gives = WAITS[name]
    memory = Memory(database_url).open()
    begun = threading.Event()

    def work():
        memory.state.get("key")
        begun.set()
        return call(memory)

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work)
        assert begun.wait(20)
        with pytest.raises(TimeoutError):
            running.result(0.3)  # It waits.
        memory.close()
        if gives is NotOpen:
            with pytest.raises(NotOpen):
                running.result(20)
        else:
            assert running.result(20) == gives


def interrupted(main, when):
    """Run a coroutine as programs do, and send SIGINT once `when()` is true."""

    def send():
        wait_until(when)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    finally:
        sender.join()
        signal.signal(signal.SIGINT, before)


class TestInterruptedLoop:
    """Ctrl-C cancels the main task of `asyncio.run`."""

    def test_in_a_statement(self, memory, database_url):
        async def main():
            async with AsyncMemory(database_url, pool=1) as other:
                await other.state.put("k", 2)

        memory.state.put("k", 1)
        with (
            psycopg.connect(database_url) as locking,
            psycopg.connect(database_url, autocommit=True) as looking,
        ):
            locking.execute("SELECT FROM pgmem.state WHERE key = 'k' FOR UPDATE")
            interrupted(main, lambda: lock_waits(looking))
            wait_until(lambda: not lock_waits(looking))
        assert memory.state.get("k").value == 1

    def test_in_a_transaction(self, memory, database_url):
        async def main():
            async with AsyncMemory(database_url, pool=1) as other, other.transaction() as tx:
                await tx.state.put("other", 2)
                await tx.state.put("k", 2)

        memory.state.put("k", 1)
        with (
            psycopg.connect(database_url) as locking,
            psycopg.connect(database_url, autocommit=True) as looking,
        ):
            locking.execute("SELECT FROM pgmem.state WHERE key = 'k' FOR UPDATE")
            interrupted(main, lambda: lock_waits(looking))
        assert memory.state.get("k").value == 1
        assert memory.state.get("other") is None

    def test_in_a_durable_subscription(self, memory, database_url):
        async def main():
            memory = AsyncMemory(database_url)
            async with memory, memory.events.subscribe("s", durable="d") as events:
                await events.receive()

        owner = "SELECT owner FROM pgmem.subscriptions WHERE owner IS NOT NULL"
        interrupted(main, lambda: sql(database_url, owner))
        memory.events.append("s", Event(type="t"))
        with memory.events.subscribe("s", durable="d", after=0) as events:
            # The lease lasts 30 s, so it was released.
            assert len(events.receive(timeout=20)) == 1

    def test_in_a_block_that_holds_a_lease(self, memory, database_url):
        async def main():
            async with AsyncMemory(database_url) as other, other.leases.hold("job", ttl=3600):
                await asyncio.sleep(3600)

        interrupted(main, lambda: memory.leases.get("job"))
        assert memory.leases.get("job") is None

    def test_in_the_wait_for_a_lease(self, memory, database_url):
        async def main():
            async with AsyncMemory(database_url) as other:
                await other.leases.acquire("job")

        lease = memory.leases.acquire("job", ttl=3600)
        interrupted(main, lambda: memory.leases.get("job").waiters)
        assert memory.leases.get("job").waiters == 0
        lease.release()

    def test_in_a_handler(self, memory, database_url):
        begun = []

        async def handle(delivery):
            begun.append(delivery.event.position)
            await asyncio.sleep(3600)

        async def main():
            async with AsyncMemory(database_url) as other:
                await (await other.groups.get("g")).run(handle)

        group = memory.groups.create("g", stream="s")
        memory.events.append("s", Event(type="t"))
        interrupted(main, lambda: begun)
        (delivery,) = group.read("next", timeout=20)  # The lease lasts 30 s.
        assert delivery.attempts == 1
        delivery.ack()
