# Generated from pgmem/groups/batches.py by tools/generate_sync.py. Do not edit.
"""Remember the batch rows that the members of a group in this process use.

::

    free ── next, or a claim ──► held ── read(ack=) of all of it ──► held
      ▲                           │       └ from the prefetched events, if there are some
      └───── acknowledged ────────┘

A batch row holds the events that a member handles and those that are prefetched for it. Only the
server knows its state. What is remembered here decides which statement to try first, and is no
promise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from pgmem.groups import claim_ops as ops
from pgmem.groups.delivery_ops import HeldDelivery
from pgmem.groups.prefetch_ops import PREFETCH_SECONDS, batches_to_prefetch

REST = 1.0
"""Seconds without prefetching after another member needed prefetched events, and in which members
commit asynchronously after they met at the group's row."""


MOST_MEMBERS = 1_000


class BatchRow(NamedTuple):
    """A batch row as it was last seen.

    Attributes:
        token: the fencing token of its batch.
        asked: when it was last filled, or a little before, by the monotonic clock.
        held: the number of its events that are not acknowledged.
        prefetched: the number of its prefetched events.
    """

    token: int
    asked: float
    held: int
    prefetched: int

    @property
    def in_time(self) -> bool:
        """Return True if prefetched events are left, and no other member was asked to take them."""
        return self.prefetched > 0 and time.monotonic() - self.asked < PREFETCH_SECONDS


class BatchRows:
    """The batch rows of one group's members in this process."""

    def __init__(self) -> None:
        self._held: dict[int, BatchRow] = {}
        self._free: dict[int, int] = {}
        self._last: dict[str, int] = {}
        self._rest_until = 0.0
        self._crowded_until = 0.0

    def pop(self, acknowledged: Sequence[HeldDelivery]) -> BatchRow | None:
        """Forget and return the batch row of deliveries that all share one; None if they do not."""
        if len({one.batch for one in acknowledged}) != 1:
            return None
        return self._held.pop(acknowledged[0].batch, None)

    def filled(self, request: ops.ClaimRequest, asked: float, handed: ops.ClaimResult) -> None:
        """Remember what was handed out and prefetched."""
        if handed.overtaken:
            self._crowded_until = time.monotonic() + REST
        if handed.events:
            self._free.pop(handed.batch, None)
            if len(self._last) >= MOST_MEMBERS:
                self._last.clear()
            self._last[request.member] = handed.events[-1][0].position
            self._held[handed.batch] = BatchRow(
                handed.token, asked, len(handed.events), handed.prefetched
            )

    def acknowledged(self, held: Sequence[HeldDelivery], known: BatchRow | None = None) -> None:
        """Record that events are acknowledged. `known` is their batch row as it was known."""
        known = known or self.pop(held)
        if known is None or known.token != held[0].token:
            return
        known = known._replace(held=known.held - len(held))
        if known.held > 0 or known.prefetched:
            self._held[held[0].batch] = known
        else:
            self._free[held[0].batch] = known.token

    def last(self, member: str) -> int:
        """Return the last position that was handed to a member, 0 if it is not remembered."""
        return self._last.get(member, 0)

    def pop_free(self) -> HeldDelivery | None:
        """Take an empty batch row, so that no other member of this process uses it."""
        try:
            batch, token = self._free.popitem()
        except KeyError:
            return None
        return HeldDelivery(0, batch, token)

    def push_free(self, empty: HeldDelivery) -> None:
        """Give back a batch row that is still empty."""
        self._free.setdefault(empty.batch, empty.token)

    def rest(self) -> None:
        """Pause prefetching, because another member needed prefetched events."""
        self._rest_until = time.monotonic() + REST

    @property
    def crowded(self) -> bool:
        """Return True if members of other processes claim new events at the same time."""
        return time.monotonic() < self._crowded_until

    def how_many(self, count: int, known: BatchRow | None) -> int:
        """Return the number of batches to prefetch with the next one.

        Args:
            count: events of a batch.
            known: the batch row that is acknowledged, as it was known.
        """
        now = time.monotonic()
        if known is None or now < self._rest_until:
            return 0
        return batches_to_prefetch(count, now - known.asked)
