"""`memory.dedupe`: work that takes effect once.

`AsyncDedupe` is for effects elsewhere, such as a call to a bank: claim the work for the time of a
lease, do it, store its result. `AsyncTransactionDedupe` is for effects in this database: the record
and the effects commit together. `pgmem.dedupe.ops` shows the states.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg

from pgmem.core.concurrency import GRACE, async_sleep, maybe_await
from pgmem.core.database import log
from pgmem.core.execution import AsyncPoolExecutor, AsyncTransactionExecutor
from pgmem.core.op import Op
from pgmem.core.validation import Seconds, check_seconds
from pgmem.dedupe import ops
from pgmem.dedupe.models import Claim, Outcome
from pgmem.errors import (
    CallbackFailed,
    InvalidInput,
    InvalidValue,
    LeaseHeld,
    PgmemError,
)
from pgmem.events.codec import Codec
from pgmem.events.transaction_verbs import DEFAULT_KEY_TTL

Work = Callable[[], Any | Awaitable[Any]]

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.1
"""Seconds between two tries to claim work that another caller does."""


class AsyncDedupe:
    """Idempotency keys for work whose effects are elsewhere. Reached as `memory.dedupe`."""

    def __init__(self, executor: AsyncPoolExecutor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

    async def run_once(
        self,
        key: str,
        fn: Work,
        *,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
        lease: Seconds = 30.0,
        timeout: Seconds | None = 60.0,
    ) -> Outcome:
        """Do a piece of work unless it has been done. Return its result either way.

        If another caller does the work now, wait for its result. If that caller dies, its lease
        runs out and a waiting caller does the work. The effect and the record cannot be atomic: a
        crash between the two does the work again. If the effects are in this database, use
        `tx.dedupe.run_once`, where they are atomic.

        Args:
            key: names the work, 1 to 512 bytes.
            fn: does the work and returns a JSON value or a pydantic model as its result.
            ttl: how long the result is kept and the work not done again, in seconds or as a
                timedelta; None for ever.
            lease: how long the work may take before another caller may do it.
            timeout: how long to wait for the work of another caller; 0 does not wait, None waits
                for ever.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`). The claim is released.
            LeaseHeld: another caller was still at work after `timeout`.
            LeaseLost: `fn` took longer than the lease and another caller claimed the work.
            InvalidValue: the result of `fn` cannot be stored. The work is recorded as done.
        """
        keep, hold = _check_ttl(ttl), check_seconds(lease, "lease")
        longest = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        claim = await self._wait_for_claim(key, hold, longest)
        if not claim.acquired:
            return Outcome("skipped", claim.result)
        try:
            result = await maybe_await(fn())
        except Exception as error:
            await self._release_failed(claim)
            if isinstance(error, PgmemError):
                raise
            raise _failed(key, error, "the claim was released, nothing is recorded") from error
        except BaseException:
            await self._executor.background.run_for(GRACE, self._release_failed, claim)
            raise
        try:
            self._codec.encode(result, "result")
        except InvalidValue:
            # The work is done: it must not be done again because its result cannot be stored.
            await self.complete(claim, None, ttl=keep)
            raise
        await self.complete(claim, result, ttl=keep)
        return Outcome("processed", result)

    async def _wait_for_claim(self, key: str, lease: float, timeout: float | None) -> Claim:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            try:
                return await self.claim(key, lease=lease)
            except LeaseHeld:
                wait = random.uniform(pause / 2, pause)  # noqa: S311  # no secret
                if deadline is not None:
                    wait = min(wait, deadline - time.monotonic())
                    if wait <= 0:
                        raise
            await async_sleep(wait)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    async def _release_failed(self, claim: Claim) -> None:
        try:
            await self.release(claim)
        except (PgmemError, psycopg.Error, OSError) as error:
            # The exception of the work says more. The lease runs out by itself.
            log.warning("could not release the claim of %r: %s", claim.key, error)

    async def claim(self, key: str, *, lease: Seconds = 30.0) -> Claim:
        """Claim a piece of work, or return its stored result.

        Args:
            key: names the work, 1 to 512 bytes.
            lease: how long no other caller can claim it, in seconds or as a timedelta.

        Returns:
            A claim with `acquired=True` and a fencing token, or `acquired=False` and the result.

        Raises:
            LeaseHeld: the lease of another caller is running.
        """
        op = ops.claim(key, owner=uuid.uuid4().hex, lease=check_seconds(lease, "lease"))
        try:
            return await self._executor.execute(op)
        except Exception:
            raise
        except BaseException:
            # It may have been claimed. The same op tells, because it has the same owner.
            await self._executor.background.run_for(GRACE, self._release_unknown, op)
            raise

    async def _release_unknown(self, op: Op[Claim]) -> None:
        with suppress(PgmemError, psycopg.Error, OSError):  # Then the lease runs out.
            claim = await self._executor.execute(op)
            if claim.acquired:
                await self.release(claim)

    async def complete(
        self, claim: Claim, result: Any = None, *, ttl: Seconds | None = DEFAULT_KEY_TTL
    ) -> None:
        """Store the result of claimed work. From now on the work is done.

        Args:
            claim: what `claim` returned.
            result: a JSON value or a pydantic model.
            ttl: how long the result is kept and the work not done again; None for ever.

        Raises:
            LeaseLost: the lease ran out and another caller claimed the work; nothing was stored.
        """
        await self._executor.execute(
            ops.complete(
                _check_acquired(claim).key,
                token=claim.token,
                result=result,
                ttl=_check_ttl(ttl),
                codec=self._codec,
            )
        )

    async def release(self, claim: Claim) -> None:
        """Delete a claim without a result, so that the next caller may do the work.

        Raises:
            LeaseLost: the lease ran out and another caller claimed the work.
        """
        await self._executor.execute(ops.release(_check_acquired(claim).key, token=claim.token))


class AsyncTransactionDedupe:
    """Idempotency keys for work whose effects are in this transaction. Reached as `tx.dedupe`."""

    def __init__(self, executor: AsyncTransactionExecutor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

    async def run_once(
        self, key: str, fn: Work, *, ttl: Seconds | None = DEFAULT_KEY_TTL
    ) -> Outcome:
        """Do a piece of work unless it has been done. Return its result either way.

        The record, the result and what `fn` does in this transaction commit together or not at all.
        A second caller waits until the transaction of the first one has ended. If `fn` raises, its
        effects and the record are undone and the transaction stays usable.

        Args:
            key: names the work, 1 to 512 bytes.
            fn: does the work in this transaction and returns a JSON value or a pydantic model.
            ttl: how long the result is kept and the work not done again, in seconds or as a
                timedelta; None for ever.

        Raises:
            CallbackFailed: `fn` raised (its exception is the `__cause__`).
            LeaseHeld: a caller of `memory.dedupe` has claimed the work.
            InvalidValue: the result of `fn` cannot be stored; its effects are undone.
            TransactionConflict: run the whole transaction again.
        """
        record = await self._executor.execute(ops.record(key, ttl=_check_ttl(ttl)))
        if not record.acquired:
            return Outcome("skipped", record.result)
        try:
            async with self._executor.nested():
                return Outcome("processed", await self._work(key, fn, record))
        except BaseException:
            # The savepoint comes after the record, so that a skipped call costs one round trip.
            if await self._executor.usable():
                await self._executor.execute(ops.remove_record(key, token=record.token))
            raise

    async def _work(self, key: str, fn: Work, record: Claim) -> Any:
        try:
            result = await maybe_await(fn())
        except PgmemError:
            raise
        except Exception as error:
            raise _failed(key, error, "its effects are undone, nothing is recorded") from error
        if result is not None:
            await self._executor.defer(
                ops.record_result(key, token=record.token, result=result, codec=self._codec)
            )
        return result


def _check_acquired(claim: Claim) -> Claim:
    if not isinstance(claim, Claim):
        raise InvalidInput(f"expected a Claim, got {type(claim).__name__}")
    if not claim.acquired:
        raise InvalidInput(
            f"the claim of {claim.key!r} was not acquired: the work is done, use its result"
        )
    return claim


def _check_ttl(ttl: Seconds | None) -> float | None:
    return None if ttl is None else check_seconds(ttl, "ttl")


def _failed(key: str, error: Exception, consequence: str) -> CallbackFailed:
    return CallbackFailed(
        f"run_once of {key!r}: the function raised {type(error).__name__}; {consequence}"
    )
