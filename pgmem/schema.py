"""pgmem's tables as SQLAlchemy Core objects, and the names and limits that go with them.

For joins in users' queries, for `alembic` autogenerate (`include_object`), and as the yardstick
that the migrated database is measured against (`pgmem.migrate.check`, the drift test). It makes
no connection, and imports neither alembic nor the rest of pgmem but the errors. The migrations
do not import it: they are frozen, this follows the newest revision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    TextClause,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

from pgmem.names import (
    APPEND_ONLY_SQLSTATE,
    DEFAULT_SCHEMA,
    NAME_BYTES,
    PART_BYTES,
    STREAM_BYTES,
    VERSION_TABLE,
    check_schema_name,
)


@dataclass(frozen=True)
class Tables:
    """The tables of one schema; `metadata` holds them and everything that belongs to them."""

    schema: str
    metadata: MetaData
    events: Table
    state: Table
    dedupe: Table
    consumers: Table
    trimmed: Table
    imports: Table
    fold_snapshots: Table
    state_snapshots: Table
    state_snapshot_entries: Table
    meta: Table
    pgmem_version: Table


def tables(schema: str = DEFAULT_SCHEMA) -> Tables:
    """The tables of `schema`; the same objects for the same name.

    ``t = tables(); select(t.state.c.value).join(orders, orders.c.key == t.state.c.key)``

    To write, use `Memory`: it keeps the versions, the events and the entries in step.

    Raises:
        InvalidName: the schema name cannot be used.
    """
    return build(check_schema_name(schema))


@lru_cache(maxsize=64)
def build(schema: str) -> Tables:
    """`tables` without the check of the name: for ``pg_temp``, with which `migrate.check` works."""
    metadata = MetaData(schema=schema)
    return Tables(
        schema=schema,
        metadata=metadata,
        events=_events(metadata),
        state=_state(metadata),
        dedupe=_dedupe(metadata),
        consumers=_consumers(metadata),
        trimmed=_trimmed(metadata),
        imports=_imports(metadata),
        fold_snapshots=_fold_snapshots(metadata),
        state_snapshots=_state_snapshots(metadata),
        state_snapshot_entries=_state_snapshot_entries(metadata),
        meta=_meta(metadata),
        pgmem_version=Table(
            VERSION_TABLE,
            metadata,
            Column("version_num", String(32), nullable=False),
            PrimaryKeyConstraint("version_num", name="pgmem_version_pkc"),
        ),
    )


def include_object(schema: str = DEFAULT_SCHEMA) -> Callable[..., bool]:
    """A filter for a team's own alembic, so that autogenerate leaves pgmem's tables alone.

    ``context.configure(…, include_object=include_object())``

    It refuses everything in pgmem's schema, and, where that schema is on the search_path (then
    alembic sees its tables without a schema), the tables that have a name and the columns of
    pgmem's. A table of yours that is also called `events` stays yours; only while it is still to
    be made, and pgmem's is on the search_path, alembic takes the one for the other, and it is
    left out. Best keep pgmem's schema off the search_path of migrations. To combine this with a
    filter of your own, call both.

    Args:
        schema: the schema that pgmem lives in.

    Raises:
        InvalidName: the schema name cannot be used.
    """
    check_schema_name(schema)

    def include(
        object_: object, name: str | None, type_: str, reflected: bool, compare_to: object
    ) -> bool:
        table = object_ if type_ == "table" else getattr(object_, "table", None)
        if not isinstance(table, Table):
            return True
        if table.schema is not None:
            return table.schema != schema
        if type_ == "table" and not reflected:  # the team's; against what is it compared?
            return not (isinstance(compare_to, Table) and _looks_like_pgmems(compare_to))
        return not _looks_like_pgmems(table)

    return include


def _looks_like_pgmems(table: Table) -> bool:
    columns = TABLE_COLUMNS.get(table.name)
    return columns is not None and columns <= set(table.columns.keys())


# --- the tables -----------------------------------------------------------------------------


def _text() -> Text:
    # Byte order, the same on every machine and for every version of its locale data, and the
    # order that makes a prefix search an index range.
    return Text(collation="C")


def _json() -> JSON:
    # json, not jsonb: measured 15-25 % faster both ways, and it keeps the text exactly as it
    # was given (1e300, the order of keys, -0.0). Nothing here is searched by content.
    return JSON(none_as_null=True)


def _moment() -> DateTime:
    return DateTime(timezone=True)


def _now() -> TextClause:
    return text("clock_timestamp()")  # now() would be the start of a caller's long transaction


def _since(revision: str) -> dict[str, str]:
    """For a column that an earlier revision of its table did not have."""
    return {"since": revision}


def _length(table: str, column: str, most: int = NAME_BYTES) -> CheckConstraint:
    return CheckConstraint(
        f"octet_length({column}) BETWEEN 1 AND {most}", name=f"{table}_{column}_length"
    )


def _after(table: Table, statement: str) -> None:
    """Runs `statement` after `table` is created, so that `metadata.create_all` is complete."""
    event.listen(table, "after_create", DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]


def _events(metadata: MetaData) -> Table:
    table = Table(
        "events",
        metadata,
        # Cache 1: with more, a connection would hold back positions, and the log be out of order.
        Column("position", BigInteger, Identity(always=False, cache=1), nullable=False),
        Column("stream", _text(), nullable=False),
        Column("stream_version", BigInteger),
        Column("type", _text(), nullable=False),
        Column("agent_id", _text()),
        Column("payload", _json(), nullable=False),
        Column("metadata", _json()),
        Column("state_key", _text()),
        Column("state_version", BigInteger),
        Column("state_deleted", Boolean),
        Column("state_value", _json()),
        Column("state_expires_at", _moment()),
        Column("recorded_at", _moment(), nullable=False, server_default=_now()),
        PrimaryKeyConstraint("position", name="events_pkey"),
        _length("events", "stream", STREAM_BYTES),
        _length("events", "type"),
        _length("events", "agent_id"),
        _length("events", "state_key"),
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
        _after(table, statement)
    return table


def _append_only(schema: str) -> tuple[str, ...]:
    """The trigger function that keeps the log append-only, and its two triggers."""
    return (
        f"""CREATE FUNCTION {schema}.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
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


