"""Names and limits that the database schema and the statements share.

They are apart from `pgmem.admin.tables`, because that module imports SQLAlchemy.
"""

from __future__ import annotations

import re
from typing import Final

from pgmem.errors import InvalidInput

DEFAULT_SCHEMA: Final = "pgmem"
SCHEMA_REVISION: Final = "0001"
"""The revision of the migrations that this library works with."""
VERSION_TABLE: Final = "pgmem_version"
"""Not alembic's own name: with this schema on a search_path, a team's alembic would take it for
its own history."""

NAME_BYTES: Final = 512
"""UTF-8 bytes of a stream, key, type, agent id or fold name: a longer one may not fit an index."""
STATE_STREAM_PREFIX: Final = "state:"
STREAM_BYTES: Final = NAME_BYTES + len(STATE_STREAM_PREFIX)
"""A state entry's stream is the prefix and a key that may have the full length."""
PART_BYTES: Final = NAME_BYTES + 16
"""A part of an import is a kind and a name that may have the full length."""
RESERVED_PREFIX: Final = "pgmem:"


class ReservedName(str):
    """A name that pgmem uses itself. A plain string of the same text is refused."""

    __slots__ = ()


JANITOR_LEASE: Final = ReservedName("pgmem:janitor")
"""The lease of the one process that applies retention."""
APPEND_ONLY_SQLSTATE: Final = "PM001"
"""What the trigger on `events` raises."""
REFUSED_SQLSTATE: Final = "PM002"
"""What `refuse_commit()` raises."""

_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Schemas of the server, and the default one.
_FOREIGN_SCHEMAS: Final = frozenset({"public", "information_schema"})


def check_schema_name(schema: str) -> str:
    """Check the name of a schema and return it.

    Raises:
        InvalidInput: it is no plain lower-case identifier of at most 63 characters, is reserved
            by PostgreSQL (`pg_…`, `information_schema`), or is `public`, where pgmem's version
            table would be taken for the team's own.
    """
    if not isinstance(schema, str) or _SCHEMA_NAME.fullmatch(schema) is None:
        raise InvalidInput(
            f"the schema name {_shown(schema)} cannot be used: take 1 to 63 lower-case letters, "
            "digits and underscores, not starting with a digit"
        )
    if schema.startswith("pg_") or schema in _FOREIGN_SCHEMAS:
        raise InvalidInput(
            f"the schema name {schema!r} cannot be used: pgmem needs a schema of its own, and "
            "neither 'public', 'information_schema' nor a name that starts with 'pg_' is one"
        )
    return schema


def unreleased_schema(schema: str) -> str:
    """Return the message for a schema that a version before the first release created."""
    return (
        f"the schema {schema!r} was created by an unreleased version of pgmem, and its "
        f"tables cannot be migrated: drop the schema and run `pgmem migrate up --schema {schema}`, "
        f"or give another schema"
    )


def _shown(schema: object) -> str:
    if not isinstance(schema, str):
        return f"of type {type(schema).__name__}"
    return ascii(schema) if len(schema) <= 80 else f"of {len(schema)} characters"
