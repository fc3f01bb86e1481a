"""What is brought in from other stores, and how far. Not public."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, MetaData, PrimaryKeyConstraint, Table, text

from pgmem.admin.tables.pieces import after, json, length_check, moment, name_column, now
from pgmem.core.names import PART_BYTES


def imports(metadata: MetaData) -> Table:
    """The parts of imports: each remembers how far its source has been read."""
    table = Table(
        "imports",
        metadata,
        Column("source", name_column(), nullable=False),
        Column("part", name_column(), nullable=False),
        # Where the part goes, if nothing else may go there: a stream of the log.
        Column("target", name_column()),
        # How far the source has been read, in the source's own words.
        Column("cursor", name_column(), nullable=False),
        # Who opened the part last, and how many steps it has made: only that one makes the next.
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
    # Two parts that went to one stream would write its events twice, or mix up their order.
    Index("imports_target_key", table.c.target, unique=True)
    # As the consumers: few rows that change all the time.
    after(table, f'ALTER TABLE "{metadata.schema}".imports SET (fillfactor = 50)')
    return table