def _state(metadata: MetaData) -> Table:
    table = Table(
        "state",
        metadata,
        Column("key", _text(), nullable=False),
        # NULL: deleted. The row stays as a tombstone and its version goes on growing, so that
        # a key made again never has a version that it had before (no ABA).
        Column("value", _json()),
        Column("version", BigInteger, nullable=False),
        Column("updated_at", _moment(), nullable=False, server_default=_now()),
        Column("expires_at", _moment()),
        # 2: the last change is in the log, so a copy elsewhere learns of the next one. 1: the
        # last change is in the log, and later ones may not be. 0: the last one is not in the log.
        Column(
            "recording", SmallInteger, nullable=False, server_default=text("1"), info=_since("0002")
        ),
        PrimaryKeyConstraint("key", name="state_pkey"),
        _length("state", "key"),
        CheckConstraint("version > 0", name="state_version_positive"),
        CheckConstraint("recording BETWEEN 0 AND 2", name="state_recording_known"),
    )
    # No further index and room on every page: updates stay HOT, the table stays small.
    _after(
        table,
        f'ALTER TABLE "{metadata.schema}".state '
        "SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)",
    )
    return table


def _dedupe(metadata: MetaData) -> Table:
    # A sequence of its own, not a counter per key: a fencing token is never given out twice,
    # also after the row that held it is gone.
    token = Sequence("dedupe_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "dedupe",
        metadata,
        Column("kind", _text(), nullable=False),
        Column("key", _text(), nullable=False),
        Column("fingerprint", LargeBinary),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("owner", _text()),
        Column("lease_until", _moment()),
        Column("completed_at", _moment()),
        Column("result", _json()),
        Column("created_at", _moment(), nullable=False, server_default=_now()),
        Column("expires_at", _moment()),
        PrimaryKeyConstraint("kind", "key", name="dedupe_pkey"),
        CheckConstraint("kind IN ('append', 'work')", name="dedupe_kind_known"),
        _length("dedupe", "key"),
    )
    _after(table, f'ALTER TABLE "{metadata.schema}".dedupe SET (fillfactor = 90)')
    return table


