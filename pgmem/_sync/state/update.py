# Generated from pgmem/state/update.py by tools/generate_sync.py. Do not edit.
"""One call of `state.update`: read, compute the new value, write if nothing changed.

::

    optimistic ──► lost a race ──► queued: SELECT … FOR UPDATE, then write and commit
        │ won                        │ won; or no row to lock: try again
        ▼                            ▼
      done                         done: the next updates of the key queue at once

A try without a lock is best while writers seldom collide: it holds up none of them. On a contended
key such tries starve each other, and each lost one has cost the server as much as a write. There
the queue of the row lock lets every writer through. Both ways need two round trips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from pgmem._sync.core.execution import Executor, PoolExecutor
from pgmem.core.concurrency import passthrough
from pgmem.core.op import Op
from pgmem.errors import CallbackFailed, PgmemError, VersionConflict
from pgmem.events.codec import Codec
from pgmem.state import read_ops, write_ops
from pgmem.state.models import StateEntry

QUEUED = 20
"""How many updates of a key queue at once after one has lost a race. The next one tries without the
lock, to find out whether the key is still contended."""

MOST_KEYS = 1_000


class ContendedKeys:
    """The keys of which the next updates queue for the row lock at once."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def add(self, key: str) -> None:
        """Note that an update of a key has lost a race."""
        if len(self._left) >= MOST_KEYS:
            self._left.clear()
        self._left[key] = QUEUED

    def take(self, key: str) -> bool:
        """Return True if an update of a key should queue, and count it."""
        left = self._left.pop(key, 0)
        if left > 1:
            self._left[key] = left - 1
        return left > 0


class Update:
    """One call of `state.update`, over all of its tries.

    Attributes:
        text: the value of the last try as JSON.
    """

    text = ""

    def __init__(
        self,
        key: str,
        fn: Callable[[Any], Any],
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

    def run(self, executor: PoolExecutor, contended: ContendedKeys, *, tries: int) -> StateEntry:
        """Try without a lock unless the key is contended, then with the row lock.

        Raises:
            VersionConflict: every try lost.
        """
        queues = contended.take(self._key)
        lost: VersionConflict | None = None
        for _ in range(tries):
            try:
                return (self._queued if queues else self._optimistic)(executor)
            except VersionConflict as conflict:
                lost = conflict
                queues = True
                contended.add(self._key)
        assert lost is not None  # noqa: S101  # there is at least one try
        raise lost

    def _optimistic(self, executor: PoolExecutor) -> StateEntry:
        # Not from the cache. A function that raises because of what it sees ("not enough money")
        # would do so for an old value, with no compare-and-set to notice.
        entry = executor.execute(read_ops.get(self._key, model=self._model))
        return executor.execute(self._changed(entry))

    def _queued(self, executor: PoolExecutor) -> StateEntry:
        action = f"update state {self._key!r}"
        with executor.transaction(action, read_committed=True) as bound:
            entry = bound.execute(self._lock)
            op = self._changed(entry)
            if entry is None:  # No row was locked, so another writer may come first.
                return bound.execute(op)
            bound.last = op
        return op.parse(bound.last_rows)

    def run_locked(self, executor: Executor) -> StateEntry:
        """Take the row lock in the caller's transaction, then write."""
        while True:
            entry = executor.execute(self._lock)
            try:
                return executor.execute(self._changed(entry))
            except VersionConflict:
                if entry is not None:
                    raise
                # There was no row to lock, and now there is one.

    def _changed(self, entry: StateEntry | None) -> Op[StateEntry]:
        """Compute the new value from an entry; return the write if the entry is still the same."""
        try:
            value = passthrough(self._fn(entry.value if entry else None))
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
        return op
