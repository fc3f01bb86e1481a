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
    from pgmem._sync.redis.steps import Imports
    from pgmem.redis.errors import (
        ConcurrentModificationError,
        ImportConflict,
        SourceError,
        SourceUnavailable,
    )
    from pgmem.redis.layer import AsyncSharedMemoryLayer
    from pgmem.redis.models import (
        ImportedDelivery,
        ImportedEntry,
        ImportedEvent,
        ImportedMark,
        ImportPart,
        KnownDelivery,
        KnownEntry,
        KnownMark,
        Refusal,
    )
    from pgmem.redis.steps import AsyncImports

__all__ = [
    "AsyncImports",
    "AsyncSharedMemoryLayer",
    "ConcurrentModificationError",
    "ImportConflict",
    "ImportPart",
    "ImportedDelivery",
    "ImportedEntry",
    "ImportedEvent",
    "ImportedMark",
    "Imports",
    "KnownDelivery",
    "KnownEntry",
    "KnownMark",
    "Refusal",
    "SharedMemoryLayer",
    "SourceError",
    "SourceUnavailable",
]

_MODULES = {
    "AsyncImports": "pgmem.redis.steps",
    "Imports": "pgmem._sync.redis.steps",
    "ImportPart": "pgmem.redis.models",
    "ImportedDelivery": "pgmem.redis.models",
    "ImportedEntry": "pgmem.redis.models",
    "ImportedEvent": "pgmem.redis.models",
    "ImportedMark": "pgmem.redis.models",
    "KnownDelivery": "pgmem.redis.models",
    "KnownEntry": "pgmem.redis.models",
    "KnownMark": "pgmem.redis.models",
    "Refusal": "pgmem.redis.models",
    "AsyncSharedMemoryLayer": "pgmem.redis.layer",
    "ConcurrentModificationError": "pgmem.redis.errors",
    "ImportConflict": "pgmem.redis.errors",
    "SharedMemoryLayer": "pgmem._sync.redis.layer",
    "SourceError": "pgmem.redis.errors",
    "SourceUnavailable": "pgmem.redis.errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_MODULES[name]), name)
