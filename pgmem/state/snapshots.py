"""`memory.state.snapshots`: copies of the whole state."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pgmem.core.execution import AsyncExecutor
from pgmem.errors import TransactionConflict
from pgmem.events.codec import Codec
from pgmem.events.verbs import AsyncEvents
from pgmem.state import snapshot_ops as ops
from pgmem.state.cache import Cache, StateCache
from pgmem.state.models import SnapshotEntry, StateSnapshot

PAGE = 5_000
TAKE_TRIES = 10


class AsyncTransactionSnapshots:
    """Copies of the whole state. Reached as `tx.state.snapshots` in a transaction."""

    def __init__(
        self,
        executor: AsyncExecutor,
        codec: Codec,
        cache: Cache | None = None,
    ) -> None:
        self._executor = executor
        self._codec = codec
        self._cache = cache

    async def get(self, snapshot_id: int) -> StateSnapshot:
        """Return the description of a snapshot.

        Raises:
            NotFound: there is none with this id.
        """
        return await self._executor.execute(ops.get(snapshot_id))

    async def entries(self, snapshot_id: int) -> AsyncIterator[SnapshotEntry]:
        """Iterate over the entries of a snapshot, in the order of their keys.

        Raises:
            NotFound: there is none with this id.
        """
        await self.get(snapshot_id)
        after = ""
        while True:
            page = await self._executor.execute(ops.entries(snapshot_id, after=after, limit=PAGE))
            for entry in page:
                yield entry
            if len(page) < PAGE:
                return
            after = page[-1].key

    async def restore(self, snapshot_id: int) -> tuple[int, int]:
        """Make the state equal to a snapshot, in one transaction.

        Each entry that differs gets the next version and an event (`state.restored` or
        `state.deleted`). So readers follow, and no older expected version matches any more.

        Returns:
            The number of entries that were written, and the number that were deleted.

        Raises:
            NotFound: there is none with this id.
        """
        await self.get(snapshot_id)
        try:
            return await self._executor.execute(ops.restore(snapshot_id, self._codec))
        finally:
            if self._cache is not None:
                self._cache.flush()

    async def delete(self, snapshot_id: int) -> bool:
        """Delete a snapshot. Return True if there was one."""
        return await self._executor.execute(ops.delete(snapshot_id))

    async def list(
        self, name: str | None = None, *, limit: int | None = None
    ) -> list[StateSnapshot]:
        """Return the descriptions of snapshots, newest first.

        Args:
            name: only those with this name.
            limit: the most to return, 1 to 100,000; None, the default, returns all of them.
        """
        return await self._executor.execute(ops.list_snapshots(name, limit=limit))


class AsyncSnapshots(AsyncTransactionSnapshots):
    """Copies of the whole state. Reached as `memory.state.snapshots`."""

    def __init__(
        self, executor: AsyncExecutor, codec: Codec, cache: StateCache | None, events: AsyncEvents
    ) -> None:
        super().__init__(executor, codec, cache)
        self._events = events

    async def take(self, name: str | None = None) -> StateSnapshot:
        """Copy the whole state as it is at one position of the log.

        The copy holds every recorded write up to that position and none after it, also while others
        write. An entry that was written with `record=False` is in no log, so it is copied as it is.

        Args:
            name: helps to find the snapshot again. Several may have the same name.

        Raises:
            TransactionConflict: entries kept changing, and the log did not hold what they were
                before. Retention had removed it, or they were written with `record=False`.
        """
        for _ in range(TAKE_TRIES):
            position = await self._events.wait_until_stable()
            taken = await self._executor.execute(ops.take(name, position=position))
            if taken is not None:
                return taken
        raise TransactionConflict(
            f"take a snapshot of the state: in {TAKE_TRIES} tries an entry had changed after the "
            f"stable position and the log did not hold what it was before. Try again later. An "
            f"open transaction that has appended events makes this last longer"
        )
