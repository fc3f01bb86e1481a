"""Keep track of a way back: what was written, and which keys are blocked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pgmem.redis.importing.context import Context
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.source import KeyFault, Refused
from pgmem.redis.importing.streams import StreamImport


class Written(dict[str, int]):
    """Numbers of items that were written back, by kind.

    `left` counts items that were not, and `blocked` keys that stay fenced.
    """

    def add(self, kind: str, count: int) -> None:
        """Count items of a kind."""
        self[kind] = self.get(kind, 0) + count


class WayBack:
    """The state of one run.

    Args:
        context: the objects of the import.
        only: the keys that an earlier run could not write back, as `stored` returned them; None to
            write back all.

    Attributes:
        only: those keys. Everything else is written back already.
        written: the numbers of items.
        blocked: the keys that Redis refuses, with the reasons.
    """

    def __init__(self, context: Context, only: Iterable[str] | None) -> None:
        self._context = context
        self.only: set[str] | None = None
        if only is not None:
            keys = [key.encode("latin-1") for key in only]
            self.only = {_text(key) for key in keys if not context.rules.is_excepted(key)}
        self.written = Written()
        self.blocked: dict[str, str] = {}

    @property
    def stored(self) -> list[str]:
        """The blocked keys as JSON texts, which cannot hold every key: their bytes as Latin-1."""
        return sorted(_bytes(key).decode("latin-1") for key in self.blocked)

    def concerns(self, key: str) -> bool:
        """Return True if a key is to be written back by this run, and is not blocked."""
        if key in self.blocked or self._context.rules.is_excepted(_bytes(key)):
            return False
        return self.only is None or key in self.only

    @contextmanager
    def guard(self, key: str) -> Iterator[None]:
        """Block a key if the server refuses a command inside the block."""
        try:
            yield
        except (KeyFault, Refused) as error:
            self.block(key, str(error))

    def block(self, key: str, why: str) -> None:
        """Leave a key as it is. The first reason counts."""
        self.blocked.setdefault(key, why)

    def each(
        self, streams: dict[bytes, StreamImport], action: Callable[[StreamImport], object]
    ) -> None:
        """Do something with each stream that is not blocked, and block those that are refused."""
        for stream in list(streams.values()):
            if self.concerns(stream.name):
                with self.guard(stream.name):
                    action(stream)

    def list_blocked(self) -> None:
        """Count the blocked keys, and list them in the file."""
        if self.blocked:
            self.written["blocked"] = len(self.blocked)
        self._context.refuse(
            [
                (
                    Item("key", _bytes(key)),
                    f"not brought back to Redis, and still fenced: {why}. Repair it and run this "
                    f"again, or leave it out (--except KEY)",
                )
                for key, why in self.blocked.items()
            ]
        )


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _text(key: bytes) -> str:
    return key.decode(errors="surrogateescape")
