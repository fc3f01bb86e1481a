"""`memory.limits`: rate limits that all processes share. What to run is
`pgmem.leases.limit_ops`."""

from __future__ import annotations

import time

from pgmem.core.concurrency import async_sleep
from pgmem.core.execution import AsyncExecutor
from pgmem.core.validation import Seconds, check_seconds
from pgmem.errors import InvalidInput
from pgmem.leases import limit_ops as ops
from pgmem.leases.models import Permit


class AsyncLimits:
    """Rate limits by name. Reached as `memory.limits`, `tx.limits` or `bound.limits`."""

    def __init__(self, executor: AsyncExecutor) -> None:
        self._executor = executor

    async def acquire(
        self,
        name: str,
        rate: float,
        burst: int,
        *,
        cost: int = 1,
        timeout: Seconds = 0.0,
    ) -> Permit:
        """Let something through at a rate that all processes share, by the server's clock.

        >>> permit = await memory.limits.acquire("bank-api", rate=10, burst=2)
        >>> permit.granted, permit.remaining
        (True, 1)

        The generic cell rate algorithm (ITU-T I.371). A limit is its name: give the same rate and
        burst everywhere. In a transaction it counts if that commits, and others wait for its end.

        Args:
            name: the limit's name, 1 to 512 bytes.
            rate: how many a second on average; above 0, may be below 1.
            burst: how many may come at once after a pause, at least 1.
            cost: how many this one counts for, at most `burst`.
            timeout: wait so long until it fits, in seconds or as a timedelta; where it cannot in
                that time, the answer comes at once. Not in a transaction.

        Returns:
            Whether it may go on, how many more may come at once now, and, if it may not, in how
            many seconds to come again.

        Raises:
            InvalidInput: a name or option that is not allowed.
        """
        wait = check_seconds(timeout, "timeout", zero=True)
        op = ops.acquire(name, rate, burst, cost)
        if wait and self._executor.bound:
            raise InvalidInput("timeout= waits, and in a transaction others wait for it: leave it")
        deadline = time.monotonic() + wait
        while True:
            permit = await self._executor.execute(op)
            if permit.granted or time.monotonic() + permit.retry_after > deadline:
                return permit
            await async_sleep(permit.retry_after)
