"""Open an optimistic transaction, and run a function in one until it commits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

from pgmem.core.concurrency import maybe_await
from pgmem.core.repeat import repeat
from pgmem.errors import StaleRead
from pgmem.optimistic import ops
from pgmem.optimistic.stale import stale_read
from pgmem.optimistic.transaction import AsyncOptimistic, ChangedError, OptimisticContext

T = TypeVar("T")

LOCK_AFTER = 3
"""Lost races after which `run_transaction` locks before it calls the function."""


@asynccontextmanager
async def optimistic(context: OptimisticContext, **options: Any) -> AsyncIterator[AsyncOptimistic]:
    """Open an optimistic transaction; see `AsyncMemory.optimistic`."""
    tx = AsyncOptimistic(context, **options)
    try:
        yield tx
    except BaseException:
        tx._open = False
        raise
    await tx._finish()


async def run_optimistic(
    context: OptimisticContext,
    fn: Callable[[AsyncOptimistic], T | Awaitable[T]],
    *,
    retries: int,
    **options: Any,
) -> T:
    """Run a function in optimistic transactions until one commits.

    See `AsyncMemory.run_transaction`.
    """
    lost: AsyncOptimistic | None = None

    async def call(number: int) -> T:
        nonlocal lost
        if lost is not None and number >= LOCK_AFTER:
            return await _run_locked(context, fn, lost, options)
        async with optimistic(context, **options) as lost:
            result: T = await maybe_await(fn(lost))
        return result

    return await repeat(call, StaleRead, retries=retries)


async def _run_locked(
    context: OptimisticContext,
    fn: Callable[[AsyncOptimistic], T | Awaitable[T]],
    lost: AsyncOptimistic,
    options: dict[str, Any],
) -> T:
    """Lock what the last attempt read or wrote, then run the function in the same transaction."""
    tx = AsyncOptimistic(context, **options)
    with ExitStack() as stack:
        try:
            async with context.executor.transaction(ops.ACTION, read_committed=True) as executor:
                await lost._lock(executor)
                tx = AsyncOptimistic(context, reads=executor, **options)
                result: T = await maybe_await(fn(tx))
                tx._open = False
                tx._invalidate(stack)
                committed = await tx._write(executor)
        except ChangedError as changed:
            raise await stale_read(
                changed.found, tx._versions, context.executor, context.codec
            ) from None
    tx._committed = committed
    return result
