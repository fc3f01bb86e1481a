"""Check that the server, the schema and the session fit this library, when a memory opens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgmem.core.names import SCHEMA_REVISION, unreleased_schema
from pgmem.core.op import Row
from pgmem.errors import SchemaError

MINIMUM_SERVER: Final = 150000


def check_fit(rows: Sequence[Row], where: str, schema: str) -> int:
    """Check the row of `schema_revision`. Return the pid of the session on the server.

    Args:
        rows: the statement's rows; none if the tables are missing.
        where: the server and database, for messages.
        schema: the schema's name.

    Raises:
        SchemaError: something does not fit.
    """
    advice = f"`pgmem migrate up --schema {schema}`"
    if not rows:
        raise SchemaError(
            f"{where} has no pgmem tables in the schema {schema!r}. Run {advice}, or give the "
            f"schema= that they are in",
            needed=SCHEMA_REVISION,
        )
    revision, server, session, unreleased, hiding, secured = rows[0]
    if server < MINIMUM_SERVER:
        raise SchemaError(f"{where} runs PostgreSQL {server // 10000}, pgmem needs 15 or later")
    if unreleased:
        raise SchemaError(unreleased_schema(schema), found=revision, needed=SCHEMA_REVISION)
    if revision != SCHEMA_REVISION:
        old = revision < SCHEMA_REVISION
        raise SchemaError(
            f"the schema {schema!r} at {where} has revision {revision}, this library "
            + (f"needs {SCHEMA_REVISION}. Run {advice}" if old else f"knows {SCHEMA_REVISION}. ")
            + ("" if old else "Upgrade pgmem-agents"),
            found=revision,
            needed=SCHEMA_REVISION,
        )
    if hiding:
        raise SchemaError(
            f"the search_path at {where} puts {', '.join(hiding)} in front of pg_catalog, and "
            f"other roles may create operators there, which would replace the server's own in "
            f"every statement. Leave pg_catalog out of the search_path: it then comes first"
        )
    if secured:
        raise SchemaError(
            f"the schema {schema!r} at {where} has row-level security on {', '.join(secured)}, "
            f"which pgmem does not support: readers would take hidden events for missing ones. "
            f"Give each tenant a schema of its own, and ALTER TABLE … DISABLE ROW LEVEL SECURITY"
        )
    return int(session)


def check_positions(rows: Sequence[Row], where: str, schema: str) -> SchemaError | None:
    """Return the error for writes if the sequence of positions is behind the log, or None.

    Args:
        rows: the rows of `schema_positions`.
        where: the server and database, for messages.
        schema: the schema's name.
    """
    used, drawn, standby = rows[0]
    if used is None or used <= drawn or standby:
        return None
    return SchemaError(
        f"the sequence of positions at {where} is at {drawn}, and the log has positions up to "
        f"{used}: its rows came by logical replication, which carries no sequences. A write would "
        f"land below what was read. Run `pgmem migrate sync-sequences --schema {schema}`, which "
        f"sets this sequence (SELECT setval('{schema}.events_position_seq', {used})) and those of "
        f"fencing tokens, and open the memory again"
    )