def _consumers(metadata: MetaData) -> Table:
    token = Sequence("consumers_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "consumers",
        metadata,
        Column("name", _text(), nullable=False),
        Column("selection", _json(), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("owner", _text()),
        Column("lease_until", _moment()),
        # The history that the position was made in: the server and its timeline.
        Column("system_identifier", BigInteger, nullable=False),
        Column("timeline", Integer, nullable=False),
        Column("created_at", _moment(), nullable=False, server_default=_now()),
        Column("updated_at", _moment(), nullable=False, server_default=_now()),
        PrimaryKeyConstraint("name", name="consumers_pkey"),
        _length("consumers", "name"),
        CheckConstraint("position >= 0", name="consumers_position_positive"),
    )
    # Few rows that change all the time: half of each page is room for HOT updates.
    _after(table, f'ALTER TABLE "{metadata.schema}".consumers SET (fillfactor = 50)')
    return table


def _trimmed(metadata: MetaData) -> Table:
    # Up to which position retention has removed events: of one stream, or ('') of the whole log.
    return Table(
        "trimmed",
        metadata,
        Column("stream", _text(), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("trimmed_at", _moment(), nullable=False, server_default=_now()),
        PrimaryKeyConstraint("stream", name="trimmed_pkey"),
        CheckConstraint(f"octet_length(stream) <= {STREAM_BYTES}", name="trimmed_stream_length"),
        CheckConstraint("position > 0", name="trimmed_position_positive"),
    )


def _imports(metadata: MetaData) -> Table:
    table = Table(
        "imports",
        metadata,
        Column("source", _text(), nullable=False),
        Column("part", _text(), nullable=False),
        # Where the part goes, if nothing else may go there: a stream of the log.
        Column("target", _text()),
        # How far the source has been read, in the source's own words.
        Column("cursor", _text(), nullable=False),
        # Who opened the part last, and how many steps it has made: only that one makes the next.
        Column("token", _text(), nullable=False),
        Column("step", BigInteger, nullable=False, server_default=text("0")),
        Column("done", BigInteger, nullable=False, server_default=text("0")),
        Column("refused", BigInteger, nullable=False, server_default=text("0")),
        Column("detail", _json(), nullable=False, server_default=text("'{}'")),
        Column("created_at", _moment(), nullable=False, server_default=_now()),
        Column("updated_at", _moment(), nullable=False, server_default=_now()),
        PrimaryKeyConstraint("source", "part", name="imports_pkey"),
        _length("imports", "source"),
        _length("imports", "part", PART_BYTES),
        _length("imports", "target"),
    )
    # Two parts that went to one stream would write its events twice, or mix up their order.
    Index("imports_target_key", table.c.target, unique=True)
    # As the consumers: few rows that change all the time.
    _after(table, f'ALTER TABLE "{metadata.schema}".imports SET (fillfactor = 50)')
    return table


def _fold_snapshots(metadata: MetaData) -> Table:
    return Table(
        "fold_snapshots",
        metadata,
        Column("name", _text(), nullable=False),
        Column("fold_version", Integer, nullable=False, autoincrement=False),
        Column("position", BigInteger, nullable=False, autoincrement=False),
        Column("value", _json(), nullable=False),
        Column("taken_at", _moment(), nullable=False, server_default=_now()),
        PrimaryKeyConstraint("name", "fold_version", "position", name="fold_snapshots_pkey"),
        _length("fold_snapshots", "name"),
    )


def _state_snapshots(metadata: MetaData) -> Table:
    return Table(
        "state_snapshots",
        metadata,
        Column("id", BigInteger, Identity(always=True), nullable=False),
        Column("name", _text()),
        Column("position", BigInteger, nullable=False),
        Column("entries", BigInteger, nullable=False),
        Column("taken_at", _moment(), nullable=False, server_default=_now()),
        PrimaryKeyConstraint("id", name="state_snapshots_pkey"),
        _length("state_snapshots", "name"),
    )


def _state_snapshot_entries(metadata: MetaData) -> Table:
    return Table(
        "state_snapshot_entries",
        metadata,
        Column("snapshot_id", BigInteger, nullable=False, autoincrement=False),
        Column("key", _text(), nullable=False),
        Column("value", _json(), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("expires_at", _moment()),
        PrimaryKeyConstraint("snapshot_id", "key", name="state_snapshot_entries_pkey"),
        ForeignKeyConstraint(
            ["snapshot_id"],
            [f"{metadata.schema}.state_snapshots.id"],
            name="state_snapshot_entries_snapshot_id_fkey",
            ondelete="CASCADE",
        ),
    )


def _meta(metadata: MetaData) -> Table:
    table = Table(
        "meta",
        metadata,
        Column("singleton", Boolean, nullable=False, server_default=text("true")),
        # The doorbell's channel. Channels have no privileges, so its name is a secret.
        Column(
            "channel",
            _text(),
            nullable=False,
            server_default=text("'pgmem_' || replace(gen_random_uuid()::text, '-', '')"),
        ),
        Column("created_at", _moment(), nullable=False, server_default=_now()),
        PrimaryKeyConstraint("singleton", name="meta_pkey"),
        CheckConstraint("singleton", name="meta_single_row"),
    )
    _after(table, f'INSERT INTO "{metadata.schema}".meta DEFAULT VALUES')
    return table


TABLE_COLUMNS: Final = {
    table.name: frozenset(c.name for c in table.columns if "since" not in c.info)
    for table in tables().metadata.tables.values()
}
"""The columns that each table has at any revision: one not migrated yet is pgmem's, too."""
