"""The memory itself: the log, the state, the idempotency keys, the snapshots. Not public."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    text,
)
from sqlalchemy.dialects.postgresql import UUID

from pgmem.admin.tables.pieces import after, json, length_check, moment, name_column, now, since
from pgmem.core.names import APPEND_ONLY_SQLSTATE, STREAM_BYTES


def events(metadata: MetaData) -> Table:
    table = Table(
        "events",
        metadata,
        # Cache 1: with more, a connection would hold back positions, and the log be out of order.
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
        length_check("events", "stream", STREAM_BYTES),
        length_check("events", "type"),
        length_check("events", "agent_id"),
        length_check("events", "state_key"),
        CheckConstraint("stream_version > 0", name="events_stream_version_positive"),
        CheckConstraint("state_version > 0", name="events_state_version_positive"),
        # Not the other way round: a state.touched event has a key and leaves the version.
        CheckConstraint(
            "state_version IS NULL OR state_key IS NOT NULL", name="events_state_version_has_key"
        ),
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
    for statement in _append_only(f'"{metadata.schema}"'):
        after(table, statement)
    return table


def _append_only(schema: str) -> tuple[str, ...]:
    """The trigger function that keeps the log append-only, and its two triggers."""
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


def state(metadata: MetaData) -> Table:
    table = Table(
        "state",
        metadata,
        Column("key", name_column(), nullable=False),
        # NULL: deleted. The row stays as a tombstone and its version goes on growing, so that
        # a key made again never has a version that it had before (no ABA).
        Column("value", json()),
        Column("version", BigInteger, nullable=False),
        Column("updated_at", moment(), nullable=False, server_default=now()),
        Column("expires_at", moment()),
        # 2: the last change is in the log, so a copy elsewhere learns of the next one. 1: the
        # last change is in the log, and later ones may not be. 0: the last one is not in the log.
        Column(
            "recording", SmallInteger, nullable=False, server_default=text("1"), info=since("0002")
        ),
        PrimaryKeyConstraint("key", name="state_pkey"),
        length_check("state", "key"),
        CheckConstraint("version > 0", name="state_version_positive"),
        CheckConstraint("recording BETWEEN 0 AND 2", name="state_recording_known"),
    )
    # No further index and room on every page: updates stay HOT, the table stays small.
    after(
        table,
        f'ALTER TABLE "{metadata.schema}".state '
        "SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)",
    )
    return table


def dedupe(metadata: MetaData) -> Table:
    # A sequence of its own, not a counter per key: a fencing token is never given out twice,
    # also after the row that held it is gone.
    token = Sequence("dedupe_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "dedupe",
        metadata,
        Column("kind", name_column(), nullable=False),
        Column("key", name_column(), nullable=False),
        Column("fingerprint", LargeBinary),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("owner", name_column()),
        Column("lease_until", moment()),
        Column("completed_at", moment()),
        Column("result", json()),
        Column("created_at", moment(), nullable=False, server_default=now()),
        Column("expires_at", moment()),
        PrimaryKeyConstraint("kind", "key", name="dedupe_pkey"),
        CheckConstraint("kind IN ('append', 'work')", name="dedupe_kind_known"),
        length_check("dedupe", "key"),
    )
    after(table, f'ALTER TABLE "{metadata.schema}".dedupe SET (fillfactor = 90)')
    return table


def fold_snapshots(metadata: MetaData) -> Table:
    return Table(
        "fold_snapshots",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("fold_version", Integer, nullable=False, autoincrement=False),
        Column("position", BigInteger, nullable=False, autoincrement=False),
        Column("value", json(), nullable=False),
        Column("taken_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("name", "fold_version", "position", name="fold_snapshots_pkey"),
        length_check("fold_snapshots", "name"),
    )


def state_snapshots(metadata: MetaData) -> Table:
    return Table(
        "state_snapshots",
        metadata,
        Column("id", BigInteger, Identity(always=True), nullable=False),
        Column("name", name_column()),
        Column("position", BigInteger, nullable=False),
        Column("entries", BigInteger, nullable=False),
        Column("taken_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("id", name="state_snapshots_pkey"),
        length_check("state_snapshots", "name"),
    )


def state_snapshot_entries(metadata: MetaData) -> Table:
    return Table(
        "state_snapshot_entries",
        metadata,
        Column("snapshot_id", BigInteger, nullable=False, autoincrement=False),
        Column("key", name_column(), nullable=False),
        Column("value", json(), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("expires_at", moment()),
        PrimaryKeyConstraint("snapshot_id", "key", name="state_snapshot_entries_pkey"),
        ForeignKeyConstraint(
            ["snapshot_id"],
            [f"{metadata.schema}.state_snapshots.id"],
            name="state_snapshot_entries_snapshot_id_fkey",
            ondelete="CASCADE",
        ),
    )


def meta(metadata: MetaData) -> Table:
    table = Table(
        "meta",
        metadata,
        Column("singleton", Boolean, nullable=False, server_default=text("true")),
        # The doorbell's channel. Channels have no privileges, so its name is a secret.
        Column(
            "channel",
            name_column(),
            nullable=False,
            server_default=text("'pgmem_' || replace(gen_random_uuid()::text, '-', '')"),
        ),
        Column("created_at", moment(), nullable=False, server_default=now()),
        # Set when the first file of removed events is written: not before, so that databases made
        # from one template are different logs.
        Column("log_id", UUID(as_uuid=True), info=since("0003")),
        PrimaryKeyConstraint("singleton", name="meta_pkey"),
        CheckConstraint("singleton", name="meta_single_row"),
    )
    after(table, f'INSERT INTO "{metadata.schema}".meta DEFAULT VALUES')
    return table
