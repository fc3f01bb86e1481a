"""What `memory.stats()` tells: how the memory stands, for whoever runs the database.

Dataclasses, because they are made once in a while and `dataclasses.asdict` makes JSON of them.
Times are the server's. This module knows nothing of SQL or connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

R = TypeVar("R")

Hidden = Literal["log", "state", "dedupe", "snapshots", "consumers", "groups", "leases", "policies"]
"""A part of the statistics that a role may be refused."""


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows.

    Attributes:
        value: how many.
        exact: False if it is an estimate, from a sample of a large table.
    """

    value: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class ServerStats:
    """The server, and how safely it keeps what is written.

    Attributes:
        version: of PostgreSQL.
        standby: it is one: it takes no writes, and who writes is not seen from here.
        revision: of the schema.
        durability: of the memory that was asked.
        synchronous_commit, fsync: the server's settings: what "strict" rests on.
        now: its time.
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
    """Who is connected, and whether the doorbell's queue is emptied.

    Attributes:
        on_server: sessions of users in all databases.
        most: so many the server takes (max_connections).
        in_database: those in this database.
        of_pgmem: those of them that call themselves "pgmem" (or "pgmem listener"): all, but where
            a URL sets another application_name.
        listening: those that call themselves "pgmem listener".
        queue_usage: how full the notification queue of the server is: 0.0 to 1.0.
    """

    on_server: int
    most: int
    in_database: int
    of_pgmem: int
    listening: int
    queue_usage: float


@dataclass(frozen=True, slots=True)
class OpenWriter:
    """A transaction that has appended events and is still open: readers wait behind it.

    Attributes:
        pid: its session; None for a prepared transaction.
        name: the session's application_name, or the prepared transaction's identifier.
        role: whose it is.
        state: what the session does; None if the role that asks may not know, or it is prepared.
        since: when the transaction began (or was prepared); None if the role may not know.
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
        head: the highest position drawn; seen from a standby, up to 32 more.
        events: how many it holds.
        last_minute, last_hour: how many of them are so new.
        first, first_at: the oldest event above what was trimmed of the whole log; None if there
            is none.
        last, last_at: the newest one.
        trimmed_to: up to where retention has trimmed the whole log; 0 if never.
        trimmed_streams: how many streams it has trimmed by themselves.
        trimmed_at: when it last removed something.
        removed: how many events it has removed so far.
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
    """The latest state.

    Attributes:
        entries: those that there are.
        deleted: rows of deleted entries, kept for their versions.
        expired: rows of entries whose time is over.
    """

    entries: Count
    deleted: Count
    expired: Count


@dataclass(frozen=True, slots=True)
class DedupeStats:
    """The idempotency keys.

    Attributes:
        keys: all of them.
        expired: those that count as unused again.
        overdue: work that was claimed and not completed within its lease.
    """

    keys: Count
    expired: Count
    overdue: Count


@dataclass(frozen=True, slots=True)
class SnapshotStats:
    """Copies of the whole state, and kept values of folds."""

    states: Count
    folds: Count


@dataclass(frozen=True, slots=True)
class ConsumerStats:
    """A stored position in the log.

    Attributes:
        name: its name.
        position: every event up to it is done.
        lag: how far the head of the log is from it, in positions.
        behind_since: when the first event after it was recorded, whether it follows it or not;
            None if there is none.
        owner: who holds it, or held it last without giving it back.
        lease_until: when others may take over; None if it was given back.
    """

    name: str
    position: int
    lag: int
    behind_since: datetime | None
    owner: str | None
    lease_until: datetime | None


@dataclass(frozen=True, slots=True)
class GroupStats:
    """A consumer group.

    Attributes:
        name: its name.
        position: every event up to it was handed out, or is not wanted.
        lag: how far the head of the log is from it, in positions.
        behind_since: when the first event after it was recorded; None if there is none.
        open: deliveries that are not acknowledged.
        overdue: those of them whose lease has run out.
        parked: events to be handed out again.
        dead: dead letters.
    """

    name: str
    position: int
    lag: int
    behind_since: datetime | None
    open: int
    overdue: int
    parked: Count
    dead: Count


@dataclass(frozen=True, slots=True)
class Readers(Generic[R]):
    """The stored consumers, or the groups: those that are furthest behind.

    Attributes:
        total: how many there are.
        furthest: at most a hundred of them, the one that is furthest behind first.
    """

    total: int
    furthest: tuple[R, ...]


@dataclass(frozen=True, slots=True)
class LeaseStats:
    """The named leases.

    Attributes:
        held: those that somebody holds.
        waiters: how many wait for one.
    """

    held: int
    waiters: int


@dataclass(frozen=True, slots=True)
class PolicyStats:
    """A rule of retention.

    Attributes:
        kind: of "events", "folds" or "snapshots".
        name: of one stream, fold or name of snapshots; None for all.
        max_count: so many are kept; None for any number.
        max_age: what is older than so many seconds goes; None for any age.
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
        table_bytes: its size, with what is stored beside its rows.
        index_bytes: the size of its indexes.
        dead_rows: rows that vacuum is to remove: what the server's statistics know of.
        vacuumed_at: when autovacuum was last there; None if never (or before the statistics were
            reset).
    """

    name: str
    table_bytes: int
    index_bytes: int
    dead_rows: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Stats:
    """How the memory stands. What the role may not see is None, and named in `hidden`.

    Its parts are read one after the other, so they are not of one moment.
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
    consumers: Readers[ConsumerStats] | None
    groups: Readers[GroupStats] | None
    leases: LeaseStats | None
    policies: tuple[PolicyStats, ...] | None
    hidden: tuple[Hidden, ...]
