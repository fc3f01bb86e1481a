"""Copies of state entries in this process, so that reading one again asks no server.

::

    read ───► a copy, and the feed fresh? ──► hit
       └────► loading ──► SELECT ──► keep ┐  unless something newer came in between:
    write ──► writing ──► sent ────► keep ┘  an event, another write or read of ours
    event ──► observe: an older copy goes, older loads under way are void

A copy is kept only of an entry whose next change will be in the log (`pgmem.state.ops.Copy`), and
only if it was asked for while the feed was fresh: so whatever changes it afterwards is observed.

Reads, writes and the feed meet here from several threads, so everything but `lookup` takes the
lock. Knows nothing of statements or connections, and waits for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from types import TracebackType
from typing import Final, Self

from pgmem.core.concurrency import Lock
from pgmem.state.ops import Copy

VOID: Final = 2**63
"""Above every version: a load that nothing can satisfy any more."""


class StateCache:
    """The copies that were used last.

    Args:
        most: so many at most.

    Attributes:
        fresh_until: until when (by the monotonic clock) copies are served; 0.0 for not now.
            Whoever follows the log raises it after each look: while nobody looks, nobody would
            learn that a copy is old.
    """

    def __init__(self, most: int) -> None:
        self.fresh_until = 0.0
        self._most = most
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self._loads: dict[str, list[Load]] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._copies)

    def lookup(self, key: str) -> Copy | None:
        """The copy under a key, if there is one that may be served.

        Takes no lock: each of its two steps is one operation of a dict.
        """
        try:
            copy = self._copies.get(key)
        except TypeError:
            return None  # No key at all, as whoever asks the server will say.
        if copy is None or monotonic() >= self.fresh_until:
            return None
        try:
            self._copies.move_to_end(key)
        except KeyError:
            return None  # Dropped in this very moment.
        return copy

    def loading(self, key: str) -> Load:
        """For the time that an entry is read from the server."""
        return Load(self, key)

    def writing(self, key: str) -> Write:
        """For the time that a write of an entry is under way."""
        return Write(self, key)

    def observe(self, key: str, version: int | None) -> None:
        """An event changed an entry: what is older is void, also if it is still under way.

        Args:
            key: the entry's key.
            version: its version since then; None for a touch, which keeps the version.
        """
        with self._lock:
            self._overtake(key, VOID if version is None else version)

    def drop(self, key: str) -> None:
        """Nobody here knows what the entry is now: the copy goes, loads under way are void."""
        with self._lock:
            self._overtake(key, VOID)

    def flush(self) -> None:
        """The same for every entry."""
        with self._lock:
            self._copies.clear()
            for loads in self._loads.values():
                for load in loads:
                    load.least = VOID

    def begin(self, load: Load) -> None:
        """From now on the load is told what overtakes it."""
        with self._lock:
            self._loads.setdefault(load.key, []).append(load)
            # What changes while nobody follows the log might never be observed.
            if monotonic() >= self.fresh_until:
                load.least = VOID

    def end(self, load: Load) -> None:
        """The load is over."""
        with self._lock:
            loads = self._loads[load.key]
            loads.remove(load)
            if not loads:
                del self._loads[load.key]

    def store(self, load: Load, copy: Copy) -> None:
        """Keep what a load brought, unless it was overtaken."""
        with self._lock:
            self._overtake(load.key, copy.version)
            if copy.version < load.least:
                return
            self._copies[load.key] = copy
            self._copies.move_to_end(load.key)
            if len(self._copies) > self._most:
                self._copies.popitem(last=False)

    def _overtake(self, key: str, version: int) -> None:
        """The entry has, or had, this version: older ones are void."""
        held = self._copies.get(key)
        if held is not None and held.version < version:
            del self._copies[key]
        for load in self._loads.get(key, ()):
            load.least = max(load.least, version)


class Load:
    """A read of one entry that is under way. A context manager, for as long as it is.

    Attributes:
        key: the entry's key.
        least: the least version that it may still bring.
    """

    def __init__(self, cache: StateCache, key: str, *, least: int = 0) -> None:
        self._cache = cache
        self.key = key
        self.least = least

    def keep(self, copy: Copy | None) -> None:
        """What was found; None if it may not be kept."""
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
    """A write of one entry that is under way.

    What it does not keep, because it failed or may not be kept, is dropped: from then on this
    process sees what it wrote, or asks.
    """

    _kept = False

    def keep(self, copy: Copy | None) -> None:
        """What was written; None if it may not be kept."""
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


class BoundWrite(Write):
    """A write in a transaction: nobody knows yet whether it will ever be true."""

    def keep(self, copy: Copy | None) -> None:
        """Nothing is kept."""


class BoundCache:
    """The cache, for a transaction: it reads and keeps nothing there, and drops what it writes.

    Args:
        cache: the memory's.
        settles: whether `settle` will be called at the transaction's end, and the keys are
            remembered until then. In a transaction that the caller ends nobody knows when that
            is: there the feed tells, as it does of others' writes.
    """

    def __init__(self, cache: StateCache, *, settles: bool) -> None:
        self._cache = cache
        self._settles = settles
        self._keys: set[str] = set()
        self._flushed = False

    def writing(self, key: str) -> Write:
        """For the time that a write of an entry is under way."""
        if self._settles:
            self._keys.add(key)
        return BoundWrite(self._cache, key)

    def flush(self) -> None:
        """Every entry may have been written."""
        self._flushed = True
        self._cache.flush()

    def settle(self) -> None:
        """The transaction is over: drop once more, for it was not visible before."""
        if self._flushed:
            self._cache.flush()
        for key in self._keys:
            self._cache.drop(key)
