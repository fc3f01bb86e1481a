"""Run code written for Redis on pgmem, and import the data of a Redis.

    from pgmem.redis import SharedMemoryLayer        # was your own module
    layer = SharedMemoryLayer("postgresql://…")      # was SharedMemoryLayer(redis_client)

`SharedMemoryLayer` has the six methods of the published class, for code that calls them.
docs/howto/published-layer.md lists the differences. New code uses `pgmem.Memory`.

`pgmem import-redis` imports the data (docs/howto/switching-from-redis.md). `position_of` finds the
event of an imported entry. `Imports` has the steps that an import is made of.
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
    from pgmem.redis.importing.positions import position_of
    from pgmem.redis.importing.rules import Rule, Rules, parse_rules
    from pgmem.redis.importing.session import open_import
    from pgmem.redis.layer import AsyncSharedMemoryLayer
    from pgmem.redis.models import (
        ImportedDelivery,
        ImportedEntry,
        ImportedEvent,
        ImportedRecord,
        ImportPart,
        KnownDelivery,
        KnownEntry,
        KnownRecord,
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
    "ImportedRecord",
    "Imports",
    "KnownDelivery",
    "KnownEntry",
    "KnownRecord",
    "Refusal",
    "Rule",
    "Rules",
    "SharedMemoryLayer",
    "SourceError",
    "SourceUnavailable",
    "open_import",
    "parse_rules",
    "position_of",
]

_MODULES = {
    "pgmem._sync.redis.layer": ("SharedMemoryLayer",),
    "pgmem._sync.redis.steps": ("Imports",),
    "pgmem.redis.errors": (
        "ConcurrentModificationError",
        "ImportConflict",
        "SourceError",
        "SourceUnavailable",
    ),
    "pgmem.redis.importing.positions": ("position_of",),
    "pgmem.redis.importing.rules": ("Rule", "Rules", "parse_rules"),
    "pgmem.redis.importing.session": ("open_import",),
    "pgmem.redis.layer": ("AsyncSharedMemoryLayer",),
    "pgmem.redis.models": (
        "ImportPart",
        "ImportedDelivery",
        "ImportedEntry",
        "ImportedEvent",
        "ImportedRecord",
        "KnownDelivery",
        "KnownEntry",
        "KnownRecord",
        "Refusal",
    ),
    "pgmem.redis.steps": ("AsyncImports",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that one form loads without the other."""
    from importlib import import_module  # noqa: PLC0415  # __dir__ would list it

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
