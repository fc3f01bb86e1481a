"""How the members of a process get events of a group: ask, and wait until it is worth asking.

What is asked is `pgmem.groups.claim_ops`. It hands out only what the tailer, or the reader, says is
final.

::

    take ──► something there? ── no ──► wait: for an event of the selection (the feed), the end
      ▲           │ yes                 of a lease or a delay, a signal "group:<name>", the poll
      │           ▼                                    │
      │       claim ──► expired? take over. due? unpark │
      └────────────────────────────────────────────────┘

Of several members in one process one asks at a time, and those behind it know what it found: so an
event wakes them all, and costs one question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from pgmem.core.concurrency import AsyncLock
from pgmem.core.notifications import AsyncTargetedNotifications
from pgmem.core.op import Op
from pgmem.dedupe.verbs import AsyncDedupe
from pgmem.events.buffer import AsyncCursor
from pgmem.events.codec import Codec
from pgmem.events.reader import AsyncLogReader
from pgmem.groups import claim_ops as ops
from pgmem.groups import ops as groups
from pgmem.groups.batches import AsyncSlots, Slot
from pgmem.groups.delivery_ops import HeldDelivery, ack
from pgmem.groups.prefetch_ops import RESERVE, unreserve

LOCKED_PAUSE = 0.05
"""Seconds until a member looks again for what somebody's transaction keeps from being taken."""
RETRY = 0.1
"""Seconds until it is asked again, where nobody follows the log for us."""


class AsyncGroupProgress:
    """What the members of a group in this process know of it together.

    Attributes:
        lock: one of them asks at a time.
        position: nothing of the selection up to here is left to claim.
        due: when (by the monotonic clock) something becomes available by itself.
        told: how many signals had been told of when it was asked last.
        slots: where their batches are.
    """

    def __init__(self) -> None:
        self.lock = AsyncLock()
        self.slots = AsyncSlots()
        self.forget()

    def forget(self) -> None:
        """Ask the next time, whatever was known."""
        self.position = -1
        self.due = 0.0
        self.told = 0


@dataclass
class AsyncGroupContext:
    """What all groups of a memory have in common.

    Attributes:
        reader: knows what is final, and the feed.
        codec: how payloads are read.
        signals: wake members.
        safety_poll: seconds after which a member asks without having been woken.
        transaction: makes a transaction of its own.
        dedupe: for effects elsewhere.
        progress: what is known of each group, by its name.
    """

    reader: AsyncLogReader
    codec: Codec
    notifications: AsyncTargetedNotifications
    safety_poll: float
    transaction: Callable[[], AbstractAsyncContextManager[Any]]
    dedupe: AsyncDedupe
    progress: dict[str, AsyncGroupProgress] = field(default_factory=dict)


