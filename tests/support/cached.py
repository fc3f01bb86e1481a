"""A memory with a read cache that does not follow the log, so that a test makes each race."""

from __future__ import annotations

import inspect
import math
from contextlib import asynccontextmanager

import psycopg


def inner(memory):
    """Return the `Memory` or `AsyncMemory` behind an awaitable one."""
    return getattr(memory, "wrapped", memory)


def cache_of(memory):
    return inner(memory)._cache


@asynccontextmanager
async def fresh(form, most=100):
    """Open a memory that does not follow the log and takes each copy for fresh."""
    async with form.memory(cache=most) as memory:
        stopped = inner(memory)._follower.close()
        if inspect.isawaitable(stopped):
            await stopped
        cache_of(memory).fresh_until = math.inf
        yield memory


def change_behind(url, key="k", value='"behind"'):
    """Change the row of a key without an event, so that only a read from the server shows it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE pgmem.state SET value = %s, version = version + 1 WHERE key = %s",
            [value, key],
        )


def between(memory, hook):
    """Call `hook` once, after the next statement has run and before its answer is used."""
    executor = inner(memory)._executor
    execute = executor.execute

    async def run_async(op):
        executor.execute = execute
        result = await execute(op)
        happened = hook(inner(memory))
        if inspect.isawaitable(happened):
            await happened
        return result

    def run_sync(op):
        executor.execute = execute
        result = execute(op)
        hook(inner(memory))
        return result

    executor.execute = run_async if inspect.iscoroutinefunction(execute) else run_sync


async def value(memory, key="k"):
    """Read a value; None if there is no entry."""
    found = await memory.state.get(key)
    return found and found.value
