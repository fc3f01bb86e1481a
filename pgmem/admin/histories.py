"""Show the histories that the log has had, and accept the present one for stored positions.

A promotion needs none of it. It is for another cluster: after pg_upgrade, a restored dump, or a
move by logical replication the rows are the same, and the identity of the cluster is new.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from pgmem.admin.migrate import checked
from pgmem.core.history import History
from pgmem.core.names import DEFAULT_SCHEMA
from pgmem.errors import Conflict


class EpochInfo(NamedTuple):
    """A timeline that the log has been on.

    Attributes:
        history: the cluster and the timeline.
        fork: the WAL position at which it forked off; None if that is not known.
        head: the highest position that was drawn when it began.
        token_floor: its fencing tokens are above it.
        began_at: when the first session found it.
    """

    history: History
    fork: int | None
    head: int
    token_floor: int
    began_at: datetime


class StoredPosition(NamedTuple):
    """The position of a durable subscription or group that belongs to another history.

    Attributes:
        kind: "subscription" or "group".
        name: its name.
        position: its position.
        history: the history that it belongs to.
    """

    kind: str
    name: str
    position: int
    history: History


class HistoryReport(NamedTuple):
    """The histories of a schema.

    Attributes:
        present: the history that the server has now.
        epochs: the timelines that sessions have found, the newest last.
        foreign: stored positions of other histories.
        problems: what speaks against going on with them, one sentence each.
    """

    present: History
    epochs: tuple[EpochInfo, ...]
    foreign: tuple[StoredPosition, ...]
    problems: tuple[str, ...]


_PRESENT: Final = """
SELECT system_identifier,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
FROM pg_control_system()"""

_EPOCHS: Final = """
SELECT system_identifier, timeline, fork_lsn, head, token_floor, began_at
FROM {schema}.epochs ORDER BY began_at, timeline"""

_STORED: Final = """
SELECT 'subscription', name, position, system_identifier, timeline FROM {schema}.subscriptions
UNION ALL
SELECT 'group', name, position, system_identifier, timeline FROM {schema}.groups
ORDER BY 1, 2"""

_PROBLEMS: Final = {
    "the sequence of positions is at {0}, the log has {1}: run `pgmem migrate sync-sequences`": """
        SELECT last, used FROM (
            SELECT coalesce(pg_sequence_last_value('{schema}.events_position_seq'), 0) AS last,
                   (SELECT max(position) FROM {schema}.events) AS used
        ) AS found WHERE used > last""",
    "the {0} {1!r} is at position {2}, and the last one that was drawn is {3}": """
        SELECT kind, name, position, last FROM (
            SELECT 'subscription' AS kind, name, position FROM {schema}.subscriptions
            UNION ALL SELECT 'group', name, position FROM {schema}.groups
        ) AS stored, (
            SELECT coalesce(pg_sequence_last_value('{schema}.events_position_seq'), 0) AS last
        ) AS drawn WHERE position > last""",
    "the group {0!r} has an open event at position {1}, which is not in the log": """
        SELECT opened.group_name, opened.position FROM (
            SELECT group_name, unnest(positions) AS position FROM {schema}.batches
            UNION ALL SELECT group_name, position FROM {schema}.delayed
        ) AS opened
        WHERE NOT EXISTS (SELECT FROM {schema}.events WHERE position = opened.position)
          AND opened.position > coalesce((SELECT max(position) FROM {schema}.trimmed), 0)
        ORDER BY 1, 2 LIMIT 10""",
}

_STAMP: Final = (
    """
UPDATE {schema}.subscriptions
SET system_identifier = :cluster, timeline = :timeline, owner = NULL, expires_at = NULL,
    token = nextval('{schema}.subscriptions_token_seq')
WHERE name = :name""",
    """
UPDATE {schema}.groups SET system_identifier = :cluster, timeline = :timeline WHERE name = :name""",
)


def show(url: str | None = None, schema: str = DEFAULT_SCHEMA) -> HistoryReport:
    """Return the histories of a schema, and the stored positions that belong to another one.

    Raises:
        SchemaError: the revision is not this library's.
        PgmemError: as `migrate.upgrade`.
    """
    with checked(url, schema) as connection:
        return _report(connection, f'"{schema}"')


def accept(
    url: str | None = None,
    schema: str = DEFAULT_SCHEMA,
    *,
    from_cluster: int | None = None,
    dry_run: bool = False,
) -> tuple[StoredPosition, ...]:
    """Let stored positions of other histories go on in the present one, at the same position.

    Subscriptions and groups of an earlier timeline of this cluster are accepted, and those of one
    other cluster if it is given. What is open or delayed in a group stays.

    Args:
        url: the database; see `pgmem.core.url.connection_string`.
        schema: the schema.
        from_cluster: the system identifier of the cluster that the rows came from.
        dry_run: change nothing.

    Returns:
        What was accepted.

    Raises:
        Conflict: the positions and the log do not fit. Nothing was changed.
        SchemaError: the revision is not this library's.
        PgmemError: as `migrate.upgrade`.
    """
    quoted = f'"{schema}"'
    with checked(url, schema) as connection:
        connection.execute(text(f"SELECT {quoted}.begin_epoch()"))
        report = _report(connection, quoted)
        if report.problems:
            raise Conflict(f"accept the present history: {'; '.join(report.problems)}")
        accepted = tuple(
            stored
            for stored in report.foreign
            if stored.history.leads_to(report.present)
            or stored.history.system_identifier == from_cluster
        )
        for stored in () if dry_run else accepted:
            statement = _STAMP[stored.kind == "group"].format(schema=quoted)
            cluster, timeline = report.present
            params = {"cluster": cluster, "timeline": timeline, "name": stored.name}
            connection.execute(text(statement), params)
        return accepted


def _report(connection: Connection, quoted: str) -> HistoryReport:
    def rows(query: str) -> list[Any]:
        statement = query.format(schema=quoted).replace("::", r"\:\:")
        return [tuple(row) for row in connection.execute(text(statement))]

    present = History(*rows(_PRESENT)[0])
    stored = [
        StoredPosition(kind, name, position, History(*history))
        for kind, name, position, *history in rows(_STORED)
    ]
    return HistoryReport(
        present,
        tuple(EpochInfo(History(*row[:2]), *row[2:]) for row in rows(_EPOCHS)),
        tuple(one for one in stored if one.history != present),
        tuple(
            sentence.format(*row) for sentence, query in _PROBLEMS.items() for row in rows(query)
        ),
    )
