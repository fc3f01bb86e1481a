"""Following the log: stored consumers, and what retention removed. Not public."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    text,
)

from pgmem.admin.tables.pieces import after, json, length_check, moment, name_column, now, since
from pgmem.core.names import STREAM_BYTES


def consumers(metadata: MetaData) -> Table:
    token = Sequence("consumers_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "consumers",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("selection", json(), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("owner", name_column()),
        Column("lease_until", moment()),
        # The history that the position was made in: the server and its timeline.
        Column("system_identifier", BigInteger, nullable=False),
        Column("timeline", Integer, nullable=False),
        Column("created_at", moment(), nullable=False, server_default=now()),
        Column("updated_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("name", name="consumers_pkey"),
        length_check("consumers", "name"),
        CheckConstraint("position >= 0", name="consumers_position_positive"),
    )
    # Few rows that change all the time: half of each page is room for HOT updates.
    after(table, f'ALTER TABLE "{metadata.schema}".consumers SET (fillfactor = 50)')
    return table


def trimmed(metadata: MetaData) -> Table:
    # Up to which position retention has removed events: of one stream, or ('') of the whole log.
    return Table(
        "trimmed",
        metadata,
        Column("stream", name_column(), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("trimmed_at", moment(), nullable=False, server_default=now()),
        Column("removed", BigInteger, nullable=False, server_default=text("0"), info=since("0003")),
        PrimaryKeyConstraint("stream", name="trimmed_pkey"),
        CheckConstraint(f"octet_length(stream) <= {STREAM_BYTES}", name="trimmed_stream_length"),
        CheckConstraint("position > 0", name="trimmed_position_positive"),
    )
