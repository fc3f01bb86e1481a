"""One call of `state.update`: read, compute the new value, write if nothing changed.

::

    optimistic ──► lost OPTIMISTIC_TRIES races, ──► queued: SELECT … FOR UPDATE, then write
        │ won      or one try is left                  │ won; or no row to lock: try again
        ▼                                              ▼
      done                                           done

Tries without a lock are cheapest while writers seldom collide. On a contended key they starve each
other. There the queue of the row lock lets every writer through, so the last try also queues.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from pgmem.core.concurrency import async_sleep, maybe_await
from pgmem.core.execution import AsyncExecutor, AsyncPoolExecutor
from pgmem.errors import CallbackFailed, PgmemError, VersionConflict
from pgmem.events.codec import Codec
from pgmem.state import read_ops, write_ops
from pgmem.state.models import StateEntry

OPTIMISTIC_TRIES = 3


class AsyncUpdate:
    """One call of `state.update`, over all of its tries.

    Attributes:
        text: the value of the last try as JSON.
    """

    text = ""

    def __init__(
        self,
        key: str,
        fn: Callable[[Any], Any | Awaitable[Any]],
        codec: Codec,
        *,
        recording: write_ops.Recording,
        lifetime: write_ops.Lifetime,
        model: type[BaseModel] | None,
    ) -> None:
        self._key = read_ops.check_key(key)
        self._fn = fn
        self._codec = codec
        self._recording = recording
        self._lifetime = lifetime
        self._lock = read_ops.get_locked(key, model=model)
        self._model = model

    async def run(self, executor: AsyncPoolExecutor, *, tries: int) -> StateEntry:
        """Try without a lock, then with the row lock.

        Raises:
            VersionConflict: every try lost.
        """
        lost: VersionConflict | None = None
        for attempt in range(tries):
            try:
                if attempt < OPTIMISTIC_TRIES and (attempt == 0 or attempt < tries - 1):
                    return await self._optimistic(executor, attempt, lost)
                return await self._queued(executor)
            except VersionConflict as conflict:
                lost = conflict
        assert lost is not None  # noqa: S101  # there is at least one try
        raise lost

    async def _optimistic(
        self, executor: AsyncPoolExecutor, attempt: int, lost: VersionConflict | None
    ) -> StateEntry:
        if lost is not None:
            await async_sleep(random.uniform(0, 0.002 * 2**attempt))  # noqa: S311  # no secret
        if lost is None or self._model is not None:
            # Not from the cache. A function that raises because of what it sees ("not enough
            # money") would do so for an old value, with no compare-and-set to notice.
            entry = await executor.execute(read_ops.get(self._key, model=self._model))
        else:
            entry = lost.current
        return await self._write(executor, entry)

    async def _queued(self, executor: AsyncPoolExecutor) -> StateEntry:
        action = f"update state {self._key!r}"
        async with executor.transaction(action, read_committed=True) as bound:
            return await self._write(bound, await bound.execute(self._lock))

    async def run_locked(self, executor: AsyncExecutor) -> StateEntry:
        """Take the row lock in the caller's transaction, then write."""
        while True:
            entry = await executor.execute(self._lock)
            try:
                return await self._write(executor, entry)
            except VersionConflict:
                if entry is not None:
                    raise
                # There was no row to lock, and now there is one.

    async def _write(self, executor: AsyncExecutor, entry: StateEntry | None) -> StateEntry:
        """Compute the new value from an entry and write it if the entry is still the same."""
        try:
            value = await maybe_await(self._fn(entry.value if entry else None))
        except PgmemError:
            raise
        except Exception as error:
            raise CallbackFailed(
                f"update of state {self._key!r}: the function raised {type(error).__name__}; "
                f"nothing was written"
            ) from error
        op = write_ops.compare_and_set(
            self._key,
            value,
            self._codec,
            expected_version=entry.version if entry else 0,
            lifetime=self._lifetime,
            recording=self._recording,
        )
        self.text = op.params["value"]
        return await executor.execute(op)
