"""Make events and receive a number of them from a subscription."""

from __future__ import annotations

import asyncio

from pgmem import Event

SOON = 20.0
"""Seconds: a deadline that a wait for the safety poll would miss."""
POLL = 90.0
"""Seconds: a safety poll that finds no event within a test."""


def event(payload=None, type="t", **more):
    return Event(type=type, payload=payload, **more)


async def receive(subscription, count):
    """Receive `count` events, or those that arrive in time."""
    found = []
    while len(found) < count:
        more = await subscription.receive(count - len(found), timeout=SOON)
        if not more:
            break
        found += more
    return found


async def payloads(subscription, count):
    return [event.payload for event in await receive(subscription, count)]


async def nothing_more(subscription):
    return await subscription.receive(timeout=0.1) == []


async def entered(subscription, count=1):
    """Start a task that waits for events of a subscription; return it once it waits."""
    task = asyncio.ensure_future(receive(subscription, count))
    await asyncio.sleep(0.1)
    return task


def followers(memory):
    """Return the cursors of the memory's event buffer."""
    events = memory.events
    return getattr(events, "wrapped", events)._reader.buffer._cursors
