"""Idempotency keys of appends, and claims and records of work."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
)

from pgmem.admin.tables.columns import json, moment, name_column, now, storage


def dedupe(metadata: MetaData) -> Table:
    """Build the table of idempotency keys."""
    # A sequence, not a counter in the row: a fencing token is never given out twice, also after its
    # row is gone.
    token = Sequence("dedupe_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "dedupe",
        metadata,
        Column("kind", name_column(), nullable=False),
        Column("key", name_column(), nullable=False),
        Column("fingerprint", LargeBinary),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("owner", name_column()),
        # The end of a claim; `expires_at` is the end of a completed record.
        Column("lease_expires_at", moment()),
        Column("completed_at", moment()),
        Column("result", json()),
        Column("created_at", moment(), nullable=False, server_default=now()),
        Column("expires_at", moment()),
        PrimaryKeyConstraint("kind", "key", name="dedupe_pkey"),
    )
    storage(metadata, table, "fillfactor = 90")
    return table
