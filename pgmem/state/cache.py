"""Copies of state entries in this process, so that a repeated read needs no server.

::

    read ───► a copy, and the log followed? ──► hit
       └────► loading ──► SELECT ──► keep ┐  unless something newer came in between:
    write ──► writing ──► sent ────► keep ┘  an event, another write or read of this process
    event ──► observe: remove an older copy, void older loads under way

Only an entry whose next change will be in the log is kept (`pgmem.state.models.Copy`), and only if
the read began while the log was followed. So every later change of it is observed.

Reads, writes and the log's follower use the cache from several threads, so everything but `lookup`
takes the lock. Nothing here waits.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from types import TracebackType
from typing import Final, Self

from pgmem.core.concurrency import Lock
from pgmem.state.models import Copy

VOID: Final = 2**63
"""Above every version: the load may keep nothing."""


class StateCache:
    """The copies that were used last.

    Args:
        most: the largest number of copies.

    Attributes:
        fresh_until: until when (by the monotonic clock) copies are served; 0.0 for not now. The
            follower of the log raises it after each poll. While it does not poll, this process
            would not learn that a copy is old.
        used: set by each lookup. The follower polls less often while it stays unset.
    """

    def __init__(self, most: int) -> None:
        self.fresh_until = 0.0
        self.used = True
        self._most = most
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self._loads: dict[str, list[Load]] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._copies)

    def lookup(self, key: str) -> Copy | None:
        """Return the copy under a key if there is one that may be served.

        It takes no lock, because each of its two steps is one operation of a dict.
        """
        self.used = True
        try:
            copy = self._copies.get(key)
        except TypeError:
            return None  # not a key: the read from the server refuses it
        if copy is None or monotonic() >= self.fresh_until:
            return None
        try:
            self._copies.move_to_end(key)
        except KeyError:
            return None  # removed in between
        return copy

    def loading(self, key: str) -> Load:
        """Return a context manager for a read of an entry from the server."""
        return Load(self, key)

    def writing(self, key: str) -> Write:
        """Return a context manager for a write of an entry."""
        return Write(self, key)

    def observe(self, key: str, version: int | None) -> None:
        """Void older copies and loads of an entry that an event changed.

        Args:
            key: the entry's key.
            version: the entry's new version; None for a touch, which keeps the version.
        """
        with self._lock:
            self._overtake(key, VOID if version is None else version)

    def drop(self, key: str) -> None:
        """Void the copy and the loads of an entry whose value is unknown now."""
        with self._lock:
            self._overtake(key, VOID)

    def flush(self) -> None:
        """Void all copies and loads."""
        with self._lock:
            self._copies.clear()
            for loads in self._loads.values():
                for load in loads:
                    load.least = VOID

    def begin(self, load: Load) -> None:
        """Register a load, so that changes void it."""
        with self._lock:
            self._loads.setdefault(load.key, []).append(load)
            # A change while the log is not followed might never be observed.
            if monotonic() >= self.fresh_until:
                load.least = VOID

    def end(self, load: Load) -> None:
        """Remove a load."""
        with self._lock:
            loads = self._loads[load.key]
            loads.remove(load)
            if not loads:
                del self._loads[load.key]

    def store(self, load: Load, copy: Copy) -> None:
        """Keep the copy of a load, unless something newer came in between."""
        with self._lock:
            self._overtake(load.key, copy.version)
            if copy.version < load.least:
                return
            self._copies[load.key] = copy
            self._copies.move_to_end(load.key)
            if len(self._copies) > self._most:
                self._copies.popitem(last=False)

    def _overtake(self, key: str, version: int) -> None:
        """Void what is older than a version that the entry has or had."""
        held = self._copies.get(key)
        if held is not None and held.version < version:
            del self._copies[key]
        for load in self._loads.get(key, ()):
            load.least = max(load.least, version)


class Load:
    """A read of one entry that is under way, as a context manager.

    Attributes:
        key: the entry's key.
        least: the lowest version that may still be kept.
    """

    def __init__(self, cache: StateCache, key: str, *, least: int = 0) -> None:
        self._cache = cache
        self.key = key
        self.least = least

    def keep(self, copy: Copy | None) -> None:
        """Keep what was read; None if it may not be kept."""
        if copy is not None:
            self._cache.store(self, copy)

    def __enter__(self) -> Self:
        self._cache.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cache.end(self)


class Write(Load):
    """A write of one entry that is under way, as a context manager.

    If it keeps nothing, it removes the copy, so that this process sees what it wrote.
    """

    _kept = False

    def keep(self, copy: Copy | None) -> None:
        """Keep what was written; None if it may not be kept."""
        super().keep(copy)
        self._kept = copy is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if not self._kept:
            self._cache.drop(self.key)


class TransactionWrite(Write):
    """A write in a transaction, which may still roll back."""

    def keep(self, copy: Copy | None) -> None:
        """Keep nothing."""


class TransactionCache:
    """The cache for a transaction: serves and keeps no copies, and removes those it writes.

    Args:
        cache: the cache of the memory.
        remembers: True if `end` will be called when the transaction has ended. In a transaction
            that the caller ends this is not known: there the cache learns of the writes from the
            log, as it does of those of other processes.
    """

    def __init__(self, cache: StateCache, *, remembers: bool) -> None:
        self._cache = cache
        self._remembers = remembers
        self._keys: set[str] = set()
        self._flushed = False

    def writing(self, key: str) -> Write:
        """Return a context manager for a write of an entry."""
        if self._remembers:
            self._keys.add(key)
        return TransactionWrite(self._cache, key)

    def flush(self) -> None:
        """Void all copies: any entry may have been written."""
        self._flushed = True
        self._cache.flush()

    def end(self) -> None:
        """Void the written keys once more, now that the writes are visible."""
        if self._flushed:
            self._cache.flush()
        for key in self._keys:
            self._cache.drop(key)


Cache = StateCache | TransactionCache
