"""Opens what an import works with, and closes it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgmem import Memory
from pgmem.redis import Imports
from pgmem.redis.importing.context import Context, Watcher
from pgmem.redis.importing.refused import RefusedFile
from pgmem.redis.importing.rules import Rules
from pgmem.redis.importing.run import Import
from pgmem.redis.importing.source import PATIENCE, RedisSource
from pgmem.redis.importing.trial import on_trial


class Quiet:
    """A watcher that shows nothing."""

    def moved(self, kind: str, done: int, refused: int) -> None:
        """Nothing."""

    def compared(self, items: int) -> None:
        """Nothing."""

    def lag(self, entries: int | None, seconds: float) -> None:
        """Nothing."""

    def say(self, words: str) -> None:
        """Nothing."""


@contextmanager
def importing(
    memory: Memory,
    url: str,
    rules: Rules,
    *,
    refused: Path,
    name: str | None = None,
    watcher: Watcher | None = None,
    trial: bool = False,
    patience: float = PATIENCE,
) -> Iterator[Import]:
    """An import, ready to begin.

    Args:
        memory: where to.
        url: of the Redis.
        rules: what is brought in.
        refused: the file that lists what is not.
        name: of the import: what it has done so far is found by it; None for where the Redis is.
        watcher: shows how it goes.
        trial: read and check everything, and write nothing.
        patience: seconds that the Redis may be away in the middle.

    Raises:
        InvalidInput: a URL or a file that cannot be used, or redis-py is not installed.
        SourceError: the Redis does not answer, or refuses this client.
    """
    shown = watcher or Quiet()

    def waits(why: str) -> None:
        shown.say(f"Redis went away ({why}): waiting for it")

    with RedisSource(url, patience=patience, on_wait=waits) as source:
        chosen = name or source.where
        context = Context(
            *(on_trial(memory) if trial else (memory, Imports(memory))),
            source,
            chosen,
            rules,
            RefusedFile(refused, chosen),
            shown,
            trial,
        )
        try:
            yield Import(context)
        finally:
            context.ahead.close()
