"""The cost of a lease with many waiters: one statement for each hand-over."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from pgmem import AsyncMemory
from tests.support.leases import QUIET, notifiable, row
from tests.support.relay import Relay
from tests.support.waiting import until

HAND_OVERS = 20


async def pass_on(memory, name):
    """Acquire the lease and release it. Return its token and both times."""
    lease = await memory.leases.acquire(name)
    had = time.monotonic()
    await asyncio.sleep(0.001)
    given = time.monotonic()
    await lease.release()
    return lease.token, had, given


async def hand_over(url, memories, count):
    """Hand a lease over between `count` waiters. Return statements and delay of a hand-over."""
    with Relay(url) as relay:
        opened = [AsyncMemory(relay.url, safety_poll=QUIET) for _ in range(memories)]
        for memory in opened:
            await memory.open()
        lease = await opened[0].leases.acquire("job")
        tasks = [asyncio.create_task(pass_on(opened[n % memories], "job")) for n in range(count)]
        await until(lambda: notifiable(url) == count)
        await asyncio.sleep(0.1)  # Until the followers are idle.
        before = relay.statements
        given = time.monotonic()
        await lease.release()
        await until(lambda: sum(task.done() for task in tasks) >= min(count, HAND_OVERS))
        statements = relay.statements - before
        done = sum(task.done() for task in tasks)
        turns = sorted(await asyncio.gather(*tasks))
        for memory in opened:
            await memory.close()
    delays = [turns[0][1] - given]
    delays += [after[1] - first[2] for first, after in pairwise(turns)]
    assert min(delays) > 0, "two had it at once"
    return statements / (done + 1), sorted(delays)[len(delays) // 2]


@pytest.mark.parametrize("memories", [1, 5])
async def test_statements_per_hand_over_do_not_grow_with_the_waiters(memories, database_url):
    few, quick = await hand_over(database_url, memories, 5)
    many, also_quick = await hand_over(database_url, memories, 50)
    print(f"statements per hand-over: {few:.2f} with 5, {many:.2f} with 50")
    print(f"hand-over p50 {quick * 1e6:.0f} µs with 5, {also_quick * 1e6:.0f} µs with 50")
    assert few <= 1.4
    assert many <= 1.4
    assert row(database_url) is None
