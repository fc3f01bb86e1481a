"""The log of events, and the stored positions of durable subscriptions."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    text,
)

from pgmem.admin.tables.columns import after_create, json, moment, name_column, now, storage
from pgmem.core.names import APPEND_ONLY_SQLSTATE, REFUSED_SQLSTATE


def events(metadata: MetaData) -> Table:
    """Build the table of events."""
    # No CHECK constraints on the tables that every write touches: the server parses and compiles
    # each of them anew in every statement that writes a row.
    table = Table(
        "events",
        metadata,
        # Cache 1: with more, a session holds back positions, and the log is out of order.
        Column("position", BigInteger, Identity(always=False, cache=1), nullable=False),
        Column("stream", name_column(), nullable=False),
        Column("stream_version", BigInteger),
        Column("type", name_column(), nullable=False),
        Column("agent_id", name_column()),
        Column("payload", json(), nullable=False),
        Column("metadata", json()),
        Column("state_key", name_column()),
        Column("state_version", BigInteger),
        Column("state_deleted", Boolean),
        Column("state_value", json()),
        Column("state_expires_at", moment()),
        Column("recorded_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("position", name="events_pkey"),
    )
    c = table.c
    Index(
        "events_stream_version_key",
        c.stream,
        c.stream_version,
        unique=True,
        postgresql_where=text("stream_version IS NOT NULL AND state_key IS NULL"),
    )
    Index(
        "events_state_version_key",
        c.state_key,
        c.state_version,
        unique=True,
        postgresql_where=text("state_version IS NOT NULL"),
    )
    Index("events_stream_position_idx", c.stream, c.position)
    Index("events_type_position_idx", c.type, c.position)
    Index(
        "events_agent_position_idx",
        c.agent_id,
        c.position,
        postgresql_where=text("agent_id IS NOT NULL"),
    )
    for name in ("run_id", "cause"):
        value = f"(metadata ->> '{name}')"
        Index(
            f"events_{name.removesuffix('_id')}_position_idx",
            text(f'({value} COLLATE "C")'),
            c.position,
            postgresql_where=text(f"{value} IS NOT NULL"),
        )
    for statement in _append_only(f'"{metadata.schema}"'):
        after_create(table, statement)
    after_create(table, _refuse_commit(f'"{metadata.schema}"'))
    return table


def _append_only(schema: str) -> tuple[str, ...]:
    """Build the statements that create the trigger function of the log and its two triggers."""
    return (
        f"""CREATE FUNCTION {schema}.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF TG_OP = 'DELETE'
       AND current_setting('retention.trimming', true) = pg_current_xact_id()::text THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = '{APPEND_ONLY_SQLSTATE}',
        MESSAGE = 'pgmem: ' || TG_OP || ' on ' || TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME
                  || ' refused: the log is append-only',
        HINT = 'Events are facts: append another event that corrects the earlier one.';
END
$function$""",
        f"CREATE TRIGGER events_refuse_change BEFORE UPDATE OR DELETE ON {schema}.events "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change()",
        f"CREATE TRIGGER events_refuse_truncate BEFORE TRUNCATE ON {schema}.events "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change()",
    )


def _refuse_commit(schema: str) -> str:
    """Build the function by which a statement undoes its transaction."""
    return f"""CREATE FUNCTION {schema}.refuse_commit() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = '{REFUSED_SQLSTATE}',
        MESSAGE = 'pgmem: the commit is refused, because what it relies on has changed';
END
$function$"""


def subscriptions(metadata: MetaData) -> Table:
    """Build the table of durable subscriptions."""
    token = Sequence("subscriptions_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "subscriptions",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("filter", json(), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("owner", name_column()),
        Column("expires_at", moment()),
        # The history that the position was stored in: the cluster and its timeline.
        Column("system_identifier", BigInteger, nullable=False),
        Column("timeline", Integer, nullable=False),
        Column("created_at", moment(), nullable=False, server_default=now()),
        Column("updated_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("name", name="subscriptions_pkey"),
    )
    # Few rows that change all the time: half of each page is room for HOT updates.
    storage(metadata, table, "fillfactor = 50")
    return table
