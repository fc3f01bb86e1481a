"""What the members of a group in this process know of the slots that they have batches in.

::

    free ── next, or a claim ──► held ── read(ack=) of all of it ──► held
      ▲                           │       └ from what is reserved, if something is
      └───── acknowledged ────────┘

`pgmem.groups.claim_ops` and `pgmem.groups.prefetch_ops` say what a slot holds. Only the server
knows whether
it is still so: what is remembered here says which statement to try first, and is no promise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from pgmem.groups import claim_ops as ops
from pgmem.groups.delivery_ops import HeldDelivery
from pgmem.groups.prefetch_ops import RESERVE, reserving

REST = 1.0
"""Seconds in which nothing is reserved after somebody else has needed what was, and in which
members let one another go on after they met at the group's row."""


MOST_MEMBERS = 1_000


class Slot(NamedTuple):
    """What is known of a slot.

    Attributes:
        token: of what is in it.
        asked: when (by the monotonic clock) it was last filled, or a little before.
        held: how many events of it are not acknowledged.
        reserved: how many events are reserved in it.
    """

    token: int
    asked: float
    held: int
    reserved: int

    @property
    def in_time(self) -> bool:
        """Whether something should be reserved, and nobody else may have been asked to take it."""
        return self.reserved > 0 and time.monotonic() - self.asked < RESERVE


class AsyncSlots:
    """The slots of one group's members."""

    def __init__(self) -> None:
        self._held: dict[int, Slot] = {}
        self._free: dict[int, int] = {}
        self._last: dict[str, int] = {}
        self._rest_until = 0.0
        self._crowded_until = 0.0

    def pop(self, acknowledged: Sequence[HeldDelivery]) -> Slot | None:
        """What is known of the one slot of what is acknowledged; it is known no more."""
        if len({one.batch for one in acknowledged}) != 1:
            return None
        return self._held.pop(acknowledged[0].batch, None)

    def filled(self, request: ops.ClaimRequest, asked: float, handed: ops.ClaimResult) -> None:
        """Take in what was handed out and reserved."""
        if handed.overtaken:
            self._crowded_until = time.monotonic() + REST
        if handed.events:
            self._free.pop(handed.batch, None)
            if len(self._last) >= MOST_MEMBERS:
                self._last.clear()
            self._last[request.member] = handed.events[-1][0].position
            self._held[handed.batch] = Slot(
                handed.token, asked, len(handed.events), handed.reserved
            )

    def acknowledged(self, held: Sequence[HeldDelivery], known: Slot | None = None) -> None:
        """Events are acknowledged; `known` is what was known of their slot."""
        known = known or self.pop(held)
        if known is None or known.token != held[0].token:
            return
        known = known._replace(held=known.held - len(held))
        if known.held > 0 or known.reserved:
            self._held[held[0].batch] = known
        else:
            self._free[held[0].batch] = known.token

    def last(self, member: str) -> int:
        """The position of the event that a member was handed last, as far as is remembered."""
        return self._last.get(member, 0)

    def pop_free(self) -> HeldDelivery | None:
        """A slot with nothing in it; nobody else here gets it."""
        try:
            slot, token = self._free.popitem()
        except KeyError:
            return None
        return HeldDelivery(0, slot, token)

    def push_free(self, empty: HeldDelivery) -> None:
        """It is still empty."""
        self._free.setdefault(empty.batch, empty.token)

    def rest(self) -> None:
        """Somebody else has needed what was reserved: reserve nothing for a while."""
        self._rest_until = time.monotonic() + REST

    @property
    def crowded(self) -> bool:
        """Whether members of other processes take new events at the same time."""
        return time.monotonic() < self._crowded_until

    def how_many(self, count: int, known: Slot | None) -> int:
        """How many batches to reserve with the next one.

        Args:
            count: of a batch.
            known: what was known of the slot that is acknowledged.
        """
        now = time.monotonic()
        if known is None or now < self._rest_until:
            return 0
        return reserving(count, now - known.asked)
