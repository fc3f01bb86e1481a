"""A delivery: one event that a member of a group holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from pgmem.core.execution import AsyncExecutor
from pgmem.core.transaction import AsyncTransactionExecutor
from pgmem.core.validation import Seconds
from pgmem.errors import InvalidInput
from pgmem.events.durable import AsyncBound
from pgmem.events.models import RecordedEvent
from pgmem.groups import claim_ops, delivery_ops

if TYPE_CHECKING:
    from pgmem.groups.group import AsyncGroup

T = TypeVar("T", default=Any)

DEFAULT_LEASE: Seconds = 30.0


class AsyncDelivery(Generic[T]):
    """An event that a member holds until it acknowledges it, gives it back, or its lease expires.

    Attributes:
        event: the event.
        attempts: the attempts to handle it, this one included.
        token: the fencing token. Each batch has a higher one than the batches before it.
        key: the value that the group orders by; None in a group without order.
        member: the member that holds it.
        expires_at: the end of the lease, by the server's clock.
    """

    __slots__ = (
        "_batch",
        "_bound",
        "_group",
        "_losses",
        "_settled",
        "attempts",
        "event",
        "expires_at",
        "key",
        "member",
        "token",
    )

    def __init__(
        self,
        group: AsyncGroup[T],
        event: RecordedEvent,
        attempts: int,
        key: str | None,
        *,
        member: str,
        claimed: claim_ops.ClaimResult,
    ) -> None:
        self._group = group
        self.event = event
        self.attempts = attempts
        self.key = key
        self.member = member
        self._batch = claimed.batch
        self._losses = claimed.losses
        # How the handler of a run has ended it by itself, and the transaction that acknowledges.
        self._settled: str | None = None
        self._bound: AsyncTransactionExecutor | None = None
        self.token = claimed.token
        assert claimed.expires_at is not None  # noqa: S101  # there is an event
        self.expires_at = claimed.expires_at

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} position={self.event.position} type={self.event.type!r} "
            f"attempts={self.attempts} token={self.token}>"
        )

    async def ack(self, tx: AsyncBound | None = None) -> None:
        """Acknowledge the event. See `AsyncGroup.ack`."""
        await self._group.ack([self], tx)

    async def nack(
        self, *, delay: Seconds = 0.0, error: str | None = None, counted: bool = True
    ) -> None:
        """Give the event back. See `AsyncGroup.nack`."""
        await self._group.nack([self], delay=delay, error=error, counted=counted)

    async def dead_letter(self, error: str | None = None) -> None:
        """Make the event a dead letter. See `AsyncGroup.dead_letter`."""
        await self._group.dead_letter([self], error=error)

    async def extend(self, lease: Seconds = DEFAULT_LEASE) -> datetime:
        """Renew the lease of the event's batch. See `AsyncGroup.extend`."""
        self.expires_at = await self._group.extend([self], lease)
        return self.expires_at


def held_of(name: str, deliveries: Sequence[AsyncDelivery[Any]]) -> list[delivery_ops.HeldDelivery]:
    """Return what statements find the deliveries by.

    Raises:
        InvalidInput: one is no delivery of the group `name`.
    """
    if not isinstance(deliveries, Sequence):
        raise InvalidInput(f"a list of deliveries is needed, got {type(deliveries).__name__}")
    held = []
    for delivery in deliveries:
        if not isinstance(delivery, AsyncDelivery):
            raise InvalidInput(f"deliveries are needed, got {type(delivery).__name__}")
        if delivery._group.name != name:
            raise InvalidInput(
                f"a delivery of the group {delivery._group.name!r} was given to the group "
                f"{name!r}: acknowledge it there"
            )
        held.append(
            delivery_ops.HeldDelivery(delivery.event.position, delivery._batch, delivery.token)
        )
    return held


def settle(
    deliveries: Sequence[AsyncDelivery[Any]], how: str, executor: AsyncExecutor | None = None
) -> None:
    bound = executor if isinstance(executor, AsyncTransactionExecutor) else None
    for delivery in deliveries:
        delivery._settled, delivery._bound = how, bound
