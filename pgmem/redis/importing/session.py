"""Open the objects that an import works with, and close them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgmem import Memory
from pgmem.redis import Imports
from pgmem.redis.importing.context import Context, Watcher
from pgmem.redis.importing.dry_run import dry_run as without_writes
from pgmem.redis.importing.refused import RefusedFile
from pgmem.redis.importing.rules import Rules
from pgmem.redis.importing.run import Import
from pgmem.redis.importing.source import OUTAGE_SECONDS, RedisSource


class Silent:
    """A watcher that shows nothing."""

    def moved(self, kind: str, done: int, refused: int) -> None:
        """Do nothing."""

    def compared(self, items: int) -> None:
        """Do nothing."""

    def lag(self, entries: int | None, seconds: float) -> None:
        """Do nothing."""

    def say(self, words: str) -> None:
        """Do nothing."""


@contextmanager
def open_import(
    memory: Memory,
    url: str,
    rules: Rules,
    *,
    refused: Path,
    name: str | None = None,
    watcher: Watcher | None = None,
    dry_run: bool = False,
    timeout: float = OUTAGE_SECONDS,
) -> Iterator[Import]:
    """Connect to a Redis and open an import that has not begun.

    Args:
        memory: the memory to import into.
        url: the URL of the Redis.
        rules: the keys to import.
        refused: the file that lists what is left out.
        name: the name under which the progress is stored; None for the address of the Redis.
        watcher: shows the progress; None to show nothing.
        dry_run: read and check everything, and write nothing.
        timeout: seconds to wait for a Redis that goes away after it has answered once.

    Raises:
        InvalidInput: a URL or a file that cannot be used, or redis-py is not installed.
        SourceError: the Redis does not answer, or refuses this client.
    """
    shown = watcher or Silent()

    def waits(why: str) -> None:
        shown.say(f"Redis went away ({why}), waiting for it")

    with RedisSource(url, timeout=timeout, on_wait=waits) as source:
        chosen = name or source.where
        target, imports = without_writes(memory) if dry_run else (memory, Imports(memory))
        file = RefusedFile(refused, chosen)
        context = Context(target, imports, source, chosen, rules, file, shown, dry_run)
        try:
            yield Import(context)
        finally:
            context.writer.close()
