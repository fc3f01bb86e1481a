"""Read and change the rows of leases, and start tasks that wait for one."""

from __future__ import annotations

import asyncio

from tests.support.database import sql
from tests.support.waiting import until

QUIET = 30.0
"""Seconds. A safety poll that no test waits for: what comes sooner was notified."""


def raw(thing):
    """Return the object behind an awaitable one."""
    return getattr(thing, "wrapped", thing)


def end_lease(url, name="job"):
    """End a lease, as if its holder had been paused beyond its end."""
    sql(
        url,
        "UPDATE pgmem.leases SET expires_at = clock_timestamp() - interval '1 ms' WHERE name = %s",
        name,
    )


def row(url, name="job"):
    found = sql(
        url, "SELECT token, owner_id, expires_at, waiters FROM pgmem.leases WHERE name = %s", name
    )
    return found[0] if found else None


def waiting(url, name="job"):
    """Count the entries in the queue of a lease."""
    found = sql(url, "SELECT jsonb_array_length(waiters) FROM pgmem.leases WHERE name = %s", name)
    return found[0][0] if found else 0


def notifiable(url, name="job"):
    """Count the entries in the queue whose waiters can be notified."""
    query = """
        SELECT count(*) FROM pgmem.leases, jsonb_array_elements(waiters) AS waiter
        WHERE name = %s AND waiter ->> 'listener' IS NOT NULL"""
    return sql(url, query, name)[0][0]


async def queue(url, memory, count=1, name="job", **options):
    """Start `count` tasks that wait for a lease, in order, each ready to be notified."""
    tasks = []
    for _ in range(count):
        before = notifiable(url, name)
        tasks.append(asyncio.create_task(memory.leases.acquire(name, **options)))
        await until(lambda b=before: notifiable(url, name) > b)
    return tasks
