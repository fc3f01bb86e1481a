"""`pgmem trim`, `maintain`, `retention` and `restore`: how much of the log is kept.

Only the command lines and the looks; what is done is `memory.retention`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgmem.cli.options import (
    AsJson,
    Schema,
    Url,
    age,
    ask,
    duration,
    memory_of,
    moment,
    out,
    print_columns,
    print_json,
    print_json_line,
    printable,
    say,
)
from pgmem.core.names import DEFAULT_SCHEMA, JANITOR_LEASE
from pgmem.errors import InvalidOption, LeaseHeld

if TYPE_CHECKING:
    from datetime import timedelta

    from pgmem import MaintenanceReport, Memory, Policy, StreamTrim, TrimReport

app = typer.Typer(help="Say how much of the log is kept.", no_args_is_help=True)

POOL = (1, 3)
"""Connections, at least and at most."""

Stream = Annotated[
    str | None,
    typer.Option("--stream", metavar="NAME", help="Of this stream; else of the whole log."),
]
MaxEvents = Annotated[
    int | None, typer.Option("--max-events", metavar="N", help="Keep the newest N events.")
]
MaxAge = Annotated[
    str | None,
    typer.Option("--max-age", metavar="TIME", help="What is older goes: 7d, 12h, 30m."),
]
Folds = Annotated[
    bool, typer.Option("--folds", help="Of the snapshots of folds; --stream names the fold.")
]
Snapshots = Annotated[
    bool,
    typer.Option("--snapshots", help="Of the copies of the state; --stream names them."),
]


def _age(text: str | None) -> timedelta | None:
    return None if text is None else duration(text, "--max-age")


def trim(
    *,
    stream: Stream = None,
    max_events: MaxEvents = None,
    max_age: MaxAge = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be removed.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Remove also what stored readers and groups have not read."),
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FOLDER", help="Write what is removed to files first."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, with --force.")] = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Remove events, by these limits or, without, by the rules that were set."""
    if force and not dry_run and not yes:
        ask("Remove also what stored readers and groups have not read?")
    with memory_of(url, schema, pool=POOL) as memory:
        report = memory.retention.trim(
            stream,
            max_events=max_events,
            max_age=_age(max_age),
            force=force,
            dry_run=dry_run,
            export=export,
        )
    if as_json:
        print_json(_trim_data(report))
    else:
        _print_trim(report)


def maintain(
    *,
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="TIME", help="Stay, and do it again every so often."),
    ] = None,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Do once what a janitor does: trim by the rules, and sweep what is over.

    Where another process is the janitor there is nothing to do.
    """
    pause = None if every is None else duration(every, "--every").total_seconds()
    if pause is not None and pause <= 0:
        raise InvalidOption(f"--every must be above zero, got {every!r}")
    with memory_of(url, schema, pool=POOL) as memory:
        while True:
            _pass(memory, as_json=as_json)
            if pause is None:
                return
            time.sleep(pause)


def _pass(memory: Memory, *, as_json: bool) -> None:
    try:
        with memory.leases.acquire(JANITOR_LEASE, timeout=0):
            report = memory.retention.maintain()
    except LeaseHeld:
        say("another process is the janitor: nothing to do")
        return
    if as_json:
        print_json_line(_maintenance_data(report))
    else:
        _print_trim(report.trimmed)
        swept = report.swept._asdict()
        swept.pop("complete")
        words = [f"{count:,} {name.replace('_', ' ')}" for name, count in swept.items() if count]
        out().print(f"swept: {', '.join(words) or 'nothing'}", markup=False)
        if report.vacuumed:
            out().print(f"vacuumed: {', '.join(report.vacuumed)}", markup=False)


def _print_trim(report: TrimReport) -> None:
    verb = "would be removed" if report.dry_run else "removed"
    console = out()
    if not report.streams:
        console.print("no rule for events: nothing is removed", markup=False)
    for stream in report.streams:
        console.print(f"{_scope(stream.stream)}: {stream.removed:,} {verb}{_rest(stream)}")


def _rest(stream: StreamTrim) -> str:
    parts = [] if stream.first is None else [f", positions {stream.first} to {stream.last}"]
    if stream.kept:
        parts.append(f"; {stream.kept:,} stay that somebody has in hand, or that end a stream")
    if stream.held_back_by is not None:
        holder = stream.held_back_by
        parts.append(f"; the {holder.kind} {printable(holder.name)} has read up to")
        parts.append(f" {holder.position}")
    parts += [f"\n  {printable(file)}" for file in stream.files]
    return "".join(parts)


def _scope(name: str | None) -> str:
    return "the whole log" if name is None else printable(name)


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


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that a trim has written.")],
    *,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Put back the events of a file that `pgmem trim --export` has written."""
    with memory_of(url, schema, pool=POOL) as memory:
        report = memory.retention.restore(file)
    if as_json:
        print_json(report._asdict())
        return
    out().print(
        f"{_scope(report.stream)}: {report.restored:,} restored, {report.present:,} were there"
        f"{'' if report.complete else '; events are still missing behind them'}"
    )


@app.command("set")
def set_(
    *,
    stream: Stream = None,
    max_events: MaxEvents = None,
    max_age: MaxAge = None,
    folds: Folds = False,
    snapshots: Snapshots = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Set a rule: how many events, or snapshots, are kept, and for how long."""
    kind = _kind(folds=folds, snapshots=snapshots)
    with memory_of(url, schema, pool=POOL) as memory:
        retention = memory.retention
        if kind == "events":
            policy = retention.set(stream, max_events=max_events, max_age=_age(max_age))
        elif kind == "folds":
            policy = retention.set_folds(stream, max_count=max_events, max_age=_age(max_age))
        else:
            policy = retention.set_snapshots(stream, max_count=max_events, max_age=_age(max_age))
    say(f"set: {' '.join(_row(policy))}")


def _kind(*, folds: bool, snapshots: bool) -> Any:
    if folds and snapshots:
        raise InvalidOption("give --folds or --snapshots, not both")
    return "folds" if folds else "snapshots" if snapshots else "events"


@app.command("list")
def list_(url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False) -> None:
    """List the rules. With --json each is one JSON object on a line of its own."""
    with memory_of(url, schema, pool=POOL) as memory:
        policies = memory.retention.list()
    if as_json:
        for policy in policies:
            print_json_line(policy._asdict())
    elif policies:
        print_columns(("of", "name", ">keep", ">for", "set"), list(map(_row, policies)))


def _row(policy: Policy) -> tuple[str, str, str, str, str]:
    kept = "-" if policy.max_count is None else f"{policy.max_count:,}"
    lasts = "-" if policy.max_age is None else age(policy.max_age)
    return policy.kind, policy.name or "(all)", kept, lasts, moment(policy.updated_at)


@app.command("remove")
def remove(
    *,
    stream: Stream = None,
    folds: Folds = False,
    snapshots: Snapshots = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
) -> None:
    """Forget a rule: from then on it removes nothing. Exit code 1 if there is none."""
    kind = _kind(folds=folds, snapshots=snapshots)
    with memory_of(url, schema, pool=POOL) as memory:
        found = memory.retention.remove(stream, kind=kind)
    if not found:
        say(f"there is no rule for {kind} of {_scope(stream)}")
        raise typer.Exit(1)
