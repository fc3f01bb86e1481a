"""The result of `memory.stats()`, for administrators of the database.

Dataclasses, because `dataclasses.asdict` makes them JSON. Times are the server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

R = TypeVar("R")

Hidden = Literal[
    "log", "state", "dedupe", "snapshots", "subscriptions", "groups", "leases", "policies"
]
"""A part of the statistics that a role may lack the right to read."""


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows.

    Attributes:
        value: the number.
        exact: False if it is an estimate, from a sample of a large table.
    """

    value: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class ServerStats:
    """The server and its durability.

    Attributes:
        version: the version of PostgreSQL.
        standby: True if it is a standby, which takes no writes and does not show open writers.
        revision: the revision of the schema.
        durability: the durability of the memory.
        synchronous_commit, fsync: the server's settings, on which "strict" relies.
        now: the server's time.
    """

    version: str
    standby: bool
    revision: str
    durability: Literal["strict", "relaxed"]
    synchronous_commit: str
    fsync: str
    now: datetime


@dataclass(frozen=True, slots=True)
class SessionStats:
    """The sessions, and the notification queue.

    Attributes:
        on_server: sessions of users in all databases.
        most: the limit of sessions (max_connections).
        in_database: sessions of users in this database.
        of_pgmem: those with the application_name "pgmem" or "pgmem listener". A URL may set another
            one.
        listening: those with the application_name "pgmem listener".
        queue_usage: the used part of the server's notification queue, 0.0 to 1.0.
    """

    on_server: int
    most: int
    in_database: int
    of_pgmem: int
    listening: int
    queue_usage: float


@dataclass(frozen=True, slots=True)
class OpenWriter:
    """An open transaction that has appended events. Readers do not pass its position.

    Attributes:
        pid: the process id of its session; None for a prepared transaction.
        name: the session's application_name, or the prepared transaction's identifier.
        role: its role.
        state: the session's state; None if hidden from the asking role, or prepared.
        since: when the transaction began or was prepared; None if hidden from the asking role.
    """

    pid: int | None
    name: str
    role: str
    state: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class LogStats:
    """The log.

    Attributes:
        head: the highest drawn position; on a standby it may be up to 32 too high.
        events: the number of events.
        last_minute, last_hour: the number of events of the last minute and hour.
        first, first_at: the oldest event above the last trim of the whole log; None if there is
            none.
        last, last_at: the newest event.
        trimmed_to: the highest position that a trim of the whole log removed; 0 for none.
        trimmed_streams: the number of streams that were trimmed one by one.
        trimmed_at: the time of the last trim.
        removed: the number of events that retention has removed so far.
    """

    head: int
    events: Count
    last_minute: Count
    last_hour: Count
    first: int | None
    first_at: datetime | None
    last: int | None
    last_at: datetime | None
    trimmed_to: int
    trimmed_streams: int
    trimmed_at: datetime | None
    removed: int


@dataclass(frozen=True, slots=True)
class StateStats:
    """The state.

    Attributes:
        entries: live entries.
        deleted: tombstones of deleted entries, which keep their versions.
        expired: rows of expired entries.
    """

    entries: Count
    deleted: Count
    expired: Count


@dataclass(frozen=True, slots=True)
class DedupeStats:
    """The idempotency keys.

    Attributes:
        keys: all keys.
        expired: keys that have expired and may be used again.
        overdue: claims that were not completed within their lease.
    """

    keys: Count
    expired: Count
    overdue: Count


@dataclass(frozen=True, slots=True)
class SnapshotStats:
    """The number of snapshots of the state and of folds."""

    states: Count
    folds: Count


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """A durable subscription.

    Attributes:
        name: its name.
        position: its stored position.
        distance: the distance to the head of the log, in positions. Its `lag`, in events, is in
            `memory.subscriptions.list()` or `group.lag()`, which count them.
        behind_since: when the first event after its position was recorded, selected by its filter
            or not; None if there is none.
        owner: its holder; None if it was released, or its lease has run out.
        expires_at: when another process may take over; None if it is free.
    """

    name: str
    position: int
    distance: int
    behind_since: datetime | None
    owner: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class GroupStats:
    """A consumer group.

    Attributes:
        name: its name.
        position: every event up to it was claimed, or is not selected by the filter.
        distance: the distance to the head of the log, in positions. Its `lag`, in events, is in
            `memory.subscriptions.list()` or `group.lag()`, which count them.
        behind_since: when the first event after its position was recorded; None if there is none.
        open: claimed and prefetched events that are not acknowledged.
        overdue: claimed events whose lease has run out.
        delayed: events to deliver again.
        dead: dead letters.
    """

    name: str
    position: int
    distance: int
    behind_since: datetime | None
    open: int
    overdue: int
    delayed: Count
    dead: Count


@dataclass(frozen=True, slots=True)
class Readers(Generic[R]):
    """The durable subscriptions or groups that are furthest behind.

    Attributes:
        total: the number of all of them.
        furthest: at most a hundred of them, the one furthest behind first.
    """

    total: int
    furthest: tuple[R, ...]


@dataclass(frozen=True, slots=True)
class LeaseStats:
    """The named leases.

    Attributes:
        held: leases with a holder.
        waiters: calls that wait for one.
    """

    held: int
    waiters: int


@dataclass(frozen=True, slots=True)
class PolicyStats:
    """A policy of retention.

    Attributes:
        kind: "events", "folds" or "snapshots".
        name: the stream, the fold or the name of snapshots; None for all.
        max_count: how many of the newest are kept; None for any number.
        max_age: seconds after which one is removed; None for any age.
    """

    kind: str
    name: str | None
    max_count: int | None
    max_age: float | None


@dataclass(frozen=True, slots=True)
class TableStats:
    """A table of the schema.

    Attributes:
        name: its name.
        table_bytes: its size, with its TOAST table.
        index_bytes: the size of its indexes.
        dead_rows: rows for vacuum to remove, by the server's statistics.
        vacuumed_at: when autovacuum last ran on it; None if never, or if the statistics were reset.
    """

    name: str
    table_bytes: int
    index_bytes: int
    dead_rows: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics of a memory. Parts that the role may not read are None, and in `hidden`.

    The parts are read one after the other, so they are not of one moment.
    """

    schema: str
    server: ServerStats
    sessions: SessionStats
    writers: tuple[OpenWriter, ...]
    tables: tuple[TableStats, ...]
    log: LogStats | None
    state: StateStats | None
    dedupe: DedupeStats | None
    snapshots: SnapshotStats | None
    subscriptions: Readers[SubscriptionStats] | None
    groups: Readers[GroupStats] | None
    leases: LeaseStats | None
    policies: tuple[PolicyStats, ...] | None
    hidden: tuple[Hidden, ...]
