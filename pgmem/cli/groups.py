"""`pgmem groups`: show and alter consumer groups, requeue dead letters, reset and delete groups.

What takes something away asks first: a reset, a deletion, and requeueing all dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pgmem.cli.commands import Group as CommandGroup
from pgmem.cli.group_rows import (
    DEAD,
    GROUPS,
    PENDING,
    about,
    dead_data,
    dead_row,
    info_data,
    info_row,
    pending_data,
    pending_row,
)
from pgmem.cli.options import DURATION, database_options, json_option, memory_of, yes_option
from pgmem.cli.output import (
    Table,
    confirm,
    count_of,
    print_json,
    print_json_lines,
    print_labelled,
    print_line,
    say,
)
from pgmem.errors import NotFound, PgmemError

if TYPE_CHECKING:
    from datetime import timedelta

    from pgmem import Group, Memory
    from pgmem.groups.models import DeadLetter, GroupInfo

PAGE = 200
WIDTH = 12


@click.group("groups", cls=CommandGroup)
def app() -> None:
    """Show and change consumer groups and their dead letters."""


@app.command(
    "list",
    examples="""
    pgmem groups list

    # Groups with dead letters
    pgmem groups list --json | jq 'select(.dead_letters > 0) | .name'
    """,
)
@database_options
@json_option
def list_(*, url: str | None, schema: str, as_json: bool) -> None:
    """List the groups, with lag and open events.

    The lag is the number of events that the group follows and has not handed out yet. With --json
    each group is a JSON object on a line of its own.
    """
    with memory_of(url, schema) as memory:
        found = list(_with_lag(memory))
    if as_json:
        print_json_lines(info_data(info, lag) for info, lag in found)
    elif found:
        Table(*GROUPS).add(info_row(info, lag) for info, lag in found)
    else:
        say("no groups")


@app.command(
    examples="""
    pgmem groups show billing
    pgmem groups show billing --json
    """,
)
@click.argument("name")
@database_options
@json_option
def show(name: str, *, url: str | None, schema: str, as_json: bool) -> None:
    """Print what a group follows, its position and its open events."""
    with memory_of(url, schema) as memory:
        group, info = _find(memory, name)
        lag = group.lag()
    if as_json:
        print_json(info_data(info, lag))
    else:
        print_labelled(about(info, lag), WIDTH)


@app.command(
    examples="""
    pgmem groups pending billing

    # Events that one member holds
    pgmem groups pending billing --json | jq 'select(.member == "web-2:3301")'
    """,
)
@click.argument("name")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=1_000,
    show_default=True,
    help="Print at most N events.",
)
@database_options
@json_option
def pending(name: str, *, limit: int, url: str | None, schema: str, as_json: bool) -> None:
    """Print the events that are held or delayed.

    With --json each event is a JSON object on a line of its own.
    """
    with memory_of(url, schema) as memory:
        found = _find(memory, name)[0].pending(limit)
    if as_json:
        print_json_lines(map(pending_data, found))
    elif found:
        Table(*PENDING).add(map(pending_row, found))
    else:
        say("no pending events")
    if len(found) == limit:
        say(f"the first {limit:,}: there may be more, --limit takes up to 100,000")


@app.command(
    examples="""
    pgmem groups dead billing

    # Requeue the dead letters that failed for one reason
    pgmem groups dead billing --json | jq 'select(.error == "timeout") | .position' |
        xargs pgmem groups requeue billing
    """,
)
@click.argument("name")
@database_options
@json_option
def dead(name: str, *, url: str | None, schema: str, as_json: bool) -> None:
    """Print dead letters with their last errors.

    With --json each dead letter is a JSON object on a line of its own, with its event.
    """
    table, empty = Table(*DEAD), True
    with memory_of(url, schema) as memory:
        for page in _dead_letters(_find(memory, name)[0]):
            empty = False
            if as_json:
                print_json_lines(map(dead_data, page))
            else:
                table.add(map(dead_row, page))
    if empty and not as_json:
        say("no dead letters")


@app.command(
    examples="""
    # Two dead letters
    pgmem groups requeue billing 1207 1311

    # All of them
    pgmem groups requeue billing --yes
    """,
)
@click.argument("name")
@click.argument("positions", metavar="[POSITION]...", nargs=-1, type=click.IntRange(min=1))
@yes_option
@database_options
@json_option
def requeue(
    name: str,
    positions: tuple[int, ...],
    *,
    yes: bool,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Hand dead letters out again, attempts counted from zero.

    Without POSITION all of them. Exit code 1 if a POSITION is not a dead letter whose event still
    exists. The others are requeued.
    """
    wanted = set(positions)
    with memory_of(url, schema) as memory:
        group, info = _find(memory, name)
        if not wanted and not yes:
            confirm(f"Requeue all {count_of(info.dead_letters, 'dead letter')} of group {name}?")
        requeued = group.requeue(sorted(wanted) or None)
    if as_json:
        print_json({"group": name, "requeued": requeued})
    else:
        print_line(f"{name}: {count_of(requeued, 'dead letter')} requeued")
    if requeued < len(wanted):
        raise PgmemError(
            f"{len(wanted) - requeued:,} of the {len(wanted):,} positions are not dead letters of "
            f"the group {name!r}, or their events were trimmed; `pgmem groups dead` shows them"
        )


