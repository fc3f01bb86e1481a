"""`pgmem stats`: how the memory stands, on one screen.

Only the looks of it; what is asked is `memory.stats()`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from pgmem.cli.options import (
    AsJson,
    Schema,
    Url,
    age,
    columns,
    memory_of,
    out,
    print_json,
    print_labelled,
    size,
)
from pgmem.core.names import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from rich.text import Text

    from pgmem.admin.stats_models import (
        ConsumerStats,
        Count,
        GroupStats,
        OpenWriter,
        Readers,
        Stats,
    )

SHOWN = 10
"""So many consumers, groups and rules; the rest is counted."""
TABLES = 8
"""The largest ones."""

WIDTH = 12


def stats(url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False) -> None:
    """Print how the memory stands: log, state, readers, leases, tables and the server.

    It costs little, however long the log is: what is marked ≈ is an estimate from a sample.
    """
    with memory_of(url, schema) as memory:
        found = memory.stats()
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    print_labelled(_lines(found), WIDTH)
    console = out()
    for table in _tables(found):
        console.print()
        for line in table:
            console.print(line)


def _lines(stats: Stats) -> Iterator[tuple[str, str]]:
    """The upper half: a label, and what there is to say."""
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
        "doorbell",
        f"{sessions.listening} listening, notification queue {sessions.queue_usage:.1%} full",
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
        alone = f"and {log.trimmed_streams} streams by themselves, " if log.trimmed_streams else ""
        yield (
            "",
            f"trimmed up to {log.trimmed_to:,}, {alone}{log.removed:,} events removed, "
            f"last {_ago(log.trimmed_at, now)}",
        )


def _writers(stats: Stats) -> str:
    """Who holds back the readers."""
    if stats.server.standby:
        return "not seen from a standby"
    if not stats.writers:
        return "no open transaction holds readers back"
    oldest = stats.writers[0]
    open_for = (
        "how long, this role may not see (pg_read_all_stats may)"
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
    """The rules of retention."""
    rules = []
    for policy in stats.policies or ():
        limits = []
        if policy.max_count is not None:
            limits.append(f"at most {policy.max_count:,}")
        if policy.max_age is not None:
            limits.append(f"none older than {age(policy.max_age)}")
        of = policy.kind if policy.name is None else f"{policy.kind} of {policy.name}"
        rules.append(f"{of}: {', '.join(limits)}")
    if len(rules) > SHOWN:
        rules[SHOWN:] = [f"and {len(rules) - SHOWN} more"]
    return "; ".join(rules) or "no rules: everything is kept"


def _tables(stats: Stats) -> Iterator[list[Text]]:
    """The lower half: tables with a line of titles."""
    yield _sizes(stats)
    if stats.consumers is not None and stats.consumers.total:
        yield _consumers(stats.consumers, stats.server.now)
    if stats.groups is not None and stats.groups.total:
        yield _groups(stats.groups, stats.server.now)


def _sizes(stats: Stats) -> list[Text]:
    largest = sorted(stats.tables, key=lambda table: -table.table_bytes - table.index_bytes)
    rows = [
        (
            table.name,
            size(table.table_bytes),
            size(table.index_bytes),
            f"{table.dead_rows:,}",
            _ago(table.vacuumed_at, stats.server.now),
        )
        for table in largest[:TABLES]
    ]
    return columns(("table", ">size", ">indexes", ">dead rows", ">autovacuum"), rows)


def _consumers(consumers: Readers[ConsumerStats], now: datetime) -> list[Text]:
    rows = [
        (
            consumer.name,
            f"{consumer.position:,}",
            f"{consumer.lag:,}",
            _for(consumer.behind_since, now),
            consumer.owner or "-",
        )
        for consumer in consumers.furthest[:SHOWN]
    ]
    titles = ("consumer", ">position", ">lag", ">behind for", "held by")
    return columns(titles, rows) + _more(consumers.total)


def _groups(groups: Readers[GroupStats], now: datetime) -> list[Text]:
    rows = [
        (
            group.name,
            f"{group.position:,}",
            f"{group.lag:,}",
            _for(group.behind_since, now),
            f"{group.open:,}",
            f"{group.overdue:,}",
            _count(group.parked),
            _count(group.dead),
        )
        for group in groups.furthest[:SHOWN]
    ]
    numbers = (">position", ">lag", ">behind for", ">open", ">overdue", ">parked", ">dead")
    return columns(("group", *numbers), rows) + _more(groups.total)


def _more(total: int) -> list[Text]:
    from rich.text import Text  # noqa: PLC0415

    return [Text(f"and {total - SHOWN:,} more", style="dim")] if total > SHOWN else []


def _count(count: Count) -> str:
    return f"{'' if count.exact else '≈'}{count.value:,}"


def _for(since: datetime | None, now: datetime) -> str:
    return "-" if since is None else age((now - since).total_seconds())


def _ago(moment: datetime | None, now: datetime) -> str:
    return "never" if moment is None else f"{_for(moment, now)} ago"
