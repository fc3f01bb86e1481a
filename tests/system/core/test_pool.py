"""The pool: no call waits while a connection is idle."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import NotOpen
from tests.support.server import MAINTENANCE


@pytest.mark.parametrize("pool", [1, 2, 6])
def test_no_thread_starves_and_none_gets_anothers_answer(database_url, pool):
    failures = []

    def work(name, memory):
        rng = random.Random(name)
        try:
            for n in range(150):
                kind = rng.random()
                if kind < 0.5:
                    memory.state.put(f"{name}", n)
                    assert memory.state.get(f"{name}").value == n
                elif kind < 0.9:
                    memory.events.append(f"s{name}", Event(type="t", payload=[name, n]))
                else:
                    with memory.transaction() as tx:
                        tx.state.put(f"{name}", n)
        except Exception as error:  # The assertion below shows it.
            failures.append(repr(error))

    with Memory(database_url, pool=pool, timeout=20) as memory:
        threads = [threading.Thread(target=work, args=(n, memory)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        for name in range(10):
            events = memory.events.read(f"s{name}", limit=1000)
            assert {event.payload[0] for event in events} <= {name}


async def test_tasks_share_one_connection_and_cancellation_leaks_none(database_url):
    async with AsyncMemory(database_url, pool=2, timeout=20) as memory:

        async def work(n):
            await memory.state.put(f"k{n}", n)
            async with memory.transaction() as tx:
                await tx.connection.execute("SELECT pg_sleep(0.005)")
            return (await memory.state.get(f"k{n}")).value

        for _ in range(5):
            tasks = [asyncio.ensure_future(work(n)) for n in range(12)]
            await asyncio.sleep(0.02)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[1::2] == list(range(1, 12, 2))
            assert all(
                isinstance(result, asyncio.CancelledError) or result == 2 * n
                for n, result in enumerate(results[::2])
            )
        # Every connection is back: two can be held at once.
        async with memory.transaction(), memory.transaction():
            pass


async def test_cancelled_at_any_moment_no_connection_is_lost(database_url):
    """Cancel a call after each step of the event loop, with a pool of one connection."""
    async with AsyncMemory(database_url, pool=1, timeout=5) as memory:

        async def work():
            async with memory.transaction() as tx:
                await tx.state.put("k", 1)
            await memory.state.get("k")

        for steps in range(60):
            task = asyncio.ensure_future(work())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await memory.state.put("after", steps)


def test_closing_while_others_work_closes_every_connection(database_url):
    memory = Memory(database_url, pool=4)
    memory.open()
    ended = []

    def work():
        try:
            while True:
                memory.state.get("k")
        except NotOpen:
            ended.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    threading.Event().wait(0.2)
    memory.close()
    for thread in threads:
        thread.join(20)
    assert len(ended) == 4
    with Memory(database_url) as other, other.transaction() as tx:
        count = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND application_name <> %s"
        )
        deadline = threading.Event()
        for _ in range(200):
            (left,) = tx.connection.execute(count, [MAINTENANCE]).fetchone()
            tx.connection.execute("SELECT pg_stat_clear_snapshot()")
            if left <= 1:  # The other memory's pool may hold one more of its own.
                break
            deadline.wait(0.05)
        assert left <= 1
