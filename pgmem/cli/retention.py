"""`pgmem retention`, `trim`, `restore` and `maintain`: limit what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from pgmem.cli.commands import Command, Group
from pgmem.cli.options import DURATION, database_options, json_option, memory_of, yes_option
from pgmem.cli.output import (
    Column,
    Table,
    age,
    confirm,
    count_of,
    print_json,
    print_json_lines,
    print_line,
    say,
    short_moment,
)
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import LeaseHeld, PgmemError

if TYPE_CHECKING:
    from pgmem import Memory, Policy
    from pgmem.retention.models import MaintenanceReport, StreamTrim, TrimReport

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["events", "folds", "snapshots"]

POOL = (1, 3)
"""Connections, at least and at most."""

COLUMNS = (
    Column("OF"),
    Column("NAME", style="key"),
    Column("KEEP", right=True),
    Column("FOR", right=True),
    Column("SET", style="faint"),
)

_max_events = click.option(
    "--max-events",
    metavar="N",
    type=int,
    help="Keep the newest N events (with --folds or --snapshots: snapshots).",
)
_max_age = click.option(
    "--max-age", metavar="TIME", type=DURATION, help="Remove what is older, such as 30m or 7d."
)


def _scope_options(function: F) -> F:
    """Add the options that say what a policy is for."""
    for option in (
        click.option(
            "--snapshots", is_flag=True, help="Snapshots of the state; --stream is their name."
        ),
        click.option(
            "--folds", is_flag=True, help="Snapshots of folds; --stream is the fold's name."
        ),
        click.option("--stream", metavar="NAME", help="Only this stream. Default: the whole log."),
    ):
        function = option(function)
    return function


@click.group("retention", cls=Group)
def app() -> None:
    """Set, list and remove policies for what is kept.

    `pgmem trim` and `pgmem maintain` apply them.
    """


@app.command(
    "set",
    examples="""
    # Keep the newest million events, and none for longer than 30 days
    pgmem retention set --max-events 1000000 --max-age 30d

    # One stream
    pgmem retention set --stream metrics --max-age 12h

    # The last three snapshots of every fold
    pgmem retention set --folds --max-events 3
    """,
)
@_max_events
@_max_age
@_scope_options
@database_options
def set_(
    *,
    max_events: int | None,
    max_age: timedelta | None,
    stream: str | None,
    folds: bool,
    snapshots: bool,
    url: str | None,
    schema: str,
) -> None:
    """Set how many events or snapshots are kept, and how long."""
    kind = _kind(folds=folds, snapshots=snapshots)
    if max_events is None and max_age is None:
        raise click.UsageError("Give --max-events or --max-age.", click.get_current_context())
    with memory_of(url, schema, pool=POOL) as memory:
        retention = memory.retention
        if kind == "events":
            policy = retention.set(stream, max_events=max_events, max_age=max_age)
        elif kind == "folds":
            policy = retention.set_folds(stream, max_count=max_events, max_age=max_age)
        else:
            policy = retention.set_snapshots(stream, max_count=max_events, max_age=max_age)
    _, name, kept, lasts, _ = _row(policy)
    print_line(f"{kind} {name}: keep {kept}, for {lasts}")


@app.command(
    "list",
    examples="""
    pgmem retention list
    pgmem retention list --json
    """,
)
@database_options
@json_option
def list_(*, url: str | None, schema: str, as_json: bool) -> None:
    """List the policies. With --json each is a JSON object on a line of its own."""
    with memory_of(url, schema, pool=POOL) as memory:
        policies = memory.retention.list()
    if as_json:
        print_json_lines(policy._asdict() for policy in policies)
    elif policies:
        Table(*COLUMNS).add(map(_row, policies))
    else:
        say("no policies: everything is kept")


@app.command(
    examples="""
    pgmem retention remove
    pgmem retention remove --stream metrics
    """,
)
@_scope_options
@database_options
def remove(
    *, stream: str | None, folds: bool, snapshots: bool, url: str | None, schema: str
) -> None:
    """Remove a policy. Exit code 1 if there is none."""
    kind = _kind(folds=folds, snapshots=snapshots)
    with memory_of(url, schema, pool=POOL) as memory:
        found = memory.retention.remove(stream, kind=kind)
    if not found:
        raise PgmemError(
            f"there is no policy for {kind} {stream or '(all)'}; `pgmem retention list` shows them"
        )
    print_line(f"{kind} {stream or '(all)'}: policy removed")


@click.command(
    cls=Command,
    examples="""
    # What the policies would remove, and what holds them back
    pgmem trim --dry-run

    # Remove by the policies
    pgmem trim

    # Remove events of one stream, and write them to files first
    pgmem trim --stream metrics --max-age 7d --export archive/
    """,
)
@click.option("--stream", metavar="NAME", help="Only this stream. Default: the whole log.")
@_max_events
@_max_age
@click.option("--dry-run", is_flag=True, help="Print what would be removed; remove nothing.")
@click.option(
    "--force", is_flag=True, help="Remove also what subscriptions and groups have not read."
)
@click.option(
    "--export",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write the events to files in FOLDER before they are removed.",
)
@yes_option
@database_options
@json_option
def trim(
    *,
    stream: str | None,
    max_events: int | None,
    max_age: timedelta | None,
    dry_run: bool,
    force: bool,
    export: Path | None,
    yes: bool,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Remove old events, by limits or by the policies set.

    Without --max-events and --max-age the policies apply.
    Events that a durable subscription or a group has not read stay, unless --force is given.
    """
    if force and not dry_run and not yes:
        confirm("Remove also events that subscriptions and groups have not read?")
    with memory_of(url, schema, pool=POOL) as memory:
        report = memory.retention.trim(
            stream,
            max_events=max_events,
            max_age=max_age,
            force=force,
            dry_run=dry_run,
            export=export,
        )
    if as_json:
        print_json(_trim_data(report))
    else:
        _print_trim(report)