class AsyncClaims:
    """Gets events of one group for the members in this process.

    Args:
        sharing: what all groups of the memory have in common.
        group: which.
    """

    def __init__(self, context: AsyncGroupContext, group: groups.Group) -> None:
        self._context = context
        self._reader = context.reader
        self._group = group
        self._test = group.selection.test()
        self._known = context.progress.setdefault(group.name, AsyncGroupProgress())
        self._signal = f"group:{group.name}"

    def changed(self) -> None:
        """Something may be there that was not when it was asked last."""
        self._known.forget()

    def due_in(self, seconds: float) -> None:
        """Something becomes available by itself, so many seconds from now at the latest."""
        self._known.due = min(self._known.due, time.monotonic() + seconds)

    def acknowledged(self, held: Sequence[HeldDelivery]) -> None:
        """They are done, and committed: what is empty now may be filled again."""
        self._known.slots.acknowledged(held)

    def wake(self) -> None:
        """Let those who wait look whether they are to go on."""
        self._context.notifications.wake(self._signal)

    async def take(
        self,
        request: ops.ClaimRequest,
        acknowledged: Sequence[HeldDelivery],
        *,
        timeout: float,
        stopping: Callable[[], bool],
    ) -> ops.ClaimResult:
        """Take what is there, or wait for it, until the time is over or `stopping` says so."""
        handed = await self._take(request, acknowledged, sure=not timeout)
        if handed.events or not timeout:
            return handed
        deadline = time.monotonic() + timeout
        follower = AsyncCursor(self._test, max(0, self._known.position))
        self._reader.buffer.enter(follower)
        self._context.notifications.register(self._signal, follower.wakeup)
        try:
            while not (handed.events or follower.stopped or stopping()):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                if follower.failed is not None:
                    raise follower.failed
                await self._rest(follower, remaining)
                handed = await self._take(request, ())
        finally:
            follower.stopped = True
            self._context.notifications.unregister(self._signal, follower.wakeup)
            self._reader.buffer.leave(follower)
        return handed

    async def _take(
        self, request: ops.ClaimRequest, acknowledged: Sequence[HeldDelivery], *, sure: bool = False
    ) -> ops.ClaimResult:
        """Take what is there, if anything may be; `sure`: whatever is known, and final by now."""
        known = self._known
        asked = time.monotonic()
        sessions = self._reader.executor.sessions
        before = known.slots.pop(acknowledged)
        if before is not None and before.in_time:
            # Nobody waits for anybody: no lock.
            handed = await self._reader.executor.execute(request.fetch(acknowledged))
            known.slots.filled(request, asked, handed)
            if handed.events:
                return handed
            known.slots.rest()
            known.forget()
            acknowledged = ()
        async with known.lock:
            until = await self._final()
            told = self._context.notifications.received
            nothing = until <= known.position and asked < known.due and told == known.told
            if nothing and not sure:
                if acknowledged:
                    await self._reader.executor.execute(ack(self._group, acknowledged))
                    known.slots.acknowledged(acknowledged, before)
                return ops.nothing(known.position)
            handed = await self._take_now(request, until, acknowledged, before, sessions, sure=sure)
            known.slots.filled(request, asked, handed)
            if handed.events and not (self._reader.buffer.live and request.has_all(handed, until)):
                known.forget()
            else:
                known.position, known.told = max(until, handed.position), told
                known.due = time.monotonic() + self._pause_after(handed, request.lease)
            return handed

    async def _take_now(
        self,
        request: ops.ClaimRequest,
        until: int,
        acknowledged: Sequence[HeldDelivery],
        before: Slot | None,
        sessions: int,
        *,
        sure: bool,
    ) -> ops.ClaimResult:
        """Ask; and if there is nothing, although there could be, find out and ask once more."""
        reader, slots = self._reader, self._known.slots
        empty = None if acknowledged else slots.pop_free()
        ask = request.claim(
            until,
            acknowledged,
            reserving=slots.how_many(request.limit, before),
            empty=empty,
            crowded=slots.crowded,
        )
        handed = await self._ask(request, until, ask)
        if handed.events:
            return handed
        if empty is not None:
            slots.push_free(empty)
        # The feed may not have heard yet of what this process has just written; or an answer was
        # lost: the server may have crashed, and what was final not be final any more.
        unsure = (sure and reader.buffer.live) or sessions != reader.executor.sessions
        if unsure:
            until = await reader.settle()
        if unsure or not handed.looked:  # Or it was only acknowledged: something stood in the way.
            handed = await self._ask(request, until, request.claim(until))
        return handed

    async def _ask(
        self, request: ops.ClaimRequest, until: int, claim: Op[ops.ClaimResult]
    ) -> ops.ClaimResult:
        """Take what ran out, or else what is due, or else what is new, or what others reserve."""
        execute = self._reader.executor.execute
        handed = await execute(claim)
        if handed.expired:
            handed = await execute(request.take_over())
        if not handed.events and handed.unfetched:
            await execute(unreserve(self._group, request.member))
        if not handed.events and _something_first(handed):
            # Also if nothing was due: what has just been buried may have freed its key.
            handed = await execute(request.unpark())
            if not handed.events:
                # Somebody else was quicker, all of it was buried, or it is being acknowledged in a
                # transaction that takes longer than the lease: that must hold up nobody.
                handed = await execute(request.claim(until, passing=True))
        if not handed.events and handed.reserved:
            last = self._known.slots.last(request.member)
            if await execute(unreserve(self._group, request.member, last)):
                handed = await execute(request.unpark())
        return handed

    def _pause_after(self, handed: ops.ClaimResult, lease: float) -> float:
        """Seconds until it is worth while to ask again without having been woken."""
        wait = lease if handed.wait is None else min(lease, handed.wait)
        if _something_first(handed):
            wait = max(wait, LOCKED_PAUSE)
        if handed.reserved or handed.overtaken:
            wait = min(wait, RESERVE)  # Its member is quick, or leaves it.
        return min(self._context.safety_poll, wait)

    async def settled(self) -> int:
        """Up to which position the log is final, asked now: the feed may be a moment behind."""
        return await self._reader.settle()

    async def _final(self) -> int:
        """Up to which position the log is known to be final; quicker, and good enough to claim."""
        feed = self._reader.buffer
        if feed.live:
            return feed.end
        self._reader.start()
        return await self._reader.settle()

    async def _rest(self, follower: AsyncCursor, remaining: float) -> None:
        """Wait until it is worth asking."""
        known, feed = self._known, self._reader.buffer
        pause = min(remaining, known.due - time.monotonic())
        if pause <= 0.0 or known.position < 0:
            return
        follower.position = max(follower.position, known.position)
        follower.place = -1
        if feed.take(follower, 1):
            return
        if not feed.live:
            self._reader.start()
            pause = min(pause, RETRY)
        if await follower.wakeup.wait(pause) and feed.end <= known.position:
            known.forget()  # No event: a signal, or the end.


def _something_first(handed: ops.ClaimResult) -> bool:
    return handed.expired or handed.due or handed.unfetched
