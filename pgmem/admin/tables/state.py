"""The state and its snapshots."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKeyConstraint,
    Identity,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    text,
)

from pgmem.admin.tables.columns import json, length_check, moment, name_column, now, storage


def state(metadata: MetaData) -> Table:
    """Build the table of state entries."""
    table = Table(
        "state",
        metadata,
        Column("key", name_column(), nullable=False),
        # NULL: deleted. The row stays as a tombstone and its version goes on growing, so that a
        # stale expected version never matches.
        Column("value", json()),
        Column("version", BigInteger, nullable=False),
        Column("created_at", moment(), nullable=False, server_default=now()),
        Column("updated_at", moment(), nullable=False, server_default=now()),
        Column("expires_at", moment()),
        Column("ttl", Double),  # seconds; NULL if expires_at is
        # 2: the last change is in the log, and the next one will be, so that copies elsewhere are
        # invalidated. 1: the last change is in the log, later ones may not be. 0: the last change
        # is not in the log.
        Column("recording", SmallInteger, nullable=False, server_default=text("1")),
        # False: the value's text has no backslash. Then JSON has one spelling of a string, so a
        # search for one can compare texts. Every write of the library sets it. It is no generated
        # column, because that costs each write 2 us.
        Column("escaped", Boolean, nullable=False, server_default=text("true")),
        PrimaryKeyConstraint("key", name="state_pkey"),
    )
    # No further index and room on every page: updates stay HOT, and the table stays small.
    storage(metadata, table, "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05")
    return table


def state_snapshots(metadata: MetaData) -> Table:
    """Build the table of snapshots of the whole state."""
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
    """Build the table of the entries in snapshots."""
    return Table(
        "state_snapshot_entries",
        metadata,
        Column("snapshot_id", BigInteger, nullable=False, autoincrement=False),
        Column("key", name_column(), nullable=False),
        Column("value", json(), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("expires_at", moment()),
        Column("ttl", Double),
        PrimaryKeyConstraint("snapshot_id", "key", name="state_snapshot_entries_pkey"),
        ForeignKeyConstraint(
            ["snapshot_id"],
            [f"{metadata.schema}.state_snapshots.id"],
            name="state_snapshot_entries_snapshot_id_fkey",
            ondelete="CASCADE",
        ),
    )