@app.command(
    examples="""
    # Handle everything again from the oldest event on
    pgmem groups reset billing 0

    # Skip to position 1200 without a question
    pgmem groups reset billing 1200 --yes
    """,
)
@click.argument("name")
@click.argument("position", type=click.IntRange(min=0))
@yes_option
@database_options
@json_option
def reset(
    name: str, position: int, *, yes: bool, url: str | None, schema: str, as_json: bool
) -> None:
    """Let a group go on after POSITION.

    The group also accepts the present history of the log, as
    after a restore. Members lose the events that they hold, and delayed events are forgotten. Dead
    letters stay.
    """
    with memory_of(url, schema) as memory:
        group, info = _find(memory, name)
        if not yes:
            confirm(
                f"Move the group {name} from position {info.position:,} to {position:,}? Members "
                f"lose {count_of(info.held, 'held event')}; "
                f"{count_of(info.delayed, 'delayed event')} will be forgotten."
            )
        group.reset(position)
    if as_json:
        print_json({"group": name, "position": position})
    else:
        print_line(f"{name}: continues after position {position:,}")


@app.command(
    examples="""
    # Give up after 10 attempts, the second one after 5 seconds
    pgmem groups alter billing --max-attempts 10 --backoff 5s

    # Follow two types of events from now on
    pgmem groups alter billing --stream orders --type placed --type cancelled
    """,
)
@click.argument("name")
@click.option(
    "--max-attempts", metavar="N", type=click.IntRange(min=1), help="Attempts of an event."
)
@click.option("--backoff", metavar="TIME", type=DURATION, help="Delay before the second attempt.")
@click.option("--max-backoff", metavar="TIME", type=DURATION, help="The longest delay.")
@click.option("--stream", metavar="NAME", multiple=True, help="Follow this stream. Repeatable.")
@click.option("--prefix", metavar="TEXT", help="Follow streams whose names begin with TEXT.")
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Only this type. Repeatable.")
@click.option("--agent", metavar="ID", multiple=True, help="Only this agent. Repeatable.")
@click.option("--everything", is_flag=True, help="Follow all events.")
@database_options
@json_option
def alter(
    name: str,
    *,
    max_attempts: int | None,
    backoff: timedelta | None,
    max_backoff: timedelta | None,
    stream: tuple[str, ...],
    prefix: str | None,
    types: tuple[str, ...],
    agent: tuple[str, ...],
    everything: bool,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Change options of a group, and print what it follows now.

    Its position, open events and dead letters stay. --stream, --prefix, --type and --agent together
    replace the selection. Open events stay with the group if the new selection leaves them out.
    """
    from pgmem.events.filter import EventFilter  # no other command needs it

    given = {"backoff": backoff, "max_backoff": max_backoff}
    delays: dict[str, Any] = {key: delay for key, delay in given.items() if delay is not None}
    selects = bool(stream or prefix is not None or types or agent)
    if everything and selects:
        raise click.UsageError("--everything excludes --stream, --prefix, --type and --agent")
    if not (selects or everything or max_attempts or delays):
        raise click.UsageError("nothing to change: give an option, such as --max-attempts 10")
    selection = EventFilter.of(
        stream or None, prefix=prefix, type=types or None, agent_id=agent or None
    )
    with memory_of(url, schema) as memory:
        group = _find(memory, name)[0]
        group.alter(
            max_attempts=max_attempts,
            filter=selection if selects or everything else None,
            retry=replace(group.retry, **delays) if delays else None,
        )
        info, lag = group.info(), group.lag()
    if as_json:
        print_json(info_data(info, lag))
    else:
        print_labelled(about(info, lag), WIDTH)


@app.command(
    examples="""
    pgmem groups delete billing
    pgmem groups delete billing --yes
    """,
)
@click.argument("name")
@yes_option
@database_options
@json_option
def delete(name: str, *, yes: bool, url: str | None, schema: str, as_json: bool) -> None:
    """Delete a group, with its open events and dead letters. The events of the log stay."""
    with memory_of(url, schema) as memory:
        if not yes:
            info = _find(memory, name)[1]
            confirm(
                f"Delete the group {name} at position {info.position:,}, with "
                f"{count_of(info.held, 'held event')}, "
                f"{count_of(info.delayed, 'delayed event')} and "
                f"{count_of(info.dead_letters, 'dead letter')}?"
            )
        if not memory.groups.delete(name):
            raise _missing(name)
    if as_json:
        print_json({"group": name, "deleted": True})
    else:
        print_line(f"{name}: deleted")


def _find(memory: Memory, name: str) -> tuple[Group, GroupInfo]:
    try:
        group = memory.groups.get(name)
        return group, group.info()
    except NotFound:
        raise _missing(name) from None


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no group {name!r}; `pgmem groups list` shows the groups")


def _with_lag(memory: Memory) -> Iterator[tuple[GroupInfo, int]]:
    """Yield the groups, except those that are deleted meanwhile."""
    for info in memory.groups.list():
        try:
            lag = memory.groups.get(info.name).lag()
        except NotFound:
            continue
        yield info, lag


def _dead_letters(group: Group) -> Iterator[list[DeadLetter]]:
    """Yield all dead letters in pages, each of its own snapshot."""
    after = 0
    while page := group.dead_letters(after=after, limit=PAGE):
        yield page
        after = page[-1].position