@click.command(
    cls=Command,
    examples="""
    pgmem restore archive/metrics-1-50000.jsonl.gz
    """,
)
@click.argument("file", type=click.Path(path_type=Path))
@database_options
@json_option
def restore(file: Path, *, url: str | None, schema: str, as_json: bool) -> None:
    """Put back the events of a FILE that a trim exported.

    All of them, or none.
    """
    with memory_of(url, schema, pool=POOL) as memory:
        report = memory.retention.restore(file)
    if as_json:
        print_json(report._asdict())
        return
    present = f", {report.present:,} were there" if report.present else ""
    missing = "" if report.complete else "; later events are still missing"
    print_line(
        f"{_scope(report.stream)}: {count_of(report.restored, 'event')} restored{present}{missing}"
    )


@click.command(
    cls=Command,
    examples="""
    # Once, from cron
    pgmem maintain

    # As a process of its own
    pgmem maintain --every 60s
    """,
)
@click.option("--every", metavar="TIME", type=DURATION, help="Stay, and repeat after this time.")
@database_options
@json_option
def maintain(*, every: timedelta | None, url: str | None, schema: str, as_json: bool) -> None:
    """Trim by the policies and remove what has expired, once.

    Does nothing while another process is the janitor. With --json each pass is a JSON object on a
    line of its own.
    """
    pause = None if every is None else every.total_seconds()
    if pause is not None and pause <= 0:
        raise click.BadParameter("It must be above zero.", param_hint="'--every'")
    with memory_of(url, schema, pool=POOL) as memory:
        while True:
            _pass(memory, as_json=as_json)
            if pause is None:
                return
            time.sleep(pause)


def _pass(memory: Memory, *, as_json: bool) -> None:
    try:
        with memory.leases.hold(JANITOR_LEASE, timeout=0):
            report = memory.retention.maintain()
    except LeaseHeld:
        say("another process is the janitor: nothing to do")
        return
    if as_json:
        print_json_lines([_maintenance_data(report)])
        return
    _print_trim(report.trimmed)
    swept = report.swept._asdict()
    swept.pop("complete")
    parts = [f"{count:,} {name.replace('_', ' ')}" for name, count in swept.items() if count]
    print_line(f"swept: {', '.join(parts) or 'nothing'}")
    if report.vacuumed:
        print_line(f"vacuumed: {', '.join(report.vacuumed)}")


def _kind(*, folds: bool, snapshots: bool) -> Kind:
    if folds and snapshots:
        raise click.UsageError(
            "Give --folds or --snapshots, not both.", click.get_current_context()
        )
    return "folds" if folds else "snapshots" if snapshots else "events"


def _print_trim(report: TrimReport) -> None:
    verb = "would be removed" if report.dry_run else "removed"
    if not report.streams:
        print_line("no policy for events: nothing is removed")
    for stream in report.streams:
        print_line(f"{_scope(stream.stream)}: {stream.removed:,} {verb}{_details(stream)}")
        for file in stream.files:
            print_line(f"  {file}")


def _details(stream: StreamTrim) -> str:
    parts = [] if stream.first is None else [f", positions {stream.first} to {stream.last}"]
    if stream.kept:
        parts.append(f"; {stream.kept:,} stay that are in use or end a stream")
    if stream.held_back_by is not None:
        holder = stream.held_back_by
        parts.append(f"; the {holder.kind} {holder.name} has read up to {holder.position}")
    return "".join(parts)


def _scope(name: str | None) -> str:
    return "the whole log" if name is None else name


def _row(policy: Policy) -> tuple[str, str, str, str, str]:
    kept = "-" if policy.max_count is None else f"{policy.max_count:,}"
    lasts = "-" if policy.max_age is None else age(policy.max_age)
    return policy.kind, policy.name or "(all)", kept, lasts, short_moment(policy.updated_at)


def _trim_data(report: TrimReport) -> dict[str, Any]:
    return {
        "dry_run": report.dry_run,
        "removed": report.removed,
        "streams": [
            {
                **stream._asdict(),
                "held_back_by": stream.held_back_by and stream.held_back_by._asdict(),
            }
            for stream in report.streams
        ],
    }


def _maintenance_data(report: MaintenanceReport) -> dict[str, Any]:
    return {
        "trimmed": _trim_data(report.trimmed),
        "swept": report.swept._asdict(),
        "vacuumed": report.vacuumed,
    }
