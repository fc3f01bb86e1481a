"""One consumer group: read, acknowledge, run a handler, alter, reset."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal

from pydantic import BaseModel
from typing_extensions import TypeVar

from pgmem.core.op import Row
from pgmem.core.validation import Seconds, check_seconds
from pgmem.errors import InvalidEvent, InvalidInput
from pgmem.events.codec import event_maker
from pgmem.events.durable import AsyncBound, executor_of
from pgmem.events.durable_ops import OnFailover, check_lease, check_on_failover
from pgmem.events.filter import EventFilter
from pgmem.events.models import RecordedEvent
from pgmem.groups import claim_ops, delivery_ops, ops
from pgmem.groups.claims import AsyncClaims, AsyncGroupContext
from pgmem.groups.delivery import DEFAULT_LEASE, AsyncDelivery, held_of, settle
from pgmem.groups.models import RunResult
from pgmem.groups.retry import RetryPolicy
from pgmem.groups.transaction_group import AsyncTransactionGroup
from pgmem.groups.worker import AsyncGroupRun, Handler, Once, RunOptions

T = TypeVar("T", default=Any)

DEFAULT_LIMIT = 10
DEFAULT_MAX_RUNTIME: Seconds = 3_600.0

OnInvalid = Literal["dead_letter", "skip", "raise"]


def _event_or_error(
    event_of: Callable[[Row], RecordedEvent],
) -> Callable[[Row], RecordedEvent | InvalidEvent]:
    """Return a function that returns the error of an event that does not fit its class."""

    def make(row: Row) -> RecordedEvent | InvalidEvent:
        try:
            return event_of(row)
        except InvalidEvent as error:
            return error

    return make


class AsyncGroup(AsyncTransactionGroup, Generic[T]):
    """A consumer group. Returned by `memory.groups.create` and `memory.groups.get`.

    The usual handler of `run` does the slow part first, and then commits its effects together with
    the acknowledgement:

    >>> from typing import Any
    >>> from pgmem import AsyncDelivery, Event
    >>> receipt = await memory.events.append("parcels", Event(type="packed"))
    >>> group = await memory.groups.create("labels", stream="parcels")
    >>> async def handle(delivery: AsyncDelivery[Any]) -> None:
    ...     label = delivery.event.type.upper()  # a slow call, outside of any transaction
    ...     async with memory.transaction() as tx:
    ...         await tx.state.put("label", label)
    ...         await delivery.ack(tx)
    ...     group.stop()
    >>> await group.run(handle)
    RunResult(handled=1, failed=0, lost=0)
    """

    def __init__(
        self,
        context: AsyncGroupContext,
        group: ops.Group,
        model: type[BaseModel] | None,
        on_invalid: OnInvalid = "dead_letter",
        on_failover: OnFailover = "continue",
    ) -> None:
        if on_invalid not in ("dead_letter", "skip", "raise"):
            raise InvalidInput(
                f"on_invalid is 'dead_letter', 'skip' or 'raise', got {on_invalid!r}"
            )
        super().__init__(context.reader.executor, context.codec, group)
        self._claims = AsyncClaims(
            context, group, stamps=check_on_failover(on_failover) == "continue"
        )
        self._context = context
        self._event_of = _event_or_error(event_maker(context.codec, model))
        self._on_invalid = on_invalid
        self._running: set[AsyncGroupRun] = set()

    @property
    def _group(self) -> ops.Group:
        return self._claims.group  # `alter` may change it.

    @property
    def options(self) -> ops.Group:
        """The group's options, as this object last read them."""
        return self._claims.group

    @property
    def retry(self) -> RetryPolicy:
        """How failed events are delivered again."""
        return self._claims.group.retry

    async def read(
        self,
        member: str,
        limit: int = DEFAULT_LIMIT,
        *,
        timeout: Seconds | None = 0,
        lease: Seconds = DEFAULT_LEASE,
        ack: Sequence[AsyncDelivery[Any]] = (),
    ) -> list[AsyncDelivery[T]]:
        """Claim events. No other member gets them until the lease expires.

        Events whose lease has expired come first, then delayed events that are due, then new ones.

        Args:
            member: the name of the member, 1 to 512 bytes.
            limit: the most events to claim, 1 to 1,000.
            timeout: seconds or a timedelta to wait for a first event; 0 does not wait, None waits
                for ever.
            lease: seconds or a timedelta until other members may take over, at most a day.
            ack: deliveries to acknowledge before the new ones are claimed, in the same commit where
                that is possible.

        Returns:
            Deliveries in the order of the log; an empty list if there was none in time.

        Raises:
            NotFound: the group was deleted.
            LeaseLost: another member has taken over one of `ack`. Nothing was claimed.
            PositionTrimmed: a forced trim removed events that were not delivered.
            HistoryRewritten: the log was replaced, or has lost events that this memory has read.
            InvalidInput: an argument is not allowed.
        """
        seconds = math.inf if timeout is None else check_seconds(timeout, "timeout", zero=True)
        return await self._read(member, limit, lease, ack, timeout=seconds)

    async def _read(
        self,
        member: str,
        limit: int,
        lease: Seconds,
        ack: Sequence[AsyncDelivery[Any]],
        *,
        timeout: float,
        stopping: Callable[[], bool] = lambda: False,
        alone: bool = True,
    ) -> list[AsyncDelivery[T]]:
        """Read until there is something, the timeout is over, or `stopping` returns True."""
        request = claim_ops.ClaimRequest.of(
            self._group, member, limit, lease, self._event_of, alone=alone
        )
        held = held_of(self.name, ack)
        if held and self._group.ordered_by is not None:
            await self.ack(ack)
            held = []
        deadline = time.monotonic() + timeout
        while True:
            claimed = await self._claims.take(request, held, timeout=timeout, stopping=stopping)
            deliveries = [
                AsyncDelivery(self, event, attempts, key, member=member, claimed=claimed)
                for event, attempts, key in claimed.events
                if not isinstance(event, InvalidEvent)
            ]
            invalid = [event for event, _, _ in claimed.events if isinstance(event, InvalidEvent)]
            if invalid:
                await self._set_aside(invalid, claimed, deliveries)
            if deliveries or not invalid or stopping():
                return deliveries
            held, timeout = [], max(0.0, deadline - time.monotonic())

    async def _set_aside(
        self,
        invalid: list[InvalidEvent],
        claimed: claim_ops.ClaimResult,
        rest: list[AsyncDelivery[T]],
    ) -> None:
        """End events that do not fit their class, as `on_invalid` says.

        Raises:
            InvalidEvent: on_invalid="raise". All events are given back, without an attempt.
        """
        held = [
            delivery_ops.HeldDelivery(error.position, claimed.batch, claimed.token)
            for error in invalid
        ]
        execute, group = self._executor.execute, self._group
        if self._on_invalid == "skip":
            await self._claims.acknowledge(held)
        elif self._on_invalid == "raise":
            held += held_of(self.name, rest)
            await execute(delivery_ops.nack(group, held, counted=False))
            raise invalid[0]
        else:
            for one, error in zip(held, invalid, strict=True):
                await execute(
                    delivery_ops.dead_letter(group, [one], error=str(error), counted=False)
                )
        self._changed()

    async def alter(
        self,
        *,
        max_attempts: int | None = None,
        filter: EventFilter | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Change options of the group. Its position, open events and dead letters stay.

        Members of all processes use the new options from their next claim on. Open events stay
        with the group, also if the new filter does not select them.

        Args:
            max_attempts: attempts of an event before it becomes a dead letter; None keeps it.
            filter: the events that the group follows from its position on; None keeps it.
            retry: how failed events are delivered again; None keeps it.

        Raises:
            NotFound: the group was deleted.
            InvalidInput: an option is not allowed.
        """
        for given, kind, name in ((filter, EventFilter, "filter"), (retry, RetryPolicy, "retry")):
            if given is not None and not isinstance(given, kind):
                raise InvalidInput(f"{name} is a {kind.__name__}, got {type(given).__name__}")
        await self._executor.execute(
            ops.alter(self._group, max_attempts=max_attempts, selection=filter, retry=retry)
        )
        self._claims.follow(await self._executor.execute(ops.get(self.name)))
        self._changed()

    async def ack(
        self, deliveries: Sequence[AsyncDelivery[Any]], tx: AsyncBound | None = None
    ) -> None:
        """Acknowledge deliveries, all or none: they are done and not delivered again.

        Args:
            deliveries: the deliveries.
            tx: the result of `memory.transaction()` or `memory.using()`. They are acknowledged if
                it commits.

        Raises:
            LeaseLost: another member has taken over, or the group was reset. Nothing is changed.
            NotFound: the group was deleted.
            InvalidInput: a delivery of another group, or `tx` is no transaction.
        """
        if held := held_of(self.name, deliveries):
            if tx is None:
                await self._claims.acknowledge(held)
                settle(deliveries, "ack")
            else:
                executor = executor_of(tx)
                await executor.execute(delivery_ops.ack(self._group, held))
                settle(deliveries, "ack", executor)
            if self._group.ordered_by is not None:
                self._changed()  # Events that waited for one of their keys are free.

    async def extend(
        self, deliveries: Sequence[AsyncDelivery[Any]], lease: Seconds = DEFAULT_LEASE
    ) -> datetime:
        """Renew the leases of deliveries, and of those that were delivered in the same batches.

        Args:
            deliveries: at least one delivery.
            lease: seconds or a timedelta from now, at most a day.

        Returns:
            The new end of the lease, by the server's clock.

        Raises:
            LeaseLost: another member has taken over, or the group was reset.
            InvalidInput: no delivery was given, or the lease is not allowed.
        """
        seconds = check_lease(lease)
        held = held_of(self.name, deliveries)
        if not held:
            raise InvalidInput("extend needs at least one delivery, got none")
        until = await self._executor.execute(delivery_ops.extend(self._group, held, lease=seconds))
        self._claims.due_in(seconds)
        return until

    async def run(
        self,
        handler: Handler,
        *,
        member: str | None = None,
        concurrency: int = 1,
        limit: int = DEFAULT_LIMIT,
        lease: Seconds = DEFAULT_LEASE,
        max_runtime: Seconds = DEFAULT_MAX_RUNTIME,
        once: Once | None = None,
        handle_signals: bool = False,
    ) -> RunResult:
        """Call the handler for each event and acknowledge it, until `stop`.

        The lease of an event renews itself while its handler runs. If the handler raises, the event
        is delivered again as the group's `retry` says, and after `max_attempts` it becomes a dead
        letter. Conflicts in the database count as no attempt. A handler may raise `Discard` or
        `RetryLater`. At the end, running handlers finish, and events that were not begun are given
        back.

        Args:
            handler: called with a `Delivery`; with `once="transaction"` also with the transaction.
                A plain function given to the async form runs in a thread.
            member: the name of the member; None for host name and process id. With `concurrency`
                above 1 a number is added.
            concurrency: events that are handled at the same time, 1 to 1,000.
            limit: the most events that are claimed together if handlers take milliseconds, 1 to
                1,000.
            lease: seconds or a timedelta in which other members get the events of a member that
                died.
            max_runtime: seconds or a timedelta that a handler may take. Then its attempt has
                failed, and the event is delivered again. The handler is not interrupted.
            once: "transaction" calls the handler in a transaction that also acknowledges the event:
                effects in this database happen exactly once. "claim" runs the handler inside
                `dedupe.run_once`, for effects elsewhere. None delivers at least once.
            handle_signals: stop every run in this process at SIGTERM or SIGINT, and call the
                handler that was there before. In the main thread only.

        Returns:
            The number of events handled, of handler calls that failed, and of events lost.

        Raises:
            NotFound: the group was deleted.
            PositionTrimmed: a forced trim removed events that were not delivered.
            HistoryRewritten: the log was replaced, or has lost events that this memory has read.
            InvalidEvent: an event does not fit its class, and the group has on_invalid="raise".
            InvalidInput: an option is not allowed, or the pool has too few connections.
        """
        options = RunOptions.of(
            handler, member, concurrency, limit, lease=lease, max_runtime=max_runtime, once=once
        )
        run = AsyncGroupRun(self, self._context, self._read, options, wake=self._claims.wake)
        self._running.add(run)
        try:
            return await run.run(handle_signals=handle_signals)
        finally:
            self._running.discard(run)

    def stop(self) -> None:
        """End every `run` of this object. May be called from any thread or task."""
        for run in list(self._running):
            run.stop()

    async def lag(self) -> int:
        """Return the number of selected events that no member has claimed yet.

        Counts every event that was committed before the call, except those above the position of a
        transaction that is still open. It reads them all, which takes about 0.2 s for a million.
        `memory.stats()` has the distance in positions, which costs the same for any log.

        Raises:
            NotFound: the group was deleted.
        """
        until = await self._claims.settled()
        return await self._executor.execute(ops.lag(self._group, until=until))

    async def reset(self, position: int) -> None:
        """Move the group to a position, and accept the present history of the log.

        Members lose the events that they hold (`LeaseLost`). Delayed events are forgotten. Dead
        letters stay.

        Args:
            position: events after it come next; 0 for the oldest event that is kept.

        Raises:
            NotFound: the group was deleted.
            InvalidInput: the position is above the head of the log.
            PositionTrimmed: retention has removed events after the position.
            OutcomeUnknown: the connection was lost while the statement ran. Reset again.
        """
        await self._executor.execute(ops.reset(self._group, position))
        self._changed()

    def _changed(self) -> None:
        self._claims.changed()
