"""One consumer group, as its members in this process see it: read, acknowledge, give back, look.

What to run is `pgmem.ops.deliveries` (which draws the states of a delivery) and `pgmem.ops.groups`;
the loop that an agent lives in is `pgmem._async.members`. It hands out only what the tailer, or the
reader, says is final.

::

    read ──► something there? ── no ──► wait: for an event of the selection (the feed), the end
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
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from pgmem._async.consuming import AsyncBound
from pgmem._async.dedupe import AsyncDedupe
from pgmem._async.feed import AsyncFollower
from pgmem._async.reader import AsyncFinalReader
from pgmem._async.runners import AsyncRunner
from pgmem._async.signals import AsyncSignals
from pgmem._compat import ALock
from pgmem.errors import InvalidOption
from pgmem.models import DeadLetter, GroupInfo, Pending, RecordedEvent
from pgmem.ops import deliveries as ops
from pgmem.ops import groups
from pgmem.ops.consumers import check_lease
from pgmem.ops.events import Codec, event_maker
from pgmem.ops.values import Seconds, check_seconds

DEFAULT_LEASE: Seconds = 30.0
DEFAULT_COUNT = 10


class AsyncKnown:
    """What the members of a group in this process know of it together.

    Attributes:
        lock: one of them asks at a time.
        position: nothing of the selection up to here is left to claim.
        due: when (by the monotonic clock) something becomes available by itself.
    """

    def __init__(self) -> None:
        self.lock = ALock()
        self.forget()

    def forget(self) -> None:
        """Ask the next time, whatever was known."""
        self.position = -1
        self.due = 0.0


@dataclass
class AsyncSharing:
    """What all groups of a memory have in common.

    Attributes:
        reader: knows what is final, and the feed.
        codec: how payloads are read.
        signals: wake members.
        safety_poll: seconds after which a member asks without having been woken.
        transaction: makes a transaction of its own.
        dedupe: for effects elsewhere.
        known: what is known of each group, by its name.
    """

    reader: AsyncFinalReader
    codec: Codec
    signals: AsyncSignals
    safety_poll: float
    transaction: Callable[[], AbstractAsyncContextManager[Any]]
    dedupe: AsyncDedupe
    known: dict[str, AsyncKnown] = field(default_factory=dict)


class AsyncDelivery:
    """An event that this member has, until it is acknowledged, given back, or its lease runs out.

    Attributes:
        event: the event.
        attempts: how often it was handed out, this time included.
        token: the fencing token: grows with every hand-out of a batch.
        consumer: the member that has it.
        lease_until: when others may take over (the server's clock).
    """

    __slots__ = ("_group", "attempts", "consumer", "event", "held", "lease_until")

    def __init__(
        self,
        group: AsyncGroup,
        event: RecordedEvent,
        attempts: int,
        held: ops.Held,
        *,
        consumer: str,
        lease_until: datetime,
    ) -> None:
        self._group = group
        self.event = event
        self.attempts = attempts
        self.held = held
        self.consumer = consumer
        self.lease_until = lease_until

    @property
    def token(self) -> int:
        """The fencing token."""
        return self.held.token

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} position={self.event.position} type={self.event.type!r} "
            f"attempts={self.attempts} token={self.token}>"
        )

    async def ack(self, tx: AsyncBound | None = None) -> None:
        """It is done. See `AsyncGroup.ack`."""
        await self._group.ack([self], tx)

    async def nack(self, *, delay: Seconds = 0.0, error: str | None = None) -> None:
        """Give it back. See `AsyncGroup.nack`."""
        await self._group.nack([self], delay=delay, error=error)

    async def dead_letter(self, error: str | None = None) -> None:
        """Give it up: nobody gets it any more, until it is requeued.

        Args:
            error: why; up to 2,000 characters are kept.

        Raises:
            LeaseLost: it is not ours any more.
        """
        await self._group.bury([self], error=error)

    async def extend(self, lease: Seconds = DEFAULT_LEASE) -> datetime:
        """Hold it, and all that was handed out with it, for another lease from now.

        Args:
            lease: seconds or a timedelta, at most a day.

        Returns:
            The new end of the lease.

        Raises:
            LeaseLost: it is not ours any more.
        """
        until = await self._group.extend([self], lease)
        self.lease_until = until
        return until


class AsyncGroup:
    """A group of members that share out the events of a selection. Made by `memory.groups.open`."""

    def __init__(
        self, sharing: AsyncSharing, group: groups.Group, model: type[BaseModel] | None
    ) -> None:
        self._sharing = sharing
        self._reader = sharing.reader
        self._runner = sharing.reader.runner
        self._group = group
        self._event_of = event_maker(sharing.codec, model)
        self._test = group.selection.test()
        self._known = sharing.known.setdefault(group.name, AsyncKnown())

    @property
    def name(self) -> str:
        """The group's name."""
        return self._group.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    async def read(
        self,
        consumer: str,
        count: int = DEFAULT_COUNT,
        *,
        timeout: Seconds | None = None,
        lease: Seconds = DEFAULT_LEASE,
        ack: Sequence[AsyncDelivery] = (),
    ) -> list[AsyncDelivery]:
        """Take events: nobody else gets them until the lease runs out.

        First what another member has let run out, then what is due again, then what is new.

        Args:
            consumer: who takes them, for others to read, 1 to 512 bytes.
            count: at most so many, 1 to 1,000.
            timeout: wait so long for a first one, in seconds or as a timedelta; None returns at
                once.
            lease: how long nobody else may have them, at most a day.
            ack: deliveries that are done: acknowledged in the same commit, where that can be, and
                in any case before new ones are handed out.

        Returns:
            Deliveries in the order of the log; none if there is nothing in time.

        Raises:
            GroupNotFound: the group was deleted.
            LeaseLost: one of `ack` is not ours any more; nothing was taken.
            PositionTrimmed: a forced trim has removed events that were not handed out.
            HistoryRewritten: the log is another one, after a failover or a restore.
            InvalidInput: an argument that is not allowed.
        """
        consumer, count, seconds = ops.check_read(consumer, count, lease)
        wait = 0.0 if timeout is None else check_seconds(timeout, "timeout", zero=True)
        member = ops.Member(self._group, consumer, count, seconds, self._event_of)
        if ack and self._group.ordered_by is not None:
            await self.ack(ack)
            ack = ()
        handed = await self._take(member, self._held(ack))
        if not handed.events and wait:
            handed = await self._wait_for(member, wait, handed)
        return [
            AsyncDelivery(
                self,
                event,
                attempts,
                ops.Held(event.position, handed.slot, handed.token),
                consumer=consumer,
                lease_until=handed.lease_until,  # type: ignore[arg-type]  # there are events, so there is one
            )
            for event, attempts in handed.events
        ]

    async def _take(self, member: ops.Member, acknowledged: Sequence[ops.Held]) -> ops.Handed:
        """Take what is there, if anything may be."""
        known = self._known
        async with known.lock:
            until = await self._final()
            if not acknowledged and until <= known.position and time.monotonic() < known.due:
                return _nothing(known.position)
            handed = await self._runner.run(member.claim(until, acknowledged))
            if handed.expired:
                handed = await self._runner.run(member.take_over())
            if not handed.events and handed.due:
                handed = await self._runner.run(member.unpark())
            if not handed.events and (handed.expired or handed.due):
                # Somebody else was quicker, or all of it was buried: new ones may be there.
                known.forget()
                return handed
            full = len(handed.events) == member.count
            if handed.events and (full or handed.position < until):
                known.forget()
            else:
                known.position = until
                known.due = time.monotonic() + min(
                    self._sharing.safety_poll, handed.wait if handed.wait is not None else 1e9
                )
            return handed

    async def _final(self) -> int:
        """Up to which position the log is final."""
        feed = self._reader.feed
        if feed.live:
            return feed.end
        self._reader.start()
        return await self._reader.settle()

    async def _wait_for(self, member: ops.Member, timeout: float, handed: ops.Handed) -> ops.Handed:
        """Wait for something to take."""
        deadline = time.monotonic() + timeout
        feed, signals = self._reader.feed, self._sharing.signals
        follower = AsyncFollower(self._test, max(0, self._known.position))
        signal = f"group:{self.name}"
        feed.enter(follower)
        signals.enter(signal, follower.wakeup)
        try:
            while not handed.events and not follower.stopped:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                if follower.failed is not None:
                    raise follower.failed
                await self._rest(follower, remaining)
                handed = await self._take(member, ())
        finally:
            follower.stopped = True
            signals.leave(signal, follower.wakeup)
            feed.leave(follower)
        return handed

    async def _rest(self, follower: AsyncFollower, remaining: float) -> None:
        """Wait until something may be there."""
        known = self._known
        pause = min(remaining, max(0.0, known.due - time.monotonic()))
        if pause <= 0.0:
            return
        follower.position = max(follower.position, known.position)
        follower.place = -1
        if known.position < 0 or self._reader.feed.take(follower, 1):
            known.forget()
            return
        if not self._reader.feed.live:
            self._reader.start()
            pause = min(pause, 0.1)
        if await follower.wakeup.wait(pause):
            known.forget()

    @staticmethod
    def _held(deliveries: Sequence[AsyncDelivery]) -> list[ops.Held]:
        return [delivery.held for delivery in deliveries]

    def _runner_of(self, tx: AsyncBound | None) -> AsyncRunner:
        return self._runner if tx is None else tx._runner

    async def ack(self, deliveries: Sequence[AsyncDelivery], tx: AsyncBound | None = None) -> None:
        """Acknowledge events, all or none: nobody gets them any more.

        Args:
            deliveries: what is done.
            tx: a transaction (what `memory.transaction()` or `memory.using()` gives) to do it in:
                it then commits with what else is done there, or not at all. Until its end nobody
                can take over. Let its errors pass out of the block.

        Raises:
            LeaseLost: one of them is not ours any more: taken over, or acknowledged before.
            GroupNotFound: the group was deleted.
            InvalidOption: one of them is another group's.
        """
        if deliveries:
            self._check_ours(deliveries)
            await self._runner_of(tx).run(ops.ack(self._group, self._held(deliveries)))
            self._known.due = min(self._known.due, self._freed())

    def _freed(self) -> float:
        """When something may be there after an acknowledgement: in a group that orders, now."""
        return self._known.due if self._group.ordered_by is None else 0.0

    async def nack(
        self,
        deliveries: Sequence[AsyncDelivery],
        *,
        delay: Seconds = 0.0,
        error: str | None = None,
        counted: bool = True,
    ) -> None:
        """Give events back, all or none; after `max_attempts` they become dead letters.

        In a group that orders, the later ones of their keys in the same batch go back with them.

        Args:
            deliveries: what is not done.
            delay: nobody gets them before, in seconds or as a timedelta.
            error: why; up to 2,000 characters are kept.
            counted: False: this attempt does not count, for what was not even begun.

        Raises:
            LeaseLost: one of them is not ours any more.
            GroupNotFound: the group was deleted.
            InvalidOption: one of them is another group's, or an option that is not allowed.
        """
        if deliveries:
            self._check_ours(deliveries)
            seconds = check_seconds(delay, "delay", zero=True)
            await self._runner.run(
                ops.nack(
                    self._group,
                    self._held(deliveries),
                    delay=seconds,
                    error=error,
                    counted=counted,
                )
            )
            self._known.forget()

    async def bury(self, deliveries: Sequence[AsyncDelivery], *, error: str | None = None) -> None:
        """Give events up, all or none: they become dead letters.

        Args:
            deliveries: what is hopeless.
            error: why; up to 2,000 characters are kept.

        Raises:
            LeaseLost: one of them is not ours any more.
            GroupNotFound: the group was deleted.
        """
        if deliveries:
            self._check_ours(deliveries)
            held = self._held(deliveries)
            await self._runner.run(ops.nack(self._group, held, error=error, bury=True))
            self._known.forget()

    async def extend(
        self, deliveries: Sequence[AsyncDelivery], lease: Seconds = DEFAULT_LEASE
    ) -> datetime:
        """Hold events, and those handed out with them, for another lease; gives its end.

        Args:
            deliveries: what is still being worked on, at least one.
            lease: seconds or a timedelta, from now, at most a day.

        Raises:
            LeaseLost: one of them is not ours any more.
            InvalidOption: none was given, or a lease that is not allowed.
        """
        check_lease(lease)
        if not deliveries:
            raise InvalidOption("extend needs at least one delivery, got none")
        self._check_ours(deliveries)
        return await self._runner.run(ops.extend(self._group, self._held(deliveries), lease=lease))

    def _check_ours(self, deliveries: Sequence[AsyncDelivery]) -> None:
        for delivery in deliveries:
            if delivery._group.name != self.name:
                raise InvalidOption(
                    f"a delivery of the group {delivery._group.name!r} was given to the group "
                    f"{self.name!r}: acknowledge it there"
                )

    async def info(self) -> GroupInfo:
        """The group, and how much is open in it.

        Raises:
            GroupNotFound: it was deleted.
        """
        found = await self._runner.run(groups.get(self.name))
        if found is None:
            raise groups.not_found(self.name)
        return found

    async def lag(self) -> int:
        """How many events are final and not handed out to anybody yet.

        Raises:
            GroupNotFound: it was deleted.
        """
        return await self._runner.run(groups.lag(self._group, until=await self._final()))

    async def pending(self, limit: int = 1_000) -> list[Pending]:
        """What members hold, and what is parked, in the order of the log.

        Args:
            limit: at most so many, 1 to 100,000.
        """
        return await self._runner.run(groups.pending(self._group, limit=limit))

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """What the group has given up, in the order of the log.

        Args:
            after: only positions above this one.
            limit: at most so many, 1 to 100,000.
        """
        return await self._runner.run(
            groups.dead_letters(self._group, self._sharing.codec, after=after, limit=limit)
        )

    async def requeue(self, positions: Sequence[int] | None = None) -> int:
        """Hand dead letters out again, their attempts counted anew; tells how many.

        Args:
            positions: which; None for all.

        Raises:
            GroupNotFound: the group was deleted.
            OutcomeUnknown: the connection was lost under way.
        """
        risen = await self._runner.run(groups.requeue(self._group, positions))
        self._known.forget()
        return risen

    async def reset(self, position: int) -> None:
        """Go on behind another position, and accept the present history of the log.

        Whoever holds something of the group loses it (`LeaseLost`); what is parked is forgotten.
        Dead letters stay.

        Args:
            position: the events above it come next; 0: with the oldest that is kept.

        Raises:
            GroupNotFound: it was deleted.
            InvalidOption: the log does not reach so far.
            PositionTrimmed: retention has removed events behind it.
            OutcomeUnknown: the connection was lost under way; reset it again.
        """
        await self._runner.run(groups.reset(self._group, position))
        self._known.forget()


def _nothing(position: int) -> ops.Handed:
    return ops.Handed([], 0, 0, None, position, False, False, None)
