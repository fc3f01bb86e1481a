"""Read and think without a transaction; compare and write in one at the end.

::

    tx.state.get, tx.events.version …   read outside a transaction, remember the version
    tx.state.put, tx.events.append …    check and encode, keep the statement
    end of the block                    one round trip

That round trip is one transaction::

    BEGIN, dedupe record, lease
    lock names, lock rows, compare versions
    statements, acknowledgements, receipt, COMMIT

A statement whose condition does not hold raises an error in the server (`refuse_commit()`), so the
server skips the rest, COMMIT included. Then the same is done statement by statement, to see what
has changed: that gives `StaleRead`, `LeaseLost` or the first receipt.

Why it is serializable for what was read by key. A commit locks everything that it read or writes
before it compares: the row of an entry that exists, and an advisory lock for an absent entry or a
stream, which has no row. Of two commits where each writes what the other one read, the second waits
for the first and then finds another version. A verb outside such a transaction reads nothing but
what it writes, so it can be ordered before or after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from pydantic import BaseModel

from pgmem.core.concurrency import async_sleep
from pgmem.core.encoding import encode
from pgmem.core.execution import AsyncExecutor, AsyncPoolExecutor
from pgmem.core.op import Op, RefusedError, RetryStatement
from pgmem.core.retry import MAX_REPEATS, jitter
from pgmem.core.transaction import AsyncTransactionExecutor
from pgmem.core.validation import Seconds, check_name, check_seconds
from pgmem.dedupe import ops as dedupe_ops
from pgmem.errors import (
    InvalidInput,
    LeaseLost,
    NotOpen,
    OutcomeUnknown,
    TransactionConflict,
    Unavailable,
    VersionConflict,
)
from pgmem.events.codec import Codec
from pgmem.events.durable import AsyncDurableSubscription
from pgmem.events.models import Appended
from pgmem.events.transaction_verbs import DEFAULT_KEY_TTL
from pgmem.leases import ops as lease_ops
from pgmem.leases.lease import AsyncLease
from pgmem.optimistic import ops
from pgmem.optimistic.events import AsyncOptimisticEvents
from pgmem.optimistic.models import Committed
from pgmem.optimistic.ops import Name
from pgmem.optimistic.stale import stale_read
from pgmem.optimistic.state import AsyncOptimisticState
from pgmem.state.cache import StateCache
from pgmem.state.models import StateEntry

if TYPE_CHECKING:
    from pgmem.groups.delivery import AsyncDelivery

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class OptimisticContext(NamedTuple):
    """The parts of a memory that its optimistic transactions share."""

    executor: AsyncPoolExecutor
    codec: Codec
    cache: StateCache | None


class _AsyncRecorder:
    """Keep ops instead of executing them."""

    bound = True

    def __init__(self) -> None:
        self.ops: list[Op[Any]] = []

    async def execute(self, op: Op[T]) -> T:
        """Keep an op. The verbs return its result, which is not used."""
        self.ops.append(op)
        return cast(T, [None])


class _AsyncBoundRecorder(AsyncTransactionExecutor):
    """Keep ops of verbs that take a transaction."""

    def __init__(self) -> None:
        self.ops: list[Op[Any]] = []

    async def execute(self, op: Op[T]) -> T:
        """Keep an op. The verbs do not use its result."""
        self.ops.append(op)
        return cast(T, None)


class _AsyncBound:
    """A transaction, for the verbs that take one."""

    def __init__(self, executor: AsyncTransactionExecutor) -> None:
        self._executor = executor


class ChangedError(Exception):
    """Versions are not the remembered ones. The transaction must end before more is read."""

    def __init__(self, found: dict[Name, int]) -> None:
        super().__init__()
        self.found = found


class AsyncOptimistic:
    """A transaction that holds no lock and no connection until its end.

    `memory.optimistic()` and `memory.run_transaction(fn, optimistic=True)` make it.

    Attributes:
        state: state entries.
        events: the log.
        committed: the receipt, after the block.
    """

    def __init__(
        self,
        context: OptimisticContext,
        *,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
        fence: AsyncLease | None = None,
        reads: AsyncExecutor | None = None,
    ) -> None:
        self._executor = context.executor
        self._codec = context.codec
        self._cache = context.cache
        self._key = (
            None if idempotency_key is None else check_name(idempotency_key, "idempotency key")
        )
        self._ttl = None if ttl is None else check_seconds(ttl, "ttl")
        self._fence = fence
        self._reads = reads or context.executor
        self._recorder = _AsyncRecorder()
        self._versions: dict[Name, int] = {}
        self._written: dict[str, str | None] = {}
        self._deliveries: dict[Any, list[AsyncDelivery[Any]]] = {}
        self._handled: list[tuple[AsyncDurableSubscription[Any], Any]] = []
        self._committed: Committed | None = None
        self._open = True
        self._outcome_unknown = False
        self.state = AsyncOptimisticState(self)
        self.events = AsyncOptimisticEvents(self)

    @property
    def committed(self) -> Committed:
        """The receipt of the commit.

        Raises:
            NotOpen: it has not committed.
        """
        if self._committed is None:
            raise NotOpen("the optimistic transaction has not committed: read the receipt after it")
        return self._committed

    async def ack(self, deliveries: AsyncDelivery[Any] | Sequence[AsyncDelivery[Any]]) -> None:
        """Acknowledge deliveries of a group at the end of the transaction.

        Args:
            deliveries: a delivery, or several.
        """
        self._check_open()
        for delivery in deliveries if isinstance(deliveries, Sequence) else [deliveries]:
            self._deliveries.setdefault(delivery._group, []).append(delivery)

    async def commit(self, subscription: AsyncDurableSubscription[T], event: T) -> None:
        """Store at the end of the transaction that an event of a subscription is handled.

        Args:
            subscription: the durable subscription.
            event: an event that it has handed out. What it handed out before counts, too.

        Raises:
            InvalidInput: the subscription has not handed out the event.
        """
        self._check_open()
        if not isinstance(subscription, AsyncDurableSubscription):
            raise InvalidInput(
                f"commit takes a durable subscription, then an event that it handed out: got "
                f"{type(subscription).__name__}"
            )
        subscription._position_after(event)
        self._handled.append((subscription, event))

    def _check_open(self) -> None:
        if not self._open:
            raise NotOpen("this optimistic transaction is over: use it inside its block")

    async def _remember(self, name: Name, version: int) -> None:
        """Remember a version that was read.

        Raises:
            StaleRead: it was read before, with another version.
        """
        before = self._versions.setdefault(name, version)
        if before != version:
            raise await stale_read({name: version}, self._versions, self._reads, self._codec)

    def _names(self) -> set[Name]:
        """Return the names of everything that was read or is written."""
        written: set[Name] = {("state", key) for key in self._written}
        return written | set(self._versions)

    def _names_without_row(self) -> set[Name]:
        """Return the names that an advisory lock stands for, because they may have no row."""
        return {
            name for name in self._names() if name[0] == "stream" or not self._versions.get(name)
        }

    async def _finish(self) -> None:
        """Compare and write. The block is over."""
        self._open = False
        wanted = self._versions or self._recorder.ops or self._deliveries or self._handled
        if not wanted and self._key is None and self._fence is None:
            self._committed = Committed(None, {})
            return
        deadline = time.monotonic() + self._executor.database.timeout
        attempt = 0
        while self._committed is None:
            try:
                await self._commit_once()
            except (TransactionConflict, RetryStatement) as error:
                if attempt >= MAX_REPEATS:
                    raise TransactionConflict(
                        f"{ops.ACTION}: the server undid it {attempt + 1} times in a row because "
                        f"of concurrent transactions. Try again later"
                    ) from error
            except OutcomeUnknown:
                # The dedupe record tells if it committed.
                if self._key is None or time.monotonic() > deadline:
                    raise
                self._outcome_unknown = True
            except Unavailable:  # Also a connection that was lost before COMMIT was sent.
                if time.monotonic() > deadline:
                    raise
            if self._committed is None:
                attempt += 1
                await async_sleep(jitter(attempt))

    async def _commit_once(self) -> None:
        with ExitStack() as stack:
            self._invalidate(stack)
            try:
                self._committed = await self._commit_together()
            except RefusedError:
                pass  # Something has changed. Statement by statement, the client sees what.
            else:
                return
            try:
                async with self._executor.transaction(ops.ACTION, read_committed=True) as executor:
                    committed = await self._write(executor)
            except ChangedError as changed:
                raise await stale_read(
                    changed.found, self._versions, self._executor, self._codec
                ) from None
            self._committed = committed

    async def _commit_together(self) -> Committed:
        """Compare and write in one round trip.

        Raises:
            RefusedError: something does not hold any more, or the idempotency key was used.
        """
        before: list[Op[Any]] = []
        after = _AsyncBoundRecorder()
        if self._key is not None:
            record = dedupe_ops.record(self._key, ttl=self._ttl, kind="optimistic")
            before.append(ops.guarded(record))
        if self._fence is not None:
            before.append(ops.fence(self._fence.held))
        if without_row := self._names_without_row():
            before.append(ops.lock(without_row))
        if names := sorted(self._names()):
            before.append(ops.check(names, self._versions))
        writes = self._recorder.ops
        await self._acknowledge(after)
        if self._key is not None:
            after.ops.append(ops.store_receipt(self._key, writes, self._written))
        results = await self._executor.execute_together(
            [*before, *map(ops.guarded, writes), *map(ops.guarded, after.ops)], ops.ACTION
        )
        return _receipt(writes, results[len(before) : len(before) + len(writes)])

    def _invalidate(self, stack: ExitStack) -> None:
        """Drop cached entries that are written, until and when `stack` ends."""
        if self._cache is not None:
            for key in self._written:
                stack.enter_context(self._cache.writing(key))

    async def _write(self, executor: AsyncTransactionExecutor) -> Committed:
        """Do everything of the commit inside a transaction.

        Raises:
            ChangedError: something that was read has changed.
            LeaseLost: the lease or a delivery is not held any more.
        """
        record = None
        if self._key is not None:
            record = await executor.execute(
                dedupe_ops.record(self._key, ttl=self._ttl, kind="optimistic")
            )
            if not record.acquired:
                await self._acknowledge(executor)
                return Committed(**record.result, duplicate=True)
        if self._fence is not None:
            try:
                await executor.execute(lease_ops.require(self._fence.held, ops.ACTION))
            except LeaseLost as error:
                self._fence.lose(error)
                raise
        await self._compare(executor)
        results = [await self._execute(executor, op) for op in self._recorder.ops]
        await self._acknowledge(executor)
        committed = _receipt(self._recorder.ops, results)
        if self._key is not None and record is not None:
            receipt = {"position": committed.position, "versions": committed.versions}
            text = encode(receipt, "receipt", limit=2**28 - 1)
            await executor.execute(
                dedupe_ops.record_result(
                    self._key, token=record.token, result=text, kind="optimistic"
                )
            )
        return committed

    async def _acknowledge(self, executor: AsyncTransactionExecutor) -> None:
        """End deliveries and store positions, also if another block did the work before."""
        bound = _AsyncBound(executor)
        for group, deliveries in self._deliveries.items():
            try:
                await group.ack(deliveries, bound)
            except LeaseLost:
                if not self._outcome_unknown:
                    raise  # Else this transaction may have ended them itself.
        for subscription, event in self._handled:
            await subscription.commit(event, bound)

    async def _lock(self, executor: AsyncTransactionExecutor) -> dict[Name, int]:
        """Lock everything that was read or is written, and return the versions."""
        if without_row := self._names_without_row():
            await executor.execute(ops.lock(without_row))
        names = sorted(self._names())
        return await executor.execute(ops.compare(names)) if names else {}

    async def _compare(self, executor: AsyncTransactionExecutor) -> None:
        found = await self._lock(executor)
        changed = {
            name: found[name]
            for name, expected in self._versions.items()
            if found[name] != expected
        }
        if changed:
            raise ChangedError(changed)

    async def _execute(self, executor: AsyncTransactionExecutor, op: Op[T]) -> T:
        try:
            return await executor.execute(op)
        except VersionConflict as error:
            name: Name = (
                ("state", op.params["key"])
                if "key" in op.params
                else ("stream", op.params["stream"])
            )
            self._versions.setdefault(name, error.expected)
            raise ChangedError({name: error.actual}) from None


def _receipt(kept: Sequence[Op[Any]], results: Sequence[Any]) -> Committed:
    positions: list[int] = []
    versions: dict[str, int] = {}
    for op, result in zip(kept, results, strict=True):
        if isinstance(result, StateEntry):
            versions[result.key] = result.version
            positions += [] if result.position is None else [result.position]
        elif isinstance(result, bool):
            versions[op.params["key"]] = 0
        else:
            receipts: list[Appended] = [result] if isinstance(result, Appended) else result
            positions += [receipt.position for receipt in receipts]
    return Committed(max(positions, default=None), versions)
