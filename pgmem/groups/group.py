"""One consumer group, as its members see it: read, acknowledge, give back, live in it, look at it.

What to run is `pgmem.groups.claim_ops`, `pgmem.groups.delivery_ops` (which draws the states of a
delivery) and
`pgmem.groups.ops`;
how members wait is `pgmem.groups.claims`, the loop that an agent lives in `pgmem.groups.worker`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic import BaseModel

from pgmem.core.execution import AsyncExecutor
from pgmem.core.validation import Seconds, check_seconds
from pgmem.errors import InvalidOption
from pgmem.events.durable import AsyncBound, executor_of
from pgmem.events.durable_ops import check_lease
from pgmem.events.models import RecordedEvent
from pgmem.events.ops import event_maker
from pgmem.groups import claim_ops as claims
from pgmem.groups import delivery_ops as ops
from pgmem.groups import ops as groups
from pgmem.groups.claims import AsyncClaims, AsyncGroupContext
from pgmem.groups.models import DeadLetter, GroupInfo, Pending, Ran
from pgmem.groups.worker import AsyncMembers, Handler, Once

DEFAULT_LEASE: Seconds = 30.0
DEFAULT_COUNT = 10


class AsyncDelivery:
    """An event that this member has, until it is acknowledged, given back, or its lease runs out.

    Attributes:
        event: the event.
        attempts: how often it was handed out, this time included.
        token: the fencing token: grows with every hand-out of a batch.
        key: what it is ordered by, in a group that orders; else None.
        consumer: the member that has it.
        lease_until: when others may take over (the server's clock).
    """

    __slots__ = ("_group", "_slot", "attempts", "consumer", "event", "key", "lease_until", "token")

    def __init__(
        self,
        group: AsyncGroup,
        event: RecordedEvent,
        attempts: int,
        key: str | None,
        *,
        consumer: str,
        handed: claims.ClaimResult,
    ) -> None:
        self._group = group
        self.event = event
        self.attempts = attempts
        self.key = key
        self.consumer = consumer
        self._slot = handed.slot
        self.token = handed.token
        assert handed.lease_until is not None  # noqa: S101  # there is an event
        self.lease_until = handed.lease_until

    @property
    def held(self) -> ops.Held:
        """What a statement finds it by. Not public."""
        return ops.Held(self.event.position, self._slot, self.token)

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
        self, context: AsyncGroupContext, group: groups.Group, model: type[BaseModel] | None
    ) -> None:
        self.context = context
        self._executor = context.reader.executor
        self._group = group
        self._event_of = event_maker(context.codec, model)
        self._claims = AsyncClaims(context, group)
        self._running: set[AsyncMembers] = set()

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
                once, and with whatever is final by then.
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
        wait = 0.0 if timeout is None else check_seconds(timeout, "timeout", zero=True)
        return await self.take(consumer, count, lease, ack, timeout=wait)

    async def take(
        self,
        consumer: str,
        count: int,
        lease: Seconds,
        ack: Sequence[AsyncDelivery],
        *,
        timeout: float,
        stopping: Callable[[], bool] = lambda: False,
    ) -> list[AsyncDelivery]:
        """What `read` does, until it is told to stop. Not public."""
        consumer, count, seconds = claims.check_read(consumer, count, lease)
        self._check_ours(ack)
        member = claims.ClaimRequest(self._group, consumer, count, seconds, self._event_of)
        if ack and self._group.ordered_by is not None:
            await self.ack(ack)
            ack = ()
        handed = await self._claims.take(
            member, self._held(ack), timeout=timeout, stopping=stopping
        )
        return [
            AsyncDelivery(self, event, attempts, key, consumer=consumer, handed=handed)
            for event, attempts, key in handed.events
        ]

    @staticmethod
    def _held(deliveries: Sequence[AsyncDelivery]) -> list[ops.Held]:
        return [delivery.held for delivery in deliveries]

    def _executor_of(self, tx: AsyncBound | None) -> AsyncExecutor:
        return self._executor if tx is None else executor_of(tx)

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
            InvalidOption: one of them is another group's, or `tx` is no transaction.
        """
        if deliveries:
            self._check_ours(deliveries)
            held = self._held(deliveries)
            await self._executor_of(tx).execute(ops.ack(self._group, held))
            if tx is None:
                self._claims.acknowledged(held)
            if self._group.ordered_by is not None:
                self._claims.changed()  # What waited for one of their keys is free.

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
            await self._executor.execute(
                ops.nack(
                    self._group,
                    self._held(deliveries),
                    delay=seconds,
                    error=error,
                    counted=counted,
                )
            )
            self._claims.changed()

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
            await self._executor.execute(ops.nack(self._group, held, error=error, bury=True))
            self._claims.changed()

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
        seconds = check_lease(lease)
        if not deliveries:
            raise InvalidOption("extend needs at least one delivery, got none")
        self._check_ours(deliveries)
        until = await self._executor.execute(
            ops.extend(self._group, self._held(deliveries), lease=seconds)
        )
        self._claims.due_in(seconds)
        return until

    def _check_ours(self, deliveries: Sequence[AsyncDelivery]) -> None:
        if not isinstance(deliveries, Sequence):
            raise InvalidOption(f"a list of deliveries is needed, got {type(deliveries).__name__}")
        for delivery in deliveries:
            if not isinstance(delivery, AsyncDelivery):
                raise InvalidOption(f"deliveries are needed, got {type(delivery).__name__}")
            if delivery._group.name != self.name:
                raise InvalidOption(
                    f"a delivery of the group {delivery._group.name!r} was given to the group "
                    f"{self.name!r}: acknowledge it there"
                )

    async def run(
        self,
        handler: Handler,
        *,
        consumer: str | None = None,
        concurrency: int = 1,
        count: int = DEFAULT_COUNT,
        lease: Seconds = DEFAULT_LEASE,
        once: Once | None = None,
    ) -> Ran:
        """Live as members of the group: read, call the handler, acknowledge, until told to stop.

        SIGTERM, SIGINT (in the main thread) and `stop` end it: what is under way is finished, what
        was not begun is given back. A handler that raises gives its event back with a delay that
        grows with each attempt, up to `max_attempts`; then it is a dead letter.

        Args:
            handler: is called with each `Delivery`; with once="transaction" also with the
                transaction, in which the event is acknowledged when it returns.
            consumer: the members' name, for others to read; None for host and process.
            concurrency: how many batches are worked on at the same time, 1 to 1,000. Each takes a
                connection while it reads or is in a transaction.
            count: events of a batch, 1 to 1,000. A batch is acknowledged with the next read.
            lease: how long a batch may take before others may have it; longer than the slowest
                handler takes for `count` events.
            once: "transaction" for effects in this database (exactly once), "claim" for effects
                elsewhere (`dedupe.run_once` around the handler), None where twice does no harm.

        Returns:
            How many events were handled, how often the handler raised, and how many events were
            somebody else's in the end.

        Raises:
            GroupNotFound, PositionTrimmed, HistoryRewritten: the group cannot go on.
            InvalidInput: an option that is not allowed.
        """
        members = AsyncMembers(
            self,
            handler,
            consumer=consumer,
            concurrency=concurrency,
            count=count,
            lease=lease,
            once=once,
        )
        self._running.add(members)
        try:
            return await members.run()
        finally:
            self._running.discard(members)

    def stop(self) -> None:
        """End every `run` of this object, from any thread or task."""
        for members in list(self._running):
            members.stop()

    def wake(self) -> None:
        """Let those who wait here look whether they are to go on. Not public."""
        self._claims.wake()

    async def info(self) -> GroupInfo:
        """The group, and how much is open in it.

        Raises:
            GroupNotFound: it was deleted.
        """
        found = await self._executor.execute(groups.get(self.name))
        if found is None:
            raise groups.not_found(self.name)
        return found

    async def lag(self) -> int:
        """How many events are final and not handed out to anybody yet.

        What was committed before the call is counted, also where the feed has not heard of it; at
        most what was written above a transaction that stays open is not.

        Raises:
            GroupNotFound: it was deleted.
        """
        return await self._executor.execute(
            groups.lag(self._group, until=await self._claims.settled())
        )

    async def pending(self, limit: int = 1_000) -> list[Pending]:
        """What members hold, and what is parked, in the order of the log.

        Args:
            limit: at most so many, 1 to 100,000.
        """
        return await self._executor.execute(groups.pending(self._group, limit=limit))

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """What the group has given up, in the order of the log.

        Args:
            after: only positions above this one.
            limit: at most so many, 1 to 100,000.
        """
        return await self._executor.execute(
            groups.dead_letters(self._group, self.context.codec, after=after, limit=limit)
        )

    async def requeue(self, positions: Sequence[int] | None = None) -> int:
        """Hand dead letters out again, their attempts counted anew; tells how many.

        Those that a reset lets be handed out anyway stay, and so do those whose events are gone.

        Args:
            positions: which; None for all.

        Raises:
            GroupNotFound: the group was deleted.
            OutcomeUnknown: the connection was lost under way.
        """
        risen = await self._executor.execute(groups.requeue(self._group, positions))
        self._claims.changed()
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
        await self._executor.execute(groups.reset(self._group, position))
        self._claims.changed()
