# Generated from pgmem/events/subscriptions.py by tools/generate_sync.py. Do not edit.
"""`memory.subscriptions`: list, reset and delete durable subscriptions."""

from __future__ import annotations

from pgmem._sync.core.execution import PoolExecutor
from pgmem.events import durable_ops as ops
from pgmem.events.models import SubscriptionInfo


class Subscriptions:
    """The durable subscriptions: stored positions in the log. Reached as `memory.subscriptions`."""

    def __init__(self, executor: PoolExecutor) -> None:
        self._executor = executor

    def list(self) -> list[SubscriptionInfo]:
        """List all durable subscriptions, ordered by name."""
        return self._executor.execute(ops.list_subscriptions())

    def get(self, name: str) -> SubscriptionInfo | None:
        """Return one durable subscription, or None if there is none of that name.

        Args:
            name: its name, 1 to 512 bytes.
        """
        return self._executor.execute(ops.get(name))

    def reset(self, name: str, after: int | None = None) -> None:
        """Let a durable subscription go on after another position, in the present history.

        A process that holds it loses it (`LeaseLost`). An open transaction that has committed a
        position of it is waited for.

        Args:
            name: its name, 1 to 512 bytes.
            after: the position to go on from: the events above it come next. None keeps the
                stored one, or takes the head of the log if that is lower.

        Raises:
            NotFound: there is none of that name.
            InvalidInput: `after` is above the head of the log.
            OutcomeUnknown: the connection was lost under way; reset it again.
        """
        self._executor.execute(ops.reset(name, after))

    def delete(self, name: str) -> bool:
        """Delete a durable subscription and its position.

        A process that holds it loses it (`LeaseLost`). The events stay.

        Args:
            name: its name, 1 to 512 bytes.

        Returns:
            True if there was one.

        Raises:
            OutcomeUnknown: the connection was lost under way; `get` shows the outcome.
        """
        return self._executor.execute(ops.delete(name))
