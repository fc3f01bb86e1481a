"""The errors of the import from Redis and of the published layer's class."""

from __future__ import annotations

from pgmem.errors import Conflict, PgmemError, VersionConflict


class ConcurrentModificationError(VersionConflict):
    """All tries of `SharedMemoryLayer.update_with_version` lost. Nothing was changed."""


class ImportConflict(Conflict):
    """Another import runs, or the target belongs to another import."""


class SourceError(PgmemError):
    """The source of an import refused a command, or changed since the import began."""


class SourceUnavailable(SourceError):
    """The source of an import could not be reached, or did not come back in time."""
