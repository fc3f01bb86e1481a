"""The schema's own data: its notification channel, its log's id and its revision."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    text,
)
from sqlalchemy.dialects.postgresql import UUID

from pgmem.admin.tables.columns import after_create, moment, name_column, now
from pgmem.core.names import VERSION_TABLE


def meta(metadata: MetaData) -> Table:
    """Build the table of one row."""
    table = Table(
        "meta",
        metadata,
        Column("singleton", Boolean, nullable=False, server_default=text("true")),
        # Notification channels have no privileges, so the name of the channel is a secret.
        Column(
            "channel",
            name_column(),
            nullable=False,
            server_default=text("'pgmem_' || replace(gen_random_uuid()::text, '-', '')"),
        ),
        Column("created_at", moment(), nullable=False, server_default=now()),
        Column("inline", Boolean, nullable=False, server_default=text("true")),
        # Set when the first file of removed events is written, not before: databases that were
        # created from one template are different logs.
        Column("log_id", UUID(as_uuid=True)),
        PrimaryKeyConstraint("singleton", name="meta_pkey"),
        CheckConstraint("singleton", name="meta_single_row"),
    )
    after_create(table, f'INSERT INTO "{metadata.schema}".meta DEFAULT VALUES')
    return table


def pgmem_version(metadata: MetaData) -> Table:
    """Build alembic's version table."""
    return Table(
        VERSION_TABLE,
        metadata,
        Column("version_num", String(32), nullable=False),
        PrimaryKeyConstraint("version_num", name="pgmem_version_pkc"),
    )
