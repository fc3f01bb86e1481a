"""A consumer group inside a transaction: end deliveries, and inspect the group."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from pgmem.core.execution import AsyncExecutor
from pgmem.core.paging import read_pages
from pgmem.core.validation import Seconds, check_seconds
from pgmem.events.codec import Codec
from pgmem.groups import delivery_ops, ops
from pgmem.groups.delivery import AsyncDelivery, held_of, settle
from pgmem.groups.models import DeadLetter, GroupInfo, Pending


class AsyncTransactionGroup:
    """A consumer group inside a transaction. Returned by `tx.groups.get`."""

    def __init__(self, executor: AsyncExecutor, codec: Codec, group: ops.Group) -> None:
        self._executor = executor
        self._codec = codec
        self._options = group

    @property
    def _group(self) -> ops.Group:
        return self._options

    @property
    def name(self) -> str:
        """The group's name."""
        return self._group.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    async def ack(self, deliveries: Sequence[AsyncDelivery[Any]]) -> None:
        """Acknowledge deliveries when the transaction commits. See `AsyncGroup.ack`."""
        if held := held_of(self.name, deliveries):
            await self._executor.execute(delivery_ops.ack(self._group, held))
            settle(deliveries, "ack", self._executor)

    async def nack(
        self,
        deliveries: Sequence[AsyncDelivery[Any]],
        *,
        delay: Seconds = 0.0,
        error: str | None = None,
        counted: bool = True,
    ) -> None:
        """Give deliveries back, all or none.

        After `max_attempts` deliveries an event becomes a dead letter. If the group is ordered, the
        later events with the same key in the same batch go back too.

        Args:
            deliveries: the deliveries.
            delay: seconds or a timedelta until they are delivered again.
            error: the reason; the first 2,000 characters are kept.
            counted: False if the member did not begin to handle them: the attempt does not count.

        Raises:
            LeaseLost: another member has taken over, or the group was reset. Nothing is changed.
            NotFound: the group was deleted.
            InvalidInput: a delivery of another group, or an option that is not allowed.
        """
        seconds = check_seconds(delay, "delay", zero=True)
        if held := held_of(self.name, deliveries):
            await self._executor.execute(
                delivery_ops.nack(self._group, held, delay=seconds, error=error, counted=counted)
            )
            settle(deliveries, "nack")
            self._changed()

    async def dead_letter(
        self, deliveries: Sequence[AsyncDelivery[Any]], *, error: str | None = None
    ) -> None:
        """Make deliveries dead letters, all or none. They are not delivered again until requeued.

        Args:
            deliveries: the deliveries.
            error: the reason; the first 2,000 characters are kept.

        Raises:
            LeaseLost: another member has taken over, or the group was reset. Nothing is changed.
            NotFound: the group was deleted.
        """
        if held := held_of(self.name, deliveries):
            await self._executor.execute(delivery_ops.dead_letter(self._group, held, error=error))
            settle(deliveries, "dead_letter")
            self._changed()

    async def info(self) -> GroupInfo:
        """Return the group's options, its position and the number of its open events.

        Raises:
            NotFound: the group was deleted.
        """
        return await self._executor.execute(ops.info(self.name))

    async def pending(self, limit: int | None = None) -> list[Pending]:
        """Return the events that are held or delayed, in the order of the log.

        Args:
            limit: the most events to return, 1 to 100,000; None, the default, returns all of them.
        """
        return await self._executor.execute(ops.pending(self._group, limit=limit))

    async def dead_letters(self, *, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        """Return dead letters, in the order of the log.

        Args:
            after: the position to go on from.
            limit: the most dead letters to return, 1 to 100,000; None, the default, returns all of
                them, with a statement for each thousand.
        """
        return await read_pages(
            lambda last, most: self._executor.execute(
                ops.dead_letters(self._group, self._codec, after=last, limit=most)
            ),
            after,
            attrgetter("position"),
            limit=limit,
        )

    async def requeue(self, positions: Sequence[int] | None = None) -> int:
        """Deliver dead letters again, with their attempts counted from zero.

        Dead letters above the group's position stay, because the group delivers their events
        anyway. So do those whose events were trimmed.

        Args:
            positions: positions of dead letters; None for all.

        Returns:
            The number of dead letters that were requeued.

        Raises:
            NotFound: the group was deleted.
            OutcomeUnknown: the connection was lost while the statement ran.
        """
        requeued = await self._executor.execute(ops.requeue(self._group, positions))
        self._changed()
        return requeued

    def _changed(self) -> None:
        """Tell members of this process that events may be available."""
