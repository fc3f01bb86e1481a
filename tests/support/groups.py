"""Make groups with events in either form, and end leases and delays in the database."""

from __future__ import annotations

import asyncio

from pgmem import Event
from tests.support.database import sql


async def fill(memory, count=5, stream="work", key=None):
    """Append `count` events, numbered from 1; `key(n)` returns the ordering key of one."""
    await memory.events.append(
        stream,
        [
            Event(type="job", payload={"n": n} | ({} if key is None else {"key": key(n)}))
            for n in range(1, count + 1)
        ],
    )


async def opened(memory, count=5, **options):
    """Append `count` events and create a group."""
    await fill(memory, count)
    return await memory.groups.create("g", **options)


def positions(deliveries) -> list[int]:
    return [delivery.event.position for delivery in deliveries]


def lapse(url, consumer=None):
    """End the leases of all members, or of one."""
    sql(
        url,
        "UPDATE pgmem.batches SET expires_at = clock_timestamp() - interval '1 s'"
        + (f" WHERE member = '{consumer}'" if consumer else ""),
    )


def fall_due(url):
    """Make every delayed event available."""
    sql(url, "UPDATE pgmem.delayed SET available_at = clock_timestamp() - interval '1 s'")


def batch_rows(url) -> int:
    """Count the rows of batches."""
    return sql(url, "SELECT count(*) FROM pgmem.batches")[0][0]


async def waiting(group, consumer="waiter", **options):
    """Start a read that waits for events; return its task."""
    task = asyncio.ensure_future(group.read(consumer, **options))
    await asyncio.sleep(0.3)
    assert not task.done()
    return task


def pass_time(server, seconds: float) -> None:
    """Bring the ends of leases and delays closer, on an open connection."""
    for table, column in (("batches", "expires_at"), ("delayed", "available_at")):
        server.execute(
            f"UPDATE pgmem.{table} SET {column} = {column} - make_interval(secs => %s)", [seconds]
        )
