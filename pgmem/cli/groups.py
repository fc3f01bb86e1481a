"""`pgmem groups`: show consumer groups, requeue dead letters, reset and delete groups.

What takes something away asks first: a reset, a deletion, and requeueing all dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pgmem.cli.commands import Group as CommandGroup
from pgmem.cli.options import database_options, json_option, memory_of, yes_option
from pgmem.cli.output import (
    Column,
    Table,
    confirm,
    count_of,
    event_data,
    json_text,
    moment,
    print_json,
    print_json_lines,
    print_labelled,
    print_line,
    say,
    short_moment,
)
from pgmem.errors import NotFound, PgmemError

if TYPE_CHECKING:
    from pgmem import Group, Memory
    from pgmem.groups.models import DeadLetter, GroupInfo, Pending

PAGE = 200
WIDTH = 12

GROUPS = (
    Column("GROUP", style="key"),
    Column("POSITION", right=True),
    Column("LAG", right=True),
    Column("HELD", right=True),
    Column("DELAYED", right=True),
    Column("DEAD", right=True),
    Column("FOLLOWS"),
)
PENDING = (
    Column("POSITION", right=True),
    Column("ATTEMPTS", right=True),
    Column("MEMBER", style="agent"),
    Column("UNTIL", style="faint"),
    Column("ERROR", style="error"),
)
DEAD = (
    Column("POSITION", right=True),
    Column("FAILED", style="faint"),
    Column("STREAM", style="key"),
    Column("TYPE", style="type"),
    Column("ATTEMPTS", right=True),
    Column("MEMBER", style="agent"),
    Column("ERROR", style="error"),
)


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
        print_json_lines(_info_data(info, lag) for info, lag in found)
    elif found:
        Table(*GROUPS).add(_info_row(info, lag) for info, lag in found)
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
        print_json(_info_data(info, lag))
    else:
        print_labelled(_about(info, lag), WIDTH)


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
        print_json_lines(map(_pending_data, found))
    elif found:
        Table(*PENDING).add(map(_pending_row, found))
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
                print_json_lines(map(_dead_data, page))
            else:
                table.add(map(_dead_row, page))
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


def _info_data(info: GroupInfo, lag: int) -> dict[str, Any]:
    return {
        "name": info.name,
        "selection": info.selection,
        "ordered_by": info.ordered_by,
        "max_attempts": info.max_attempts,
        "position": info.position,
        "lag": lag,
        "held": info.held,
        "delayed": info.delayed,
        "dead_letters": info.dead_letters,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
    }


def _pending_data(event: Pending) -> dict[str, Any]:
    return {
        "position": event.position,
        "member": event.member,
        "attempts": event.attempts,
        "delayed": event.delayed,
        "claimed_at": event.claimed_at,
        "until": event.until,
        "error": event.error,
    }


def _dead_data(letter: DeadLetter) -> dict[str, Any]:
    return {
        "position": letter.position,
        "attempts": letter.attempts,
        "member": letter.member,
        "error": letter.error,
        "failed_at": letter.failed_at,
        "event": None if letter.event is None else event_data(letter.event),
    }


def _follows(selection: dict[str, Any]) -> str:
    """Return a selection as text, such as `stream=orders, type=placed`."""
    if not selection:
        return "all events"
    return ", ".join(_choice(name, value) for name, value in selection.items())


def _choice(name: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        name, value = name.removesuffix("s"), value[0]
    return f"{name}={value if isinstance(value, str) else json_text(value)}"


def _about(info: GroupInfo, lag: int) -> Iterator[tuple[str, str]]:
    yield "group", info.name
    yield "follows", _follows(info.selection)
    yield "ordered by", info.ordered_by or "nothing"
    yield "attempts", f"at most {info.max_attempts:,}"
    yield "position", f"{info.position:,}, {count_of(lag, 'event')} behind"
    yield "open", f"{info.held:,} held, {info.delayed:,} delayed"
    yield "dead", f"{info.dead_letters:,}"
    yield "created", moment(info.created_at)
    yield "updated", moment(info.updated_at)


def _info_row(info: GroupInfo, lag: int) -> tuple[str, ...]:
    numbers = (info.position, lag, info.held, info.delayed, info.dead_letters)
    return (info.name, *(f"{number:,}" for number in numbers), _follows(info.selection))


def _pending_row(event: Pending) -> tuple[str, ...]:
    return (
        str(event.position),
        f"{event.attempts:,}",
        "(delayed)" if event.member is None else event.member,
        short_moment(event.until),
        event.error or "",
    )


def _dead_row(letter: DeadLetter) -> tuple[str, ...]:
    event = letter.event
    return (
        str(letter.position),
        short_moment(letter.failed_at),
        "(trimmed)" if event is None else event.stream,
        "" if event is None else event.type,
        f"{letter.attempts:,}",
        letter.member or "-",
        letter.error or "",
    )
