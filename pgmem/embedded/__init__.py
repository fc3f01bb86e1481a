"""A private PostgreSQL server: for development, tests and the demo."""

from pgmem.embedded.errors import EmbeddedPostgresError
from pgmem.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]
