"""`AsyncWakeup` keeps each call, whenever it comes."""

from __future__ import annotations

import asyncio

import pytest

from pgmem.core.concurrency import AsyncWakeup


async def ended(wakeup, end):
    """Begin a wait, end it by `end(task)` and call before the task that waited has run again."""
    task = asyncio.ensure_future(wakeup.wait(3600))
    await asyncio.sleep(0)
    end(wakeup._waiter, task)
    assert not task.done()
    wakeup.set()
    return task


async def test_a_call_in_the_moment_of_the_timeout_is_kept():
    wakeup = AsyncWakeup()
    task = await ended(wakeup, lambda waiter, _: waiter.set_result(False))
    assert await task
    assert not await wakeup.wait(0), "it is told once"


async def test_a_call_in_the_moment_of_a_cancellation_is_kept():
    wakeup = AsyncWakeup()
    task = await ended(wakeup, lambda _, task: task.cancel())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await wakeup.wait(0)


async def test_two_calls_at_once_are_one():
    wakeup = AsyncWakeup()
    task = await ended(wakeup, lambda waiter, _: wakeup.set())
    assert await task
    assert not await wakeup.wait(0)


async def test_a_wait_without_a_call_times_out():
    assert not await AsyncWakeup().wait(0.001)
