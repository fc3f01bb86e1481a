"""Consumer groups in either form: events to share out, and what time or a failover would do."""

from __future__ import annotations

import asyncio

from pgmem import Event
from tests.support.consumers import sql


async def fill(memory, count=5, stream="work", key=None):
    """So many events, numbered from 1; `key` gives what each is ordered by."""
    await memory.events.append(
        stream,
        [
            Event(type="job", payload={"n": n} | ({} if key is None else {"key": key(n)}))
            for n in range(1, count + 1)
        ],
    )


async def opened(memory, count=5, **options):
    """A group with so many events before it."""
    await fill(memory, count)
    return await memory.groups.create("g", **options)


def positions(deliveries) -> list[int]:
    return [delivery.event.position for delivery in deliveries]


def lapse(url, consumer=None):
    """Let leases run out: of all, or of one member."""
    sql(
        url,
        "UPDATE pgmem.batches SET expires_at = clock_timestamp() - interval '1 s'"
        + (f" WHERE member = '{consumer}'" if consumer else ""),
    )


def fall_due(url):
    """Let every delay be over."""
    sql(url, "UPDATE pgmem.delayed SET available_at = clock_timestamp() - interval '1 s'")


def slots(url) -> int:
    """How many rows hold what members hold."""
    return sql(url, "SELECT count(*) FROM pgmem.batches")[0][0]


async def waiting(group, consumer="waiter", **options):
    """A member that waits for events, once it does wait."""
    task = asyncio.ensure_future(group.read(consumer, **options))
    await asyncio.sleep(0.3)
    assert not task.done()
    return task
