"""Transactions: open one, run a function in one, and the verbs inside it.

The groups of verbs that few programs use are imported when they are first used, as in
`pgmem.memory`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import psycopg

from pgmem.core.concurrency import maybe_await
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.repeat import repeat
from pgmem.core.transaction import AsyncTransactionExecutor
from pgmem.core.transaction_block import TransactionBlock
from pgmem.core.validation import Seconds
from pgmem.dedupe.verbs import AsyncTransactionDedupe
from pgmem.errors import InvalidInput, TransactionConflict
from pgmem.events.codec import Codec
from pgmem.events.transaction_verbs import DEFAULT_KEY_TTL, AsyncTransactionEvents
from pgmem.leases.lease import AsyncLease
from pgmem.leases.limits import AsyncLimits
from pgmem.leases.verbs import AsyncTransactionLeases
from pgmem.state.cache import StateCache, TransactionCache
from pgmem.state.verbs import AsyncTransactionState

# ruff: noqa: PLC0415  # the imports inside properties

if TYPE_CHECKING:
    from pgmem.folds.verbs import AsyncTransactionFolds
    from pgmem.groups.verbs import AsyncTransactionGroups
    from pgmem.optimistic.transaction import AsyncOptimistic, OptimisticContext

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


class AsyncTransactions:
    """The ways of a memory to do several things as one."""

    _executor: AsyncPoolExecutor
    _codec: Codec
    _cache: StateCache | None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        """Open a transaction. The block commits at its end, or rolls back on any exception.

        BEGIN travels with the first statement, also with one of `tx.connection`, and the commit is
        a round trip of its own. A block that executes nothing sends nothing. If the
        connection is lost before the first statement has an answer, both are sent again on another
        one, unless the block has used `tx.connection`.

        >>> async with memory.transaction() as tx:
        ...     await tx.state.put("order:1", {"paid": True})
        ...     await tx.connection.execute("INSERT INTO invoices (order_id) VALUES (1)")

        A call on the memory itself inside the block gives a RuntimeWarning, once a block: it runs
        on another connection and waits for what the block has locked. Call `tx` instead.

        Raises:
            TransactionConflict: the server undid it. Run the whole block again.
            Unavailable: the server ended it, because it stood still for too long, or the
                connection was lost. Nothing was committed.
            OutcomeUnknown: the connection was lost during the commit.
        """
        cache = self._transaction_cache(remembers=True)
        TransactionBlock.warn(self._executor.open_blocks, "transaction")
        block = TransactionBlock(self._executor.open_blocks)
        try:
            async with self._executor.transaction("transaction") as executor:
                yield AsyncTransaction(executor, self._codec, cache)
        finally:
            block.end()
            if cache is not None:
                cache.end()

    @asynccontextmanager
    async def optimistic(
        self,
        *,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
        fence: AsyncLease | None = None,
    ) -> AsyncIterator[AsyncOptimistic]:
        """Open a transaction that holds no lock and no connection until the end of its block.

        Use it where minutes pass between reading and writing. Reads go to the server at once, and
        their versions are remembered. Writes are kept. At the end of the block one database
        transaction, in one round trip, compares every entry, absent entry and stream version that
        was read by key, and writes everything, or nothing if one has changed. If the block raises,
        nothing is written.

        It is serializable for what was read by key. It does not notice a new key under a prefix
        that was searched, nor events that `tx.events.read` did not return yet.

        >>> from pgmem import Event
        >>> async with memory.optimistic() as tx:
        ...     stock = await tx.state.get("stock:1")
        ...     left = stock.value - 1 if stock else 9
        ...     await tx.state.put("stock:1", left)
        ...     await tx.events.append("orders", Event(type="ordered"))
        >>> tx.committed.versions
        {'stock:1': 1}

        Args:
            idempotency_key: let the block take effect once. A repeated block with the same key
                writes nothing and gets the first receipt, whatever it would have written. 1 to
                512 bytes.
            ttl: how long the key holds, in seconds or as a timedelta. None for ever.
            fence: commit only if this lease is still held.

        Raises:
            StaleRead: something that was read has changed. Its `reads` tell what, by whom, and why.
            LeaseLost: the fence or an acknowledged delivery is not held any more.
            OutcomeUnknown: the connection was lost during the commit, and there is no key.
        """
        from pgmem.optimistic.run import optimistic

        async with optimistic(
            self._optimistic_context(), idempotency_key=idempotency_key, ttl=ttl, fence=fence
        ) as tx:
            yield tx

    @overload
    async def run_transaction(
        self,
        fn: Callable[[AsyncTransaction], Awaitable[R]],
        *,
        optimistic: Literal[False] = False,
        retries: int = 10,
    ) -> R: ...

    @overload
    async def run_transaction(
        self,
        fn: Callable[[AsyncOptimistic], Awaitable[R]],
        *,
        optimistic: Literal[True],
        retries: int = 10,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
        fence: AsyncLease | None = None,
    ) -> R: ...

    async def run_transaction(
        self,
        fn: Callable[[Any], Awaitable[R]],
        *,
        optimistic: bool = False,
        retries: int = 10,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
        fence: AsyncLease | None = None,
    ) -> R:
        """Call a function in a transaction, and again if the transaction loses a race.

        >>> from pgmem import AsyncOptimistic
        >>> async def pay(tx: AsyncOptimistic) -> int:
        ...     account = await tx.state.get("account:7")
        ...     balance = account.value["balance"] if account else 0
        ...     await tx.state.put("account:7", {"balance": balance + 5})
        ...     return int(balance) + 5
        >>> await memory.run_transaction(pay, optimistic=True)
        5

        The pause before each further call is random and grows up to 0.1 s. After three lost races
        an optimistic transaction locks what the last call read and wrote before it calls the
        function, so that it cannot lose them again. The function then runs inside an open database
        transaction.

        Args:
            fn: called with the transaction. It may be called several times, so it must have no
                other effects.
            optimistic: use `optimistic()` instead of `transaction()`.
            retries: the most further calls.
            idempotency_key, ttl, fence: as for `optimistic()`, and only with it.

        Returns:
            The result of the call that was committed. With an idempotency key that was used before
            it is the result of this call, and the effects are those of the first one.

        Raises:
            StaleRead, TransactionConflict: lost every race.
            OutcomeUnknown: the connection was lost during the commit, and there is no key.
        """
        if optimistic:
            from pgmem.optimistic.run import run_optimistic

            return await run_optimistic(
                self._optimistic_context(),
                fn,
                retries=retries,
                idempotency_key=idempotency_key,
                ttl=ttl,
                fence=fence,
            )
        if idempotency_key is not None or fence is not None:
            raise InvalidInput("idempotency_key= and fence= need optimistic=True")

        async def call(number: int) -> R:
            async with self.transaction() as tx:
                result: R = await maybe_await(fn(tx))
            return result

        return await repeat(call, TransactionConflict, retries=retries)

    def _optimistic_context(self) -> OptimisticContext:
        from pgmem.optimistic.transaction import OptimisticContext

        return OptimisticContext(self._executor, self._codec, self._cache)

    def _transaction_cache(self, *, remembers: bool) -> TransactionCache | None:
        return None if self._cache is None else TransactionCache(self._cache, remembers=remembers)
