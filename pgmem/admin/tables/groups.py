"""Consumer groups, and what is open in them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from pgmem.admin.tables.columns import after_create, json, moment, name_column, now, storage

_VACUUM_EARLY = "autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000"


def groups(metadata: MetaData) -> Table:
    """Build the table of groups: a filter, and a position that every claim moves."""
    table = Table(
        "groups",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("filter", json(), nullable=False),
        # "stream", or a key of the payload: events that agree in it are delivered in order.
        Column("ordered_by", name_column()),
        Column("max_attempts", Integer, nullable=False),
        # How failed events are delivered again; NULL: the default.
        Column("retry", json()),
        # Grows with each `alter`, so that members notice it at their next claim.
        Column("revision", Integer, nullable=False, server_default=text("0")),
        # Every event up to it was claimed, or is not selected by the filter.
        Column("position", BigInteger, nullable=False),
        Column("system_identifier", BigInteger, nullable=False),
        Column("timeline", Integer, nullable=False),
        Column("created_at", moment(), nullable=False, server_default=now()),
        # Trims before this moment are known to the group.
        Column("started_at", moment(), nullable=False, server_default=now()),
        Column("updated_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("name", name="groups_pkey"),
    )
    storage(metadata, table, "fillfactor = 50")
    return table


def batches(metadata: MetaData) -> Table:
    """Build the table of claimed batches. A row is emptied and filled again."""
    token = Sequence("batches_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "batches",
        metadata,
        Column("group_name", name_column(), nullable=False),
        Column("id", BigInteger, Identity(always=False, cache=1), nullable=False),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("member", name_column()),
        Column("expires_at", moment()),
        Column("positions", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
        # How often each event was delivered; NULL: all of them once.
        Column("attempts", ARRAY(Integer)),
        # The ordering key of each event, in an ordered group.
        Column("keys", ARRAY(name_column())),
        Column("claimed_at", moment()),
        # The member's next events, which are not claimed yet. See `pgmem.groups.prefetch_ops`.
        Column("prefetched", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
        # The failed attempts of each event; NULL: none of them has failed.
        Column("failures", ARRAY(JSONB)),
        # How often members lost the event, which is then alone in its batch, without an attempt.
        Column("losses", Integer, nullable=False, server_default=text("0")),
        # The number that the member drew for the claim, to find it again if the answer is lost.
        Column("claim", BigInteger),
        # True if the member handles one event at a time, so that a lost lease is that event's.
        Column("alone", Boolean, nullable=False, server_default=text("false")),
        PrimaryKeyConstraint("group_name", "id", name="batches_pkey"),
    )
    # No index over a column that changes, and room on the page: updates are HOT, and a dead row is
    # pruned at the next visit of its page. MAIN: compressed within the row, because each batch in
    # a TOAST table would leave a dead row there.
    storage(metadata, table, f"fillfactor = 40, {_VACUUM_EARLY}")
    for column in ("positions", "attempts", "keys", "prefetched", "failures"):
        after_create(
            table,
            f'ALTER TABLE "{metadata.schema}".batches ALTER COLUMN {column} SET STORAGE MAIN',
        )
    return table


def delayed(metadata: MetaData) -> Table:
    """Build the table of events to deliver again, or that wait for an earlier one of their key."""
    table = Table(
        "delayed",
        metadata,
        Column("group_name", name_column(), nullable=False),
        Column("position", BigInteger, nullable=False, autoincrement=False),
        Column("key", name_column()),
        Column("attempts", Integer, nullable=False),
        Column("available_at", moment(), nullable=False),
        Column("error", Text),
        Column("losses", Integer, nullable=False, server_default=text("0")),
        Column("failures", JSONB(none_as_null=True)),
        PrimaryKeyConstraint("group_name", "position", name="delayed_pkey"),
    )
    Index("delayed_available_idx", table.c.group_name, table.c.available_at)
    storage(metadata, table, _VACUUM_EARLY)
    return table


def dead_letters(metadata: MetaData) -> Table:
    """Build the table of events that a group has given up, with the last error."""
    return Table(
        "dead_letters",
        metadata,
        Column("group_name", name_column(), nullable=False),
        Column("position", BigInteger, nullable=False, autoincrement=False),
        Column("key", name_column()),
        Column("attempts", Integer, nullable=False),
        Column("member", name_column()),
        Column("error", Text),
        Column("failed_at", moment(), nullable=False, server_default=now()),
        Column("failures", JSONB(none_as_null=True)),
        PrimaryKeyConstraint("group_name", "position", name="dead_letters_pkey"),
    )
