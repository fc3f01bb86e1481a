"""`memory.dedupe`: work that takes effect once.

Two forms. `AsyncDedupe` is for effects elsewhere (a call to a bank, a mail): claim with a lease,
do, complete with the result. `AsyncTransactionDedupe` is for effects in this database: the mark
and the effects commit together. What to run is `pgmem.dedupe.ops`, which also draws the states.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from pgmem.core.concurrency import async_sleep, maybe_await
from pgmem.core.database import log
from pgmem.core.encoding import encode
from pgmem.core.execution import AsyncExecutor, AsyncTransactionExecutor
from pgmem.core.validation import Seconds, check_seconds
from pgmem.dedupe import ops
from pgmem.dedupe.models import Claim, Outcome
from pgmem.errors import CallbackFailed, InvalidInput, InvalidValue, LeaseHeld, PgmemError
from pgmem.events.codec import Codec
from pgmem.events.verbs import DEFAULT_KEY_TTL

Work = Callable[[], Any | Awaitable[Any]]


def _ttl(ttl: Seconds | None) -> float | None:
    return None if ttl is None else check_seconds(ttl, "ttl")


def _failed(key: str, error: Exception, consequence: str) -> CallbackFailed:
    return CallbackFailed(
        f"run_once of {key!r}: the function raised {type(error).__name__}; {consequence}"
    )


class AsyncDedupe:
    """Idempotency keys for work whose effects are elsewhere. Reached as `memory.dedupe`."""

    def __init__(self, executor: AsyncExecutor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

    async def run_once(
        self,
        key: str,
        fn: Work,
        *,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
        lease: Seconds = 30.0,
        timeout: Seconds = 60.0,
    ) -> Outcome:
        """Do a piece of work unless it has been done; give its result either way.

        A caller that finds another one at work waits for its result. If that one dies, its lease
        runs out and a waiting caller takes over. The work's effect and the mark cannot be atomic
        here: a crash between the two runs the work again. Where the effects are in this database,
        use `tx.dedupe.run_once` and they are.

        Args:
            key: names the work, 1 to 512 bytes.
            fn: does the work and gives a JSON value (or a pydantic model) as its result.
            ttl: how long the result is kept and the work not repeated; None for ever.
            lease: how long the work may take before another caller may take over.
            timeout: how long to wait for another caller's work.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`); the claim is released.
            LeaseHeld: another caller was still at work after `timeout`.
            LeaseLost: `fn` took longer than the lease and another caller took over.
            InvalidValue: `fn`'s result cannot be stored; the work is marked as done.
        """
        keep, hold = _ttl(ttl), check_seconds(lease, "lease")
        claim = await self._claim(key, hold, check_seconds(timeout, "timeout", zero=True))
        if not claim.acquired:
            return Outcome("skipped", claim.result)
        try:
            result = await maybe_await(fn())
        except BaseException as error:
            await self._release_failed(claim)
            if isinstance(error, PgmemError) or not isinstance(error, Exception):
                raise
            raise _failed(key, error, "the claim was released, nothing is marked") from error
        try:
            encode(result, "result", limit=self._codec.max_bytes)
        except InvalidValue:
            # The work is done: it must not be done again because its result does not fit.
            await self.complete(claim, None, ttl=keep)
            raise
        await self.complete(claim, result, ttl=keep)
        return Outcome("processed", result)

    async def _claim(self, key: str, lease: float, timeout: float) -> Claim:
        deadline = time.monotonic() + timeout
        pause = 0.005
        while True:
            try:
                return await self.claim(key, lease=lease)
            except LeaseHeld:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise
            await async_sleep(min(random.uniform(pause / 2, pause), remaining))  # noqa: S311
            pause = min(pause * 1.5, 0.1)

    async def _release_failed(self, claim: Claim) -> None:
        try:
            await self.release(claim)
        except PgmemError as error:
            # The work's own error matters more. The lease runs out by itself.
            log.warning("could not release the claim of %r: %s", claim.key, error)

    async def claim(self, key: str, *, lease: Seconds = 30.0) -> Claim:
        """Claim a piece of work, or get its stored result.

        Args:
            key: names the work, 1 to 512 bytes.
            lease: how long nobody else may claim it, in seconds or as a timedelta.

        Returns:
            A claim with `acquired=True` and a fencing token, or `acquired=False` and the result.

        Raises:
            LeaseHeld: another claim's lease is running.
        """
        return await self._executor.execute(
            ops.claim(key, owner=uuid.uuid4().hex, lease=check_seconds(lease, "lease"))
        )

    async def complete(
        self, claim: Claim, result: Any = None, *, ttl: Seconds | None = DEFAULT_KEY_TTL
    ) -> None:
        """Store the result of claimed work: from now on it counts as done.

        Args:
            claim: what `claim` gave.
            result: a JSON value or a pydantic model.
            ttl: how long the result is kept and the work not repeated; None for ever.

        Raises:
            LeaseLost: the lease ran out and another one took over; nothing was stored.
        """
        await self._executor.execute(
            ops.complete(
                _held(claim).key,
                token=claim.token,
                result=result,
                ttl=_ttl(ttl),
                max_bytes=self._codec.max_bytes,
            )
        )

    async def release(self, claim: Claim) -> None:
        """Give a claim back without a result: the next caller may do the work.

        Raises:
            LeaseLost: the lease ran out and another one took over.
        """
        await self._executor.execute(ops.release(_held(claim).key, token=claim.token))


def _held(claim: Claim) -> Claim:
    if not isinstance(claim, Claim):
        raise InvalidInput(f"expected the Claim that claim() gave, got {type(claim).__name__}")
    if not claim.acquired:
        raise InvalidInput(
            f"the claim of {claim.key!r} was not acquired: the work is done, use its result"
        )
    return claim


class AsyncTransactionDedupe:
    """Idempotency keys for work whose effects are in this transaction.

    Reached as `tx.dedupe` or `bound.dedupe`.
    """

    def __init__(self, executor: AsyncTransactionExecutor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

    async def run_once(
        self, key: str, fn: Work, *, ttl: Seconds | None = DEFAULT_KEY_TTL
    ) -> Outcome:
        """Do a piece of work unless it has been done; give its result either way.

        The mark, the result and what `fn` does in this transaction commit together or not at all.
        A second caller waits until the first one's transaction has ended. If `fn` raises, what it
        did and the mark are undone, and the transaction stays usable.

        Args:
            key: names the work, 1 to 512 bytes.
            fn: does the work in this transaction and gives a JSON value or a pydantic model.
            ttl: how long the result is kept and the work not repeated; None for ever.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`).
            LeaseHeld: a caller of `memory.dedupe.run_once` is at work under this key.
            InvalidValue: `fn`'s result cannot be stored; all that it did is undone.
            TransactionConflict: run the whole transaction again.
        """
        mark = await self._executor.execute(ops.mark(key, ttl=_ttl(ttl)))
        if not mark.acquired:
            return Outcome("skipped", mark.result)
        try:
            async with self._executor.savepoint():
                return Outcome("processed", await self._work(key, fn, mark))
        except BaseException:
            # The savepoint comes after the mark, so that a skipped call costs one round trip.
            if await self._executor.usable():
                await self._executor.execute(ops.unmark(key, token=mark.token))
            raise

    async def _work(self, key: str, fn: Work, mark: Claim) -> Any:
        try:
            result = await maybe_await(fn())
        except PgmemError:
            raise
        except Exception as error:
            raise _failed(key, error, "what it did is undone, nothing is marked") from error
        if result is not None:
            await self._executor.execute(
                ops.store_result(
                    key, token=mark.token, result=result, max_bytes=self._codec.max_bytes
                )
            )
        return result
