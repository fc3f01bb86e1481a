"""Statistics: how the memory stands, at a cost that does not grow with it.

Says what to run for each part; `pgmem.admin.stats` runs it. A part is a statement of its own,
because a role that may not read one table is refused the whole of a statement.

No part scans a large table. Rows are counted in a sample of the table: in all of it if it is small,
and then the number is exact. What is read beside them is found by an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pgmem.admin.stats_models import (
    ConsumerStats,
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
    TableStats,
)
from pgmem.core.op import Op, Row

SAMPLE_PAGES = 1_000
"""8 MB: so much of a table is looked through to count its rows."""

MOST_COUNTED = 50_000
"""So many positions of the log are looked at to count its events: all of them if there are no more.
Else as many in a hundred even parts, which costs the same also where most were removed."""

MOST_PARKED = 10_000
MOST_READERS = 100
MOST_WRITERS = 10


class Tables(NamedTuple):
    """The tables, and how many pages each has."""

    tables: tuple[TableStats, ...]
    pages: Mapping[str, int]


def _share(pages: int) -> float:
    """How many per cent of a table's pages to read."""
    return min(100.0, 100.0 * SAMPLE_PAGES / max(1, pages))


def _counts(found: Sequence[int], share: float) -> list[Count]:
    """What was counted in a share of a table, as of the whole."""
    if share == 100.0:
        return [Count(number) for number in found]
    return [Count(round(number * 100.0 / share), exact=False) for number in found]


def server(durability: Literal["strict", "relaxed"]) -> Op[ServerStats]:
    """The server."""

    def parse(rows: Sequence[Row]) -> ServerStats:
        version, standby, revision, commit, fsync, now = rows[0]
        return ServerStats(version, standby, revision, durability, commit, fsync, now)

    return Op("stats_server", {}, parse, "read the server's settings")


def sessions() -> Op[SessionStats]:
    """Who is connected."""
    return Op("stats_sessions", {}, lambda rows: SessionStats(*rows[0]), "count the sessions")


def writers() -> Op[tuple[OpenWriter, ...]]:
    """Who has appended and not committed yet."""
    return Op(
        "stats_writers",
        {"most": MOST_WRITERS},
        lambda rows: tuple(OpenWriter(*row) for row in rows),
        "see which transactions hold readers back",
    )


def tables() -> Op[Tables]:
    """The tables of the schema."""

    def parse(rows: Sequence[Row]) -> Tables:
        return Tables(
            tuple(TableStats(row[0], *row[2:]) for row in rows), {row[0]: row[1] for row in rows}
        )

    return Op("stats_tables", {}, parse, "read the sizes of the tables", bounded=False)


def log() -> Op[LogStats]:
    """The log."""

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

    return Op("stats_log", {"most": MOST_COUNTED}, parse, "see how the log stands", bounded=False)


def state(pages: Mapping[str, int]) -> Op[StateStats]:
    """The latest state."""
    share = _share(pages["state"])
    return Op(
        "stats_state",
        {"share": share},
        lambda rows: StateStats(*_counts(rows[0], share)),
        "count the state entries",
        bounded=False,
    )


def dedupe(pages: Mapping[str, int]) -> Op[DedupeStats]:
    """The idempotency keys."""
    share = _share(pages["dedupe"])
    return Op(
        "stats_dedupe",
        {"share": share},
        lambda rows: DedupeStats(*_counts(rows[0], share)),
        "count the idempotency keys",
        bounded=False,
    )


def snapshots(pages: Mapping[str, int]) -> Op[SnapshotStats]:
    """The snapshots."""
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


def consumers() -> Op[Readers[ConsumerStats]]:
    """The stored consumers."""
    return Op(
        "stats_consumers",
        {"most": MOST_READERS},
        lambda rows: Readers(
            rows[0][0] if rows else 0, tuple(ConsumerStats(*row[1:]) for row in rows)
        ),
        "see how far the consumers are behind",
        bounded=False,
    )


def groups() -> Op[Readers[GroupStats]]:
    """The consumer groups."""

    def count(number: int) -> Count:
        return Count(number, exact=number <= MOST_PARKED)

    def group(row: Row) -> GroupStats:
        name, position, lag, since, held, overdue, parked, dead = row[1:]
        return GroupStats(name, position, lag, since, held, overdue, count(parked), count(dead))

    def parse(rows: Sequence[Row]) -> Readers[GroupStats]:
        return Readers(rows[0][0] if rows else 0, tuple(map(group, rows)))

    return Op(
        "stats_groups",
        {"most": MOST_READERS, "counted": MOST_PARKED + 1},
        parse,
        "see how far the groups are behind",
        bounded=False,
    )


def leases() -> Op[LeaseStats]:
    """The named leases."""
    return Op("stats_leases", {}, lambda rows: LeaseStats(*rows[0]), "count the leases")


def policies() -> Op[tuple[PolicyStats, ...]]:
    """The rules of retention."""
    return Op(
        "stats_policies",
        {},
        lambda rows: tuple(PolicyStats(*row) for row in rows),
        "read the rules of retention",
    )
