"""What tests of subscriptions share: events, and waiting for so many of them."""

from __future__ import annotations

import asyncio

from pgmem import Event

SOON = 20.0
"""No guarantee of speed: a deadline that a wait for the safety poll would break."""
POLL = 90.0
"""So rare that nothing is found by it in a test's time."""


def event(payload=None, type="t", **more):
    return Event(type=type, payload=payload, **more)


async def receive(subscription, count):
    """So many events, or what came of them in time."""
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
    """A task that waits for events of a subscription, once it does wait."""
    task = asyncio.ensure_future(receive(subscription, count))
    await asyncio.sleep(0.1)
    return task


def followers(memory):
    """The subscriptions that its feed knows."""
    events = memory.events
    return getattr(events, "wrapped", events)._reader.buffer._cursors
