# Generated from pgmem/transaction.py by tools/generate_sync.py. Do not edit.
"""Transactions: the verbs inside `memory.transaction()` and inside the caller's own transaction.

The groups of verbs that few programs use are imported when they are first used, as in
`pgmem._sync.memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from pgmem._sync.core.retry import jitter
from pgmem._sync.core.transaction import TransactionExecutor
from pgmem._sync.dedupe.verbs import TransactionDedupe
from pgmem._sync.events.transaction_verbs import TransactionEvents
from pgmem._sync.leases.limits import Limits
from pgmem._sync.leases.verbs import TransactionLeases
from pgmem._sync.state.verbs import TransactionState
from pgmem.core.concurrency import passthrough, sleep
from pgmem.core.validation import check_count
from pgmem.errors import TransactionConflict
from pgmem.events.codec import Codec
from pgmem.state.cache import TransactionCache

# ruff: noqa: PLC0415  # the imports inside properties

if TYPE_CHECKING:
    from pgmem._sync.folds.verbs import TransactionFolds
    from pgmem._sync.groups.verbs import TransactionGroups

R = TypeVar("R")


class BoundMemory:
    """The verbs that work inside the caller's own transaction. `memory.using()` returns it."""

    def __init__(
        self, executor: TransactionExecutor, codec: Codec, cache: TransactionCache | None
    ) -> None:
        self._executor = executor
        self.events = TransactionEvents(executor, codec)
        self.state = TransactionState(executor, codec, cache)
        self.dedupe = TransactionDedupe(executor, codec)
        self.leases = TransactionLeases(executor)
        self.limits = Limits(executor)
        self._codec = codec

    @cached_property
    def groups(self) -> TransactionGroups:
        """Consumer groups."""
        from pgmem._sync.groups.verbs import TransactionGroups

        return TransactionGroups(self._executor, self._codec)

    @cached_property
    def folds(self) -> TransactionFolds:
        """Snapshots of values that are computed from events."""
        from pgmem._sync.folds.verbs import TransactionFolds

        return TransactionFolds(self._executor, self._codec)


class Transaction(BoundMemory):
    """The verbs that work inside `memory.transaction()`."""

    def __init__(
        self, executor: TransactionExecutor, codec: Codec, cache: TransactionCache | None
    ) -> None:
        super().__init__(executor, codec, cache)
        self._transaction = executor

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The psycopg connection, for the caller's own rows."""
        return self._transaction.expose()


def run_in_transaction(
    begin: Callable[[], AbstractContextManager[Transaction]],
    fn: Callable[[Transaction], R],
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
            with begin() as tx:
                result: R = passthrough(fn(tx))
        except TransactionConflict:
            if attempt == retries:
                raise
        else:
            return result
        sleep(jitter(attempt))
        attempt += 1
