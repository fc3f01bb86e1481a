"""`memory.snapshots`: folds, and copies of the whole state.

What to run is `pgmem.folds.ops`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from pydantic import BaseModel

from pgmem.core.execution import AsyncExecutor
from pgmem.core.validation import MAX_POSITION, check_count
from pgmem.errors import CallbackFailed, InvalidInput, PgmemError, TransactionConflict
from pgmem.events.codec import Codec
from pgmem.events.filter import Selection
from pgmem.events.verbs import AsyncEvents
from pgmem.folds import ops
from pgmem.folds.models import Fold, Folded
from pgmem.state.cache import BoundCache, StateCache
from pgmem.state.models import StateEntry, StateSnapshot

S = TypeVar("S")

FOLD_PAGE = 5_000
TAKE_TRIES = 10


class AsyncSnapshots:
    """Kept values of folds, and copies of the whole state. Reached as `memory.snapshots`."""

    def __init__(
        self,
        executor: AsyncExecutor,
        codec: Codec,
        events: AsyncEvents,
        cache: StateCache | BoundCache | None = None,
    ) -> None:
        self._executor = executor
        self._codec = codec
        self._events = events
        self._cache = cache

    async def fold(
        self, fold: Fold[S], *, save_every: int = 1_000, model: type[BaseModel] | None = None
    ) -> Folded[S]:
        """A fold's value now: its newest snapshot, and the events after it.

        Args:
            fold: how events add up.
            save_every: keep a new snapshot if so many events came after the last one; 0 never.
            model: a pydantic model of the value, where the value is one.

        Raises:
            CallbackFailed: `fold.apply` raised (its exception is the `__cause__`).
            InvalidValue: the value cannot be stored as JSON.
        """
        self._refuse_bound("fold")
        check_count(save_every, "save_every", minimum=0)
        kept = await self.load(fold.name, fold_version=fold.version, model=model)
        value, position = kept if kept is not None else (fold.initial(), 0)
        applied = 0
        while True:
            selection = Selection(fold.stream, fold.type, None, position, MAX_POSITION)
            page = await self._events.read_page(selection, limit=FOLD_PAGE)
            for event in page.events:
                try:
                    value = fold.apply(value, event)
                except PgmemError:
                    raise
                except Exception as error:
                    raise CallbackFailed(
                        f"fold {fold.name!r}: apply raised {type(error).__name__} at position "
                        f"{event.position}; no snapshot was kept"
                    ) from error
            applied += len(page.events)
            position = max(position, page.complete_to)
            if len(page.events) < FOLD_PAGE:
                break
        if save_every and applied >= save_every:
            await self.save(fold.name, value, position=position, fold_version=fold.version)
        return Folded(value, position)

    async def save(self, name: str, value: Any, *, position: int, fold_version: int = 1) -> bool:
        """Keep a fold's value.

        Args:
            name: the fold's name.
            value: a JSON value or a pydantic model.
            position: every event up to it is in the value, and none after it.
            fold_version: the version of the fold that made it.

        Returns:
            True if it was kept, False if there was one for that position already.
        """
        return await self._executor.execute(
            ops.save(
                name,
                value,
                position=position,
                fold_version=fold_version,
                max_bytes=self._codec.max_bytes,
            )
        )

    async def load(
        self, name: str, *, fold_version: int = 1, model: type[BaseModel] | None = None
    ) -> Folded[Any] | None:
        """The newest kept value of one version of a fold, or None.

        Args:
            name: the fold's name.
            fold_version: values that another version made are never returned.
            model: a pydantic model to validate the value with.
        """
        return await self._executor.execute(ops.load(name, fold_version=fold_version, model=model))

    async def take(self, name: str | None = None) -> StateSnapshot:
        """Copy the whole state as it is at one position of the log.

        The copy holds every recorded write up to that position and none after it, also while
        others write. Entries written with `record=False` are in no log: they are copied as they
        are.

        Args:
            name: to find it again; several may have the same.

        Raises:
            TransactionConflict: entries kept changing, while the log did not tell what they had
                been before: retention had removed it, or they were written with `record=False`.
        """
        self._refuse_bound("take")
        for _ in range(TAKE_TRIES):
            position = await self._events.settle()
            taken = await self._executor.execute(ops.take(name, position=position))
            if taken is not None:
                return taken
        raise TransactionConflict(
            f"take a snapshot of the state: {TAKE_TRIES} times an entry had changed since the "
            f"position that is final, and the log does not hold what it was before. Try again "
            f"later; a transaction that has appended events and is still open makes it last"
        )

    async def list(self, name: str | None = None, *, limit: int = 100) -> list[StateSnapshot]:
        """The copies of the whole state, newest first.

        Args:
            name: only those of this name.
            limit: at most so many.
        """
        return await self._executor.execute(ops.list_snapshots(name, limit=limit))

    async def entries(self, snapshot_id: int) -> AsyncIterator[StateEntry]:
        """What a copy holds, in the order of the keys.

        Raises:
            NotFound: there is none of that id.
        """
        await self._executor.execute(ops.get(snapshot_id))
        after = ""
        while True:
            page = await self._executor.execute(
                ops.entries(snapshot_id, after=after, limit=FOLD_PAGE)
            )
            for entry in page:
                yield entry
            if len(page) < FOLD_PAGE:
                return
            after = page[-1].key

    async def restore(self, snapshot_id: int) -> tuple[int, int]:
        """Make the state what a copy holds, in one transaction.

        Each entry that differs gets the next version and an event (`state.restored`,
        `state.deleted`): readers follow, and nobody's older version matches any more.

        Returns:
            How many entries were written and how many deleted.

        Raises:
            NotFound: there is none of that id.
        """
        await self._executor.execute(ops.get(snapshot_id))
        try:
            return await self._executor.execute(ops.restore(snapshot_id, self._codec))
        finally:
            if self._cache is not None:
                self._cache.flush()

    def _refuse_bound(self, verb: str) -> None:
        if self._executor.bound:
            raise InvalidInput(
                f"snapshots.{verb} needs to see what others have committed: "
                f"use it outside of a transaction"
            )
