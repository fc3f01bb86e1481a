# Generated from pgmem/optimistic/run.py by tools/generate_sync.py. Do not edit.
"""Open an optimistic transaction, and run a function in one until it commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from pgmem._sync.core.repeat import repeat
from pgmem._sync.optimistic.stale import stale_read
from pgmem._sync.optimistic.transaction import ChangedError, Optimistic, OptimisticContext
from pgmem.core.concurrency import passthrough
from pgmem.errors import StaleRead
from pgmem.optimistic import ops

T = TypeVar("T")

LOCK_AFTER = 3
"""Lost races after which `run_transaction` locks before it calls the function."""


@contextmanager
def optimistic(context: OptimisticContext, **options: Any) -> Iterator[Optimistic]:
    """Open an optimistic transaction; see `Memory.optimistic`."""
    tx = Optimistic(context, **options)
    try:
        yield tx
    except BaseException:
        tx._open = False
        raise
    tx._finish()


def run_optimistic(
    context: OptimisticContext,
    fn: Callable[[Optimistic], T],
    *,
    retries: int,
    **options: Any,
) -> T:
    """Run a function in optimistic transactions until one commits.

    See `Memory.run_transaction`.
    """
    lost: Optimistic | None = None

    def call(number: int) -> T:
        nonlocal lost
        if lost is not None and number >= LOCK_AFTER:
            return _run_locked(context, fn, lost, options)
        with optimistic(context, **options) as lost:
            result: T = passthrough(fn(lost))
        return result

    return repeat(call, StaleRead, retries=retries)


def _run_locked(
    context: OptimisticContext,
    fn: Callable[[Optimistic], T],
    lost: Optimistic,
    options: dict[str, Any],
) -> T:
    """Lock what the last attempt read or wrote, then run the function in the same transaction."""
    tx = Optimistic(context, **options)
    with ExitStack() as stack:
        try:
            with context.executor.transaction(ops.ACTION, read_committed=True) as executor:
                lost._lock(executor)
                tx = Optimistic(context, reads=executor, **options)
                result: T = passthrough(fn(tx))
                tx._open = False
                tx._invalidate(stack)
                committed = tx._write(executor)
        except ChangedError as changed:
            raise stale_read(changed.found, tx._versions, context.executor, context.codec) from None
    tx._committed = committed
    return result
