"""Work shared out: groups, leases, limits, and the rules of retention. Not public."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
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

from pgmem.admin.tables.pieces import after, json, length_check, moment, name_column, now
from pgmem.core.names import STREAM_BYTES

_PRUNED_OFTEN = "autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000"


def groups(metadata: MetaData) -> Table:
    """Consumer groups: a selection, and a position that every claim moves."""
    table = Table(
        "groups",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("selection", json(), nullable=False),
        # "stream", or a key of the payload: events that agree in it are handed out in order.
        Column("ordered_by", name_column()),
        Column("max_attempts", Integer, nullable=False),
        # Everything up to it has been handed out, or is not wanted.
        Column("position", BigInteger, nullable=False),
        Column("system_identifier", BigInteger, nullable=False),
        Column("timeline", Integer, nullable=False),
        Column("created_at", moment(), nullable=False, server_default=now()),
        # What retention had removed by then is known to it.
        Column("begun_at", moment(), nullable=False, server_default=now()),
        Column("updated_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("name", name="groups_pkey"),
        # No checks, here and in `deliveries`: the server reads and compiles their text anew in each
        # statement that writes a row, a tenth of what a claim costs. `open` checks what is given.
    )
    after(table, f'ALTER TABLE "{metadata.schema}".groups SET (fillfactor = 50)')
    return table


def deliveries(metadata: MetaData) -> Table:
    """What members hold. A row is a slot for one batch, emptied and filled again."""
    token = Sequence("deliveries_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "deliveries",
        metadata,
        Column("group_name", name_column(), nullable=False),
        Column("slot", BigInteger, Identity(always=False, cache=1), nullable=False),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        Column("consumer", name_column()),
        Column("lease_until", moment()),
        Column("positions", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
        # How often each was handed out; NULL: all of them once.
        Column("attempts", ARRAY(Integer)),
        # What each is ordered by, in a group that orders.
        Column("keys", ARRAY(name_column())),
        Column("handed_at", moment()),
        # What its member gets next; nobody has it yet. See `pgmem.groups.prefetch_ops`.
        Column("reserved", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
        PrimaryKeyConstraint("group_name", "slot", name="deliveries_pkey"),
    )
    # No index over what changes, and room on the page: updates are HOT, and no dead row outlives
    # the next visit of its page. MAIN: compressed within the row, for a row beside the table
    # would be a dead one after each batch.
    after(
        table, f'ALTER TABLE "{metadata.schema}".deliveries SET (fillfactor = 40, {_PRUNED_OFTEN})'
    )
    for column in ("positions", "attempts", "keys", "reserved"):
        after(
            table,
            f'ALTER TABLE "{metadata.schema}".deliveries ALTER COLUMN {column} SET STORAGE MAIN',
        )
    return table


def parked(metadata: MetaData) -> Table:
    """Events to be handed out again, or that wait for an earlier one of their key."""
    table = Table(
        "parked",
        metadata,
        Column("group_name", name_column(), nullable=False),
        Column("position", BigInteger, nullable=False, autoincrement=False),
        Column("key", name_column()),
        Column("attempts", Integer, nullable=False),
        Column("available_at", moment(), nullable=False),
        Column("error", Text),
        PrimaryKeyConstraint("group_name", "position", name="parked_pkey"),
    )
    Index("parked_available_idx", table.c.group_name, table.c.available_at)
    after(table, f'ALTER TABLE "{metadata.schema}".parked SET ({_PRUNED_OFTEN})')
    return table


def dead_letters(metadata: MetaData) -> Table:
    """Events that a group has given up, with the last error."""
    return Table(
        "dead_letters",
        metadata,
        Column("group_name", name_column(), nullable=False),
        Column("position", BigInteger, nullable=False, autoincrement=False),
        Column("key", name_column()),
        Column("attempts", Integer, nullable=False),
        Column("consumer", name_column()),
        Column("error", Text),
        Column("buried_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("group_name", "position", name="dead_letters_pkey"),
    )


def leases(metadata: MetaData) -> Table:
    """Named leases that are held or ran out, each with the queue of those who wait for it."""
    token = Sequence("leases_token_seq", metadata=metadata, schema=metadata.schema)
    table = Table(
        "leases",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("token", BigInteger, nullable=False, server_default=token.next_value()),
        # Whose it is, as a number that nobody else has; NULL: given back, and a transaction of the
        # holder's is still open. `holder` is for people.
        Column("owner", name_column()),
        Column("holder", name_column()),
        Column("expires_at", moment()),
        # In the row itself: who changes it under its lock sees the newest queue, which a second
        # table would not give in one statement.
        Column("waiters", JSONB, nullable=False, server_default=text("'[]'")),
        Column("acquired_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("name", name="leases_pkey"),
        length_check("leases", "name"),
    )
    after(table, _updated_in_place(metadata, "leases"))
    return table


def limits(metadata: MetaData) -> Table:
    """Rate limits: the theoretical arrival time of each (GCRA)."""
    table = Table(
        "limits",
        metadata,
        Column("name", name_column(), nullable=False),
        Column("arrival", moment(), nullable=False),
        PrimaryKeyConstraint("name", name="limits_pkey"),
        length_check("limits", "name"),
    )
    after(table, _updated_in_place(metadata, "limits"))
    return table


def _updated_in_place(metadata: MetaData, table: str) -> str:
    return (
        f'ALTER TABLE "{metadata.schema}".{table} '
        "SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)"
    )


def policies(metadata: MetaData) -> Table:
    """What is kept: of one stream, fold or kind of snapshot, or ('') of all."""
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
