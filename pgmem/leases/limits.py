"""The verbs of `memory.limits`: rate limits that all processes share."""

from __future__ import annotations

import math
import time

from pgmem.core.concurrency import async_sleep
from pgmem.core.execution import AsyncExecutor, AsyncPoolExecutor
from pgmem.core.validation import Seconds, check_seconds
from pgmem.errors import InvalidInput
from pgmem.leases import limit_ops as ops
from pgmem.leases.models import Permit

NOTICE_CLOSE = 0.5
"""Seconds after which a call that waits notices that the memory was closed."""


class AsyncLimits:
    """Rate limits by name. Reached as `memory.limits`, and as `limits` in a transaction."""

    def __init__(self, executor: AsyncExecutor) -> None:
        self._executor = executor

    async def acquire(
        self,
        name: str,
        rate: float,
        burst: int,
        *,
        cost: int = 1,
        timeout: Seconds | None = 0.0,
    ) -> Permit:
        """Pass a rate limit that all processes share, by the server's clock.

        >>> permit = await memory.limits.acquire("bank-api", rate=10, burst=2)
        >>> permit.granted, permit.remaining
        (True, 1)

        The generic cell rate algorithm (ITU-T I.371). A limit is known by its name: give the same
        rate and burst everywhere. In a transaction the call counts if the transaction commits, and
        other callers of the limit wait for its end.

        Args:
            name: the limit's name, 1 to 512 bytes.
            rate: calls a second on average; above 0, may be below 1.
            burst: how many calls fit at once after a pause, at least 1.
            cost: how many calls this one counts for, at most `burst`.
            timeout: how long to wait until the call fits, in seconds or as a timedelta; 0 does not
                wait, None waits for ever. If the call cannot fit within `timeout`, the answer comes
                at once. Not in a transaction.

        Returns:
            Whether the call may go on, how many more fit now, and when to try again if it may not.

        Raises:
            InvalidInput: an argument is not allowed.
            NotOpen: the memory was closed meanwhile.
        """
        wait = math.inf if timeout is None else check_seconds(timeout, "timeout", zero=True)
        op = ops.acquire(name, rate, burst, cost)
        executor = self._executor
        if wait and not isinstance(executor, AsyncPoolExecutor):
            raise InvalidInput(
                "timeout= of limits.acquire is 0 in a transaction: other callers of the limit "
                "would wait, too"
            )
        deadline = time.monotonic() + wait
        while True:
            permit = await executor.execute(op)
            until = time.monotonic() + permit.retry_after
            if permit.granted or until > deadline or not isinstance(executor, AsyncPoolExecutor):
                return permit
            while (rest := until - time.monotonic()) > 0:
                await async_sleep(min(rest, NOTICE_CLOSE))
                executor.database.require_open(op.action)
