"""Transactions: the verbs inside `memory.transaction()` and inside the caller's own transaction.

The groups of verbs that few programs use are imported when they are first used, as in
`pgmem.memory`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from pgmem.core.concurrency import async_sleep, maybe_await
from pgmem.core.retry import jitter
from pgmem.core.transaction import AsyncTransactionExecutor
from pgmem.core.validation import check_count
from pgmem.dedupe.verbs import AsyncTransactionDedupe
from pgmem.errors import TransactionConflict
from pgmem.events.codec import Codec
from pgmem.events.transaction_verbs import AsyncTransactionEvents
from pgmem.leases.limits import AsyncLimits
from pgmem.leases.verbs import AsyncTransactionLeases
from pgmem.state.cache import TransactionCache
from pgmem.state.verbs import AsyncTransactionState

# ruff: noqa: PLC0415  # the imports inside properties

if TYPE_CHECKING:
    from pgmem.folds.verbs import AsyncTransactionFolds
    from pgmem.groups.verbs import AsyncTransactionGroups

R = TypeVar("R")


class AsyncBoundMemory:
    """The verbs that work inside the caller's own transaction. `memory.using()` returns it."""

    def __init__(
        self, executor: AsyncTransactionExecutor, codec: Codec, cache: TransactionCache | None
    ) -> None:
        self._executor = executor
        self.events = AsyncTransactionEvents(executor, codec)
        self.state = AsyncTransactionState(executor, codec, cache)
        self.dedupe = AsyncTransactionDedupe(executor, codec)
        self.leases = AsyncTransactionLeases(executor)
        self.limits = AsyncLimits(executor)
        self._codec = codec

    @cached_property
    def groups(self) -> AsyncTransactionGroups:
        """Consumer groups."""
        from pgmem.groups.verbs import AsyncTransactionGroups

        return AsyncTransactionGroups(self._executor, self._codec)

    @cached_property
    def folds(self) -> AsyncTransactionFolds:
        """Snapshots of values that are computed from events."""
        from pgmem.folds.verbs import AsyncTransactionFolds

        return AsyncTransactionFolds(self._executor, self._codec)


class AsyncTransaction(AsyncBoundMemory):
    """The verbs that work inside `memory.transaction()`."""

    def __init__(
        self, executor: AsyncTransactionExecutor, codec: Codec, cache: TransactionCache | None
    ) -> None:
        super().__init__(executor, codec, cache)
        self._transaction = executor

    @property
    def connection(self) -> psycopg.AsyncConnection[Any]:
        """The psycopg connection, for the caller's own rows."""
        return self._transaction.expose()


async def run_in_transaction(
    begin: Callable[[], AbstractAsyncContextManager[AsyncTransaction]],
    fn: Callable[[AsyncTransaction], Awaitable[R]],
    *,
    retries: int,
) -> R:
    """Call a function in a transaction, and again if the server undid it.

    Args:
        begin: opens a transaction.
        fn: called with the transaction.
        retries: the most further calls. The pause before each is random and grows up to 0.1 s.

    Returns:
        The result of the call that was committed.

    Raises:
        InvalidInput: `retries` is not allowed.
        TransactionConflict: the server undid every one of them.
    """
    check_count(retries, "retries", minimum=0)
    attempt = 0
    while True:
        try:
            async with begin() as tx:
                result: R = await maybe_await(fn(tx))
        except TransactionConflict:
            if attempt == retries:
                raise
        else:
            return result
        await async_sleep(jitter(attempt))
        attempt += 1
