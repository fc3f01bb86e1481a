"""A private PostgreSQL server: for development, tests and the demo."""

from pgmem.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
