"""One AsyncMemory and several event loops; and a memory that is opened again after `close`."""

from __future__ import annotations

import asyncio

import pytest

from pgmem import AsyncMemory, Event
from pgmem.errors import NotOpen


async def subscribed(memory):
    async with memory.events.subscribe("s") as events:
        return await events.receive(timeout=20)


async def in_a_transaction(memory):
    async with memory.transaction() as tx:
        await tx.state.put("k", 1)


CALLS = {
    "get": lambda memory: memory.state.get("k"),
    "put": lambda memory: memory.state.put("k", 1),
    "append": lambda memory: memory.events.append("s", Event(type="t")),
    "transaction": in_a_transaction,
    "subscription": subscribed,
    "lease": lambda memory: memory.leases.acquire("job", timeout=5),
    "open": lambda memory: memory.open(),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_first_call_in_another_event_loop_says_so(database_url, name):
    memory = AsyncMemory(database_url)

    async def call():
        return await CALLS[name](memory)

    asyncio.run(memory.open())
    for _ in range(2):
        with pytest.raises(NotOpen, match="another event loop" if name != "open" else "twice"):
            asyncio.run(call())
    asyncio.run(memory.close())


def test_a_memory_is_closed_in_one_event_loop_and_opened_in_another(database_url):
    memory = AsyncMemory(database_url)

    async def use():
        async with memory:
            await memory.events.append("s", Event(type="t"))
            lease = await memory.leases.acquire("job", timeout=5)
            await lease.release()
            return len(await subscribed(memory))

    assert [asyncio.run(use()) for _ in range(3)] == [1, 2, 3]
    asyncio.run(memory.open())
    asyncio.run(memory.close())
    assert asyncio.run(use()) == 4


async def test_opened_again_after_close(form):
    async with form.memory(cache=10, janitor=True) as memory:
        await memory.close()
        await memory.open()
        await memory.events.append("s", Event(type="t"))
        async with memory.events.subscribe("s") as events:
            assert len(await events.receive(timeout=20)) == 1
        lease = await memory.leases.acquire("job", timeout=5)
        await lease.release()
        assert (await memory.state.put("k", 1)).version == 1
        assert (await memory.state.get("k")).value == 1


test_opened_again_after_close.pytestmark = [pytest.mark.both_forms]
