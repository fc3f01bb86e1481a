"""`pgmem stats`: print the condition of the memory on one screen."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pgmem.cli.commands import Command
from pgmem.cli.options import database_options, json_option, memory_of
from pgmem.cli.output import (
    Column,
    Table,
    age,
    count_of,
    print_json,
    print_labelled,
    print_line,
    size,
)

if TYPE_CHECKING:
    from pgmem.admin.stats_models import (
        Count,
        GroupStats,
        OpenWriter,
        Readers,
        Stats,
        SubscriptionStats,
    )

SHOWN = 10
"""How many subscriptions, groups and policies are printed; the rest is counted."""
TABLES = 8
"""How many tables are printed, the largest first."""

WIDTH = 15

SIZES = (
    Column("TABLE", style="key"),
    Column("SIZE", right=True),
    Column("INDEXES", right=True),
    Column("DEAD ROWS", right=True),
    Column("AUTOVACUUM", right=True),
)
SUBSCRIPTIONS = (
    Column("SUBSCRIPTION", style="key"),
    Column("POSITION", right=True),
    Column("DISTANCE", right=True),
    Column("BEHIND FOR", right=True),
    Column("OWNER", style="agent"),
)
GROUPS = (
    Column("GROUP", style="key"),
    Column("POSITION", right=True),
    Column("DISTANCE", right=True),
    Column("BEHIND FOR", right=True),
    Column("OPEN", right=True),
    Column("OVERDUE", right=True),
    Column("DELAYED", right=True),
    Column("DEAD", right=True),
)


@click.command(
    cls=Command,
    examples="""
    pgmem stats
    pgmem stats --json | jq .log.head
    """,
)
@database_options
@json_option
def stats(*, url: str | None, schema: str, as_json: bool) -> None:
    """Print the condition of log, readers, tables and server.

    The cost does not depend on the length of the log. Counts with ≈ are estimates from a sample.
    """
    with memory_of(url, schema) as memory:
        found = memory.stats()
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    print_labelled(_lines(found), WIDTH)
    _print_sizes(found)
    if found.subscriptions is not None and found.subscriptions.total:
        _print_subscriptions(found.subscriptions, found.server.now)
    if found.groups is not None and found.groups.total:
        _print_groups(found.groups, found.server.now)


def _lines(stats: Stats) -> Iterator[tuple[str, str]]:
    server, sessions = stats.server, stats.sessions
    role = "standby" if server.standby else "primary"
    yield "server", f"PostgreSQL {server.version}, {role}"
    yield "schema", f"{stats.schema} at {server.revision}"
    yield (
        "durability",
        f"synchronous_commit {server.synchronous_commit}, fsync {server.fsync}",
    )
    yield (
        "sessions",
        f"{sessions.on_server} of {sessions.most}; {sessions.in_database} in this database, "
        f"{sessions.of_pgmem} of pgmem",
    )
    yield (
        "notifications",
        f"{sessions.listening} listening, queue {sessions.queue_usage:.1%} full",
    )
    yield "writers", _writers(stats)
    yield from _log(stats)
    if (state := stats.state) is not None:
        yield (
            "state",
            f"{_count(state.entries)} entries, {_count(state.deleted)} deleted, "
            f"{_count(state.expired)} expired",
        )
    if (dedupe := stats.dedupe) is not None:
        yield (
            "dedupe",
            f"{_count(dedupe.keys)} keys, {_count(dedupe.expired)} expired; "
            f"{_count(dedupe.overdue)} claims overdue",
        )
    if (snapshots := stats.snapshots) is not None:
        yield (
            "snapshots",
            f"{_count(snapshots.states)} of the state, {_count(snapshots.folds)} of folds",
        )
    if (leases := stats.leases) is not None:
        yield "leases", f"{leases.held} held, {leases.waiters} waiting"
    if stats.policies is not None:
        yield "retention", _policies(stats)
    if stats.hidden:
        yield (
            "not shown",
            f"{', '.join(stats.hidden)}: this role may not read them (`pgmem migrate grant`)",
        )


def _log(stats: Stats) -> Iterator[tuple[str, str]]:
    log, now = stats.log, stats.server.now
    if log is None:
        return
    yield (
        "log",
        f"head {log.head:,}; {_count(log.events)} events, {_count(log.last_minute)} in the last "
        f"minute, {_count(log.last_hour)} in the last hour",
    )
    if log.first is not None:
        yield "", f"oldest {log.first:,}, of {_ago(log.first_at, now)}"
    if log.removed:
        streams = log.trimmed_streams
        alone = f"and {count_of(streams, 'stream')} separately, " if streams else ""
        yield (
            "",
            f"trimmed up to {log.trimmed_to:,}, {alone}{log.removed:,} events removed, "
            f"last {_ago(log.trimmed_at, now)}",
        )


def _writers(stats: Stats) -> str:
    """Return the open transactions that hold readers back."""
    if stats.server.standby:
        return "not seen from a standby"
    if not stats.writers:
        return "no open transaction holds readers back"
    oldest = stats.writers[0]
    open_for = (
        "for how long is visible to pg_read_all_stats only"
        if oldest.since is None
        else f"for {_for(oldest.since, stats.server.now)}"
    )
    return f"{len(stats.writers)} open; readers wait for {_writer(oldest)}, {open_for}"


def _writer(writer: OpenWriter) -> str:
    if writer.pid is None:
        return f"the prepared transaction {writer.name!r} of {writer.role}"
    state = "" if writer.state is None else f" ({writer.state})"
    return f"pid {writer.pid}, {writer.name or 'unnamed'} of {writer.role}{state}"


def _policies(stats: Stats) -> str:
    policies = []
    for policy in stats.policies or ():
        limits = []
        if policy.max_count is not None:
            limits.append(f"at most {policy.max_count:,}")
        if policy.max_age is not None:
            limits.append(f"none older than {age(policy.max_age)}")
        of = policy.kind if policy.name is None else f"{policy.kind} of {policy.name}"
        policies.append(f"{of}: {', '.join(limits)}")
    if len(policies) > SHOWN:
        policies[SHOWN:] = [f"and {len(policies) - SHOWN} more"]
    return "; ".join(policies) or "no policies: everything is kept"


def _print_sizes(stats: Stats) -> None:
    largest = sorted(stats.tables, key=lambda table: -table.table_bytes - table.index_bytes)
    sys.stdout.write("\n")
    Table(*SIZES).add(
        (
            table.name,
            size(table.table_bytes),
            size(table.index_bytes),
            f"{table.dead_rows:,}",
            _ago(table.vacuumed_at, stats.server.now),
        )
        for table in largest[:TABLES]
    )


def _print_subscriptions(readers: Readers[SubscriptionStats], now: datetime) -> None:
    sys.stdout.write("\n")
    Table(*SUBSCRIPTIONS).add(
        (
            reader.name,
            f"{reader.position:,}",
            f"{reader.distance:,}",
            _for(reader.behind_since, now),
            reader.owner or "-",
        )
        for reader in readers.furthest[:SHOWN]
    )
    _print_more(readers.total)


def _print_groups(readers: Readers[GroupStats], now: datetime) -> None:
    sys.stdout.write("\n")
    Table(*GROUPS).add(
        (
            group.name,
            f"{group.position:,}",
            f"{group.distance:,}",
            _for(group.behind_since, now),
            f"{group.open:,}",
            f"{group.overdue:,}",
            _count(group.delayed),
            _count(group.dead),
        )
        for group in readers.furthest[:SHOWN]
    )
    _print_more(readers.total)


def _print_more(total: int) -> None:
    if total > SHOWN:
        print_line(f"and {total - SHOWN:,} more")


def _count(count: Count) -> str:
    return f"{'' if count.exact else '≈'}{count.value:,}"


def _for(since: datetime | None, now: datetime) -> str:
    return "-" if since is None else age((now - since).total_seconds())


def _ago(moment: datetime | None, now: datetime) -> str:
    return "never" if moment is None else f"{_for(moment, now)} ago"
