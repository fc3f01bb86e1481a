"""The objects that the parts of an import share: both stores, the rules, the file of refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from pgmem import Memory
from pgmem.redis import Imports
from pgmem.redis.importing.refused import Item, RefusedFile
from pgmem.redis.importing.rules import Rules
from pgmem.redis.importing.source import RedisSource


class Watcher(Protocol):
    """A display of the progress."""

    def moved(self, kind: str, done: int, refused: int) -> None:
        """Count items of a kind that were imported or refused."""

    def lag(self, entries: int | None, seconds: float) -> None:
        """Show how far behind the streams the import is.

        Args:
            entries: number of entries; None if unknown.
            seconds: the time that these entries span.
        """

    def compared(self, items: int) -> None:
        """Show how many items have been compared so far."""

    def say(self, words: str) -> None:
        """Show a message."""


class BackgroundWriter:
    """Write one batch while the next one is read: one at a time, in order.

    If a write raises, the next call raises its error.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "pgmem-import")
        self._pending: Future[None] | None = None

    def write(self, call: Callable[[], None]) -> None:
        """Wait for the previous write, then start a call."""
        self.wait()
        self._pending = self._pool.submit(call)

    def wait(self) -> None:
        """Wait for the write that is under way."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the write that is under way, and ignore its outcome."""
        self._pool.shutdown()


@dataclass(slots=True)
class Context:
    """The objects that an import works with.

    Attributes:
        memory: the memory to import into.
        imports: the steps on that memory.
        source: the Redis to import from.
        name: the name of the import.
        rules: the keys to import.
        refused: the file that lists what is left out.
        watcher: shows the progress.
        dry_run: nothing is written.
        writer: writes in the background.
    """

    memory: Memory
    imports: Imports
    source: RedisSource
    name: str
    rules: Rules
    refused: RefusedFile
    watcher: Watcher
    dry_run: bool = False
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)

    def refuse(self, items: Sequence[tuple[Item, str]]) -> None:
        """List items that are left out, and flush the file to the disk."""
        if items:
            self.refused.add(items)
