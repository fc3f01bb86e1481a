"""What belongs to Redis: the published layer's class, and the import from a Redis server.

    from pgmem.redis import SharedMemoryLayer        # before: your own module
    layer = SharedMemoryLayer("postgresql://…")      # before: SharedMemoryLayer(redis_client)

`SharedMemoryLayer` has the same six methods as the published class, for code that was written to
them. docs/coming-from-redis.md lists the differences. New code uses `pgmem.Memory`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgmem._sync.redis.layer import SharedMemoryLayer
    from pgmem.errors import ConcurrentModificationError, ForeignId
    from pgmem.redis.layer import AsyncSharedMemoryLayer

__all__ = [
    "AsyncSharedMemoryLayer",
    "ConcurrentModificationError",
    "ForeignId",
    "SharedMemoryLayer",
]

_MODULES = {
    "AsyncSharedMemoryLayer": "pgmem.redis.layer",
    "ConcurrentModificationError": "pgmem.errors",
    "ForeignId": "pgmem.errors",
    "SharedMemoryLayer": "pgmem._sync.redis.layer",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_MODULES[name]), name)
