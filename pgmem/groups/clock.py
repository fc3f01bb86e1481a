"""The clock of a run: leases, coalescing, the longest runtime. Tests give another one."""

from __future__ import annotations

import time

from pgmem.core.concurrency import AsyncWakeup


class AsyncClock:
    """The monotonic clock."""

    def now(self) -> float:
        """Return the seconds since some moment."""
        return time.monotonic()

    async def wait(self, wakeup: AsyncWakeup, seconds: float | None) -> bool:
        """Wait up to `seconds` (None: for ever) for a call. Return True if one came."""
        return await wakeup.wait(seconds)
