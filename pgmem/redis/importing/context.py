"""What the parts of an import share: both stores, the rules, the file of what is refused."""

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
    """Whoever shows how it goes."""

    def moved(self, kind: str, done: int, refused: int) -> None:
        """So many items of a kind were brought in, and so many not."""

    def lag(self, entries: int | None, seconds: float) -> None:
        """How far behind the streams are: entries (None: nobody knows), and the time they span."""

    def compared(self, items: int) -> None:
        """So many items have been compared so far."""

    def say(self, words: str) -> None:
        """Something that a person should know."""


class Ahead:
    """Writes one batch while the next one is read: one at a time, in order.

    An error of a write comes out of the next call.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "pgmem-import")
        self._pending: Future[None] | None = None

    def write(self, call: Callable[[], None]) -> None:
        """Have something done, once what was asked for before is done."""
        self.wait()
        self._pending = self._pool.submit(call)

    def wait(self) -> None:
        """Wait until nothing is under way."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Let what is under way end, whatever comes of it."""
        self._pool.shutdown()


@dataclass(slots=True)
class Context:
    """What an import works with.

    Attributes:
        memory: where to.
        steps: writes to it, a step at a time.
        source: where from.
        name: of the import.
        rules: what is brought in.
        refused: lists what is not.
        watcher: shows how it goes.
        trial: nothing is written.
        ahead: writes.
    """

    memory: Memory
    steps: Imports
    source: RedisSource
    name: str
    rules: Rules
    refused: RefusedFile
    watcher: Watcher
    trial: bool = False
    ahead: Ahead = field(default_factory=Ahead)

    def refuse(self, items: Sequence[tuple[Item, str]]) -> None:
        """List what is not brought in; it is on the disk afterwards."""
        if items:
            self.refused.add(items)
