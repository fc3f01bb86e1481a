"""The statements of the statistics. Their cost does not grow with the memory.

Each part is a statement of its own, because a role that may not read one table is refused the whole
statement. No part scans a large table. Rows are counted in a sample of its pages, or in all of them
if the table is small; then the number is exact. Everything else is found by an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pgmem.admin.stats_models import (
    Count,
    DedupeStats,
    GroupStats,
    LeaseStats,
    LogStats,
    OpenWriter,
    PolicyStats,
    Readers,
    ServerStats,
    SessionStats,
    SnapshotStats,
    StateStats,
    SubscriptionStats,
    TableStats,
)
from pgmem.core.op import Op, Row

SAMPLE_PAGES = 1_000
"""Pages of a table in which its rows are counted: 8 MB."""

MOST_COUNTED = 50_000
"""Positions of the log in which its events are counted: all of them if there are no more. Otherwise
as many in a hundred parts at even distances, which costs the same if most events were removed."""

MOST_DELAYED = 10_000
MOST_READERS = 100
MOST_WRITERS = 10


class Tables(NamedTuple):
    """The tables, and the number of pages of each."""

    tables: tuple[TableStats, ...]
    pages: Mapping[str, int]


def _share(pages: int) -> float:
    """Return the share of a table's pages to read, in per cent."""
    return min(100.0, 100.0 * SAMPLE_PAGES / max(1, pages))


def _counts(found: Sequence[int], share: float) -> list[Count]:
    """Extrapolate numbers from a share of a table to all of it."""
    if share == 100.0:
        return [Count(number) for number in found]
    return [Count(round(number * 100.0 / share), exact=False) for number in found]


def server(durability: Literal["strict", "relaxed"]) -> Op[ServerStats]:
    """Read the server's settings."""

    def parse(rows: Sequence[Row]) -> ServerStats:
        version, standby, revision, commit, fsync, now = rows[0]
        return ServerStats(version, standby, revision, durability, commit, fsync, now)

    return Op("stats_server", {}, parse, "read the server's settings")


def sessions() -> Op[SessionStats]:
    """Count the sessions."""
    return Op("stats_sessions", {}, lambda rows: SessionStats(*rows[0]), "count the sessions")


def writers() -> Op[tuple[OpenWriter, ...]]:
    """List the open transactions that have appended events."""
    return Op(
        "stats_writers",
        {"most": MOST_WRITERS},
        lambda rows: tuple(OpenWriter(*row) for row in rows),
        "list the open writers",
    )


def tables() -> Op[Tables]:
    """Read the sizes of the tables."""

    def parse(rows: Sequence[Row]) -> Tables:
        return Tables(
            tuple(TableStats(row[0], *row[2:]) for row in rows), {row[0]: row[1] for row in rows}
        )

    return Op("stats_tables", {}, parse, "read the sizes of the tables", bounded=False)


def log() -> Op[LogStats]:
    """Read the ends of the log, and count its events."""

    def parse(rows: Sequence[Row]) -> LogStats:
        head, first, first_at, last, last_at, *trimmed, counted = rows[0]

        def count(*parts: str) -> Count:
            found = [counted.get(part, (0, None)) for part in parts]
            value = sum(exact or estimate or 0 for exact, estimate in found)
            return Count(value, exact=all(estimate is None for _, estimate in found))

        return LogStats(
            head,
            count("kept", "all"),
            count("minute"),
            count("hour"),
            first,
            first_at,
            last,
            last_at,
            *trimmed,
        )

    return Op("stats_log", {"most": MOST_COUNTED}, parse, "count the events", bounded=False)


def state(pages: Mapping[str, int]) -> Op[StateStats]:
    """Count the state entries."""
    share = _share(pages["state"])
    return Op(
        "stats_state",
        {"share": share},
        lambda rows: StateStats(*_counts(rows[0], share)),
        "count the state entries",
        bounded=False,
    )


def dedupe(pages: Mapping[str, int]) -> Op[DedupeStats]:
    """Count the idempotency keys."""
    share = _share(pages["dedupe"])
    return Op(
        "stats_dedupe",
        {"share": share},
        lambda rows: DedupeStats(*_counts(rows[0], share)),
        "count the idempotency keys",
        bounded=False,
    )


def snapshots(pages: Mapping[str, int]) -> Op[SnapshotStats]:
    """Count the snapshots."""
    states, folds = _share(pages["state_snapshots"]), _share(pages["fold_snapshots"])

    def parse(rows: Sequence[Row]) -> SnapshotStats:
        return SnapshotStats(*_counts(rows[0][:1], states), *_counts(rows[0][1:], folds))

    return Op(
        "stats_snapshots",
        {"states": states, "folds": folds},
        parse,
        "count the snapshots",
        bounded=False,
    )


def subscriptions() -> Op[Readers[SubscriptionStats]]:
    """List the durable subscriptions that are furthest behind."""
    return Op(
        "stats_subscriptions",
        {"most": MOST_READERS},
        lambda rows: Readers(
            rows[0][0] if rows else 0, tuple(SubscriptionStats(*row[1:]) for row in rows)
        ),
        "list the subscriptions",
        bounded=False,
    )


def groups() -> Op[Readers[GroupStats]]:
    """List the groups that are furthest behind."""

    def count(number: int) -> Count:
        return Count(number, exact=number <= MOST_DELAYED)

    def group(row: Row) -> GroupStats:
        name, position, distance, since, held, overdue, delayed, dead = row[1:]
        return GroupStats(
            name, position, distance, since, held, overdue, count(delayed), count(dead)
        )

    def parse(rows: Sequence[Row]) -> Readers[GroupStats]:
        return Readers(rows[0][0] if rows else 0, tuple(map(group, rows)))

    return Op(
        "stats_groups",
        {"most": MOST_READERS, "counted": MOST_DELAYED + 1},
        parse,
        "list the groups",
        bounded=False,
    )


def leases() -> Op[LeaseStats]:
    """Count the leases and their waiters."""
    return Op("stats_leases", {}, lambda rows: LeaseStats(*rows[0]), "count the leases")


def policies() -> Op[tuple[PolicyStats, ...]]:
    """List the policies of retention."""
    return Op(
        "stats_policies",
        {},
        lambda rows: tuple(PolicyStats(*row) for row in rows),
        "list the policies",
    )
