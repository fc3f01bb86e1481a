"""The parts of imports from other stores."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, MetaData, PrimaryKeyConstraint, Table, text

from pgmem.admin.tables.columns import json, length_check, moment, name_column, now, storage
from pgmem.core.names import PART_BYTES


def imports(metadata: MetaData) -> Table:
    """Build the table of the parts of imports: each stores how far its source has been read."""
    table = Table(
        "imports",
        metadata,
        Column("source", name_column(), nullable=False),
        Column("part", name_column(), nullable=False),
        # The stream that the part fills, if no other part may fill it.
        Column("target", name_column()),
        # How far the source has been read, in the source's own notation.
        Column("cursor", name_column(), nullable=False),
        # Only the process that opened the part last makes its next step: the token tells.
        Column("token", name_column(), nullable=False),
        Column("step", BigInteger, nullable=False, server_default=text("0")),
        Column("done", BigInteger, nullable=False, server_default=text("0")),
        Column("refused", BigInteger, nullable=False, server_default=text("0")),
        Column("detail", json(), nullable=False, server_default=text("'{}'")),
        Column("created_at", moment(), nullable=False, server_default=now()),
        Column("updated_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("source", "part", name="imports_pkey"),
        length_check("imports", "source"),
        length_check("imports", "part", PART_BYTES),
        length_check("imports", "target"),
    )
    # Two parts that fill one stream would write its events twice, or mix up their order.
    Index("imports_target_key", table.c.target, unique=True)
    storage(metadata, table, "fillfactor = 50")
    return table
