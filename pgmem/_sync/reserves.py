# Generated from pgmem/_async/reserves.py by tools/generate_sync.py. Do not edit.
"""What the members of a group in this process have reserved, and how quickly they come for it.

`pgmem.ops.reserves` says what that is, and draws it. Only the server knows what is still reserved:
what is remembered here says which statement to try first, and is no promise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from pgmem.ops import deliveries as ops
from pgmem.ops.reserves import RESERVE, reserving

REST = 1.0
"""Seconds in which nothing is reserved after somebody else has needed what was."""


class Reserved(NamedTuple):
    """What is known of a slot.

    Attributes:
        asked: when (by the monotonic clock) it was last filled, or a little before.
        left: how many events are reserved in it.
    """

    asked: float
    left: int

    @property
    def in_time(self) -> bool:
        """Whether something should be there, and nobody else may have been asked to take it."""
        return self.left > 0 and time.monotonic() - self.asked < RESERVE


class Reserves:
    """What was reserved, by the slots that it is in."""

    def __init__(self) -> None:
        self._slots: dict[int, Reserved] = {}
        self._rest_until = 0.0

    def pop(self, acknowledged: Sequence[ops.Held]) -> Reserved | None:
        """What is known of the one slot of what is acknowledged; it is known no more."""
        if len({one.slot for one in acknowledged}) != 1:
            return None
        return self._slots.pop(acknowledged[0].slot, None)

    def remember(self, asked: float, handed: ops.Handed) -> None:
        """Take in what was handed out and reserved."""
        if handed.events:
            self._slots[handed.slot] = Reserved(asked, handed.reserved)

    def rest(self) -> None:
        """Somebody else has needed what was reserved: reserve nothing for a while."""
        self._rest_until = time.monotonic() + REST

    def how_many(self, count: int, known: Reserved | None) -> int:
        """How many events to reserve with the next batch.

        Args:
            count: of a batch.
            known: what was known of the slot that is acknowledged.
        """
        now = time.monotonic()
        if known is None or now < self._rest_until:
            return 0
        return reserving(count, now - known.asked)
