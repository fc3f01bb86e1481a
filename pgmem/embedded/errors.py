"""The error of the private server."""

from __future__ import annotations

from pgmem.errors import PgmemError


class EmbeddedPostgresError(PgmemError):
    """The private PostgreSQL server could not be found, started or stopped."""
