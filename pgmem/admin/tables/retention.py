"""The policies of retention, and what it has removed."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    text,
)

from pgmem.admin.tables.columns import moment, name_column, now
from pgmem.core.names import STREAM_BYTES


def policies(metadata: MetaData) -> Table:
    """Build the table of policies: of one stream, fold or kind of snapshot, or ('') of all."""
    return Table(
        "policies",
        metadata,
        Column("kind", name_column(), nullable=False),
        Column("name", name_column(), nullable=False),
        Column("max_count", BigInteger),
        Column("max_age", Double),  # seconds
        Column("updated_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("kind", "name", name="policies_pkey"),
        CheckConstraint("kind IN ('events', 'folds', 'snapshots')", name="policies_kind_known"),
        CheckConstraint(f"octet_length(name) <= {STREAM_BYTES}", name="policies_name_length"),
        CheckConstraint("max_count > 0", name="policies_max_count_positive"),
        CheckConstraint("max_age > 0", name="policies_max_age_positive"),
        CheckConstraint(
            "max_count IS NOT NULL OR max_age IS NOT NULL", name="policies_says_something"
        ),
    )


def trimmed(metadata: MetaData) -> Table:
    """Build the table of trims: the last removed position of a stream, or ('') of the log."""
    return Table(
        "trimmed",
        metadata,
        Column("stream", name_column(), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("trimmed_at", moment(), nullable=False, server_default=now()),
        Column("removed", BigInteger, nullable=False, server_default=text("0")),
        PrimaryKeyConstraint("stream", name="trimmed_pkey"),
        CheckConstraint(f"octet_length(stream) <= {STREAM_BYTES}", name="trimmed_stream_length"),
        CheckConstraint("position > 0", name="trimmed_position_positive"),
    )
