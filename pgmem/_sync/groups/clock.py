# Generated from pgmem/groups/clock.py by tools/generate_sync.py. Do not edit.
"""The clock of a run: leases, coalescing, the longest runtime. Tests give another one."""

from __future__ import annotations

import time

from pgmem.core.concurrency import Wakeup


class Clock:
    """The monotonic clock."""

    def now(self) -> float:
        """Return the seconds since some moment."""
        return time.monotonic()

    def wait(self, wakeup: Wakeup, seconds: float | None) -> bool:
        """Wait up to `seconds` (None: for ever) for a call. Return True if one came."""
        return wakeup.wait(seconds)
