"""Set the sequences above what the tables hold.

Logical replication, and tools that are built on it, copy rows and no sequences. Appends would land
below what readers have read, and fencing tokens would come twice.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection, text

from pgmem.admin.migrate import checked
from pgmem.core.names import DEFAULT_SCHEMA

_TOKEN_STEP: Final = 40
"""Tokens go on at the next multiple of 2^40: rows that held the latest ones may be gone."""

_IN_USE: Final = {
    "events_position_seq": """SELECT greatest(
        (SELECT max(position) FROM {schema}.events), (SELECT max(position) FROM {schema}.trimmed),
        (SELECT max(position) FROM {schema}.groups),
        (SELECT max(position) FROM {schema}.subscriptions))""",
    "batches_id_seq": "SELECT max(id) FROM {schema}.batches",
    "state_snapshots_id_seq": "SELECT max(id) FROM {schema}.state_snapshots",
    "dedupe_token_seq": "SELECT max(token) FROM {schema}.dedupe",
    "subscriptions_token_seq": "SELECT max(token) FROM {schema}.subscriptions",
    "batches_token_seq": "SELECT max(token) FROM {schema}.batches",
    "leases_token_seq": "SELECT max(token) FROM {schema}.leases",
}


class SequenceMove(NamedTuple):
    """A sequence that was behind its table.

    Attributes:
        name: the sequence.
        before: its last value.
        after: its last value now.
    """

    name: str
    before: int
    after: int


def sync_sequences(url: str | None = None, schema: str = DEFAULT_SCHEMA) -> list[SequenceMove]:
    """Set each sequence that is behind its table, after rows came by logical replication.

    Appends wait meanwhile.

    Args:
        url: the database; see `pgmem.core.url.connection_string`.
        schema: the schema.

    Returns:
        The sequences that were behind.

    Raises:
        SchemaError: the revision is not this library's.
        PgmemError: as `migrate.upgrade`.
    """
    with checked(url, schema) as connection:
        return _sync(connection, f'"{schema}"')


def _sync(connection: Connection, quoted: str) -> list[SequenceMove]:
    # Nothing is appended meanwhile.
    connection.execute(text(f"LOCK TABLE {quoted}.events IN SHARE ROW EXCLUSIVE MODE"))
    moved = []
    for name, query in _IN_USE.items():
        used = connection.execute(text(query.format(schema=quoted))).scalar_one() or 0
        sequence = {"name": f"{quoted}.{name}"}
        last = text(
            "SELECT coalesce(pg_catalog.pg_sequence_last_value(CAST(:name AS regclass)), 0)"
        )
        before = connection.execute(last, sequence).scalar_one()
        if before >= used:
            continue
        after = ((used >> _TOKEN_STEP) + 1) << _TOKEN_STEP if "token" in name else used
        setval = text("SELECT pg_catalog.setval(CAST(:name AS regclass), :value)")
        connection.execute(setval, {**sequence, "value": after})
        moved.append(SequenceMove(name, before, after))
    return moved
