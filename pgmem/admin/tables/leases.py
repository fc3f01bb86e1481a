"""Named leases and rate limits."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, MetaData, PrimaryKeyConstraint, Sequence, Table, text
from sqlalchemy.dialects.postgresql import JSONB

from pgmem.admin.tables.columns import moment, name_column, now, storage

_UPDATED_IN_PLACE: Final = "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05"


def leases(metadata: MetaData) -> Table:
    """Build the table of leases that are held or expired, each with its queue of waiters."""
    token = Sequence("leases_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "leases",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        # The random id of the holder's acquisition. NULL: released while a transaction with a
        # fenced write was open.
        Column("owner_id", name_column()),
        # The holder, for people.
        Column("owner", name_column()),
        Column("expires_at", moment()),
        # A column, not a table: a statement that waited for the row's lock sees the newest queue,
        # which it would not see in a second table.
        Column("waiters", JSONB, nullable=False, server_default=text("'[]'")),
        Column("acquired_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("name", name="leases_pkey"),
    )
    storage(metadata, table, _UPDATED_IN_PLACE)
    return table


def limits(metadata: MetaData) -> Table:
    """Build the table of rate limits: the theoretical arrival time of each (GCRA)."""
    table = Table(
        "limits",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("arrival", moment(), nullable=False),
        PrimaryKeyConstraint("name", name="limits_pkey"),
    )
    storage(metadata, table, _UPDATED_IN_PLACE)
    return table
