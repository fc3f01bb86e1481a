"""The snapshots of folds."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, PrimaryKeyConstraint, Table

from pgmem.admin.tables.columns import json, length_check, moment, name_column, now


def fold_snapshots(metadata: MetaData) -> Table:
    """Build the table of fold snapshots."""
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
