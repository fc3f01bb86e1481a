"""Wrap `SharedMemoryLayer` of either form, to be awaited."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from pgmem import AsyncMemory, Memory
from pgmem.redis import AsyncSharedMemoryLayer, SharedMemoryLayer


class Layers:
    """Make layers of one form on one database.

    Attributes:
        name: "async" or "sync".
        layer: the class.
        memory: the class of its memory.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.layer = AsyncSharedMemoryLayer if name == "async" else SharedMemoryLayer
        self.memory = AsyncMemory if name == "async" else Memory

    def new(self, source=None, *, work=None, **options):
        """Return a layer that the caller closes. `work` is its `_do_actual_work`."""
        named = {} if work is None else {"_do_actual_work": lambda self, event: work(event)}
        cls = type("Layer", (self.layer,), named)
        return Awaited(cls(self.url if source is None else source, **options))

    @asynccontextmanager
    async def open(self, source=None, **options):
        """Open a layer, and close it at the end."""
        layer = self.new(source, **options)
        try:
            yield layer
        finally:
            await layer.close()


class Awaited:
    """Return each result of a layer as an awaitable. A sync layer runs in a thread.

    Attributes:
        wrapped: the layer itself.
    """

    def __init__(self, wrapped) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str):
        found = getattr(self.wrapped, name)
        if isinstance(self.wrapped, AsyncSharedMemoryLayer) or not callable(found):
            return found
        return lambda *args, **kwargs: asyncio.to_thread(found, *args, **kwargs)
