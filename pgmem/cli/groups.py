"""`pgmem groups`: look at the consumer groups, give dead letters another chance, move a group.

Only the command lines and the looks; what is done is `memory.groups`. What takes something from
somebody asks before it does: a reset, a deletion, and the requeueing of all dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgmem.cli.options import (
    AsJson,
    Schema,
    Url,
    ask,
    event_data,
    json_text,
    line,
    memory_of,
    moment,
    out,
    print_columns,
    print_json,
    print_json_line,
    print_labelled,
    printable,
    say,
)
from pgmem.core.names import DEFAULT_SCHEMA
from pgmem.errors import GroupNotFound, PgmemError

if TYPE_CHECKING:
    from rich.text import Text

    from pgmem import DeadLetter, Group, GroupInfo, Memory, Pending

app = typer.Typer(
    help="Look at the consumer groups, requeue dead letters, move or delete a group.",
    no_args_is_help=True,
)

PAGE = 200
WIDTH = 12

Name = Annotated[str, typer.Argument(help="The group's name.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_(url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False) -> None:
    """List the groups, in the order of their names, with what is open in each.

    With --json each group is one JSON object on a line of its own.
    """
    with memory_of(url, schema) as memory:
        found = list(_with_lag(memory))
    if as_json:
        for info, lag in found:
            print_json_line(_info_data(info, lag))
    elif found:
        titles = ("group", ">position", ">lag", ">held", ">parked", ">dead", "follows")
        print_columns(titles, [_info_row(info, lag) for info, lag in found])


@app.command()
def show(
    name: Name, url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False
) -> None:
    """Print what a group follows, how far it is, and how much is open in it."""
    with memory_of(url, schema) as memory:
        group = memory.groups.join(name)
        info, lag = group.info(), group.lag()
    if as_json:
        print_json(_info_data(info, lag))
    else:
        print_labelled(_about(info, lag), WIDTH)


@app.command()
def pending(
    name: Name,
    *,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="At most so many.")
    ] = 1_000,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Print what members of a group hold, and what is parked, in the order of the log.

    With --json each event is one JSON object on a line of its own.
    """
    with memory_of(url, schema) as memory:
        found = memory.groups.join(name).pending(limit)
    if as_json:
        for event in found:
            print_json_line(_pending_data(event))
    elif found:
        titles = (">position", ">attempts", "held by", "until", "error")
        print_columns(titles, list(map(_pending_row, found)))
    if len(found) == limit:
        say(f"the first {limit:,}: there may be more, --limit takes up to 100,000")


@app.command()
def dead(
    name: Name, url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False
) -> None:
    """Print the dead letters of a group, in the order of the log, with their last errors.

    With --json each dead letter is one JSON object on a line of its own, with its event.
    """
    console = out()
    with memory_of(url, schema) as memory:
        for letter in _dead_letters(memory.groups.join(name)):
            if as_json:
                print_json_line(_dead_data(letter))
            else:
                console.print(_dead_line(letter))


@app.command()
def requeue(
    name: Name,
    positions: Annotated[
        list[int] | None,
        typer.Argument(metavar="POSITION", min=1, help="Which; else all.", show_default=False),
    ] = None,
    *,
    yes: Yes = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Hand dead letters of a group out again, their attempts counted anew.

    Exit code 1 if a POSITION is none that could be handed out; the others are.
    """
    wanted = set(positions or ())
    with memory_of(url, schema) as memory:
        group = memory.groups.join(name)
        if not wanted and not yes:
            number = group.info().dead_letters
            ask(f"Hand out all {number:,} dead letters of the group {name} again?")
        risen = group.requeue(sorted(wanted) or None)
    if as_json:
        print_json({"group": name, "requeued": risen})
    else:
        out().print(f"{printable(name)}: {risen:,} dead letters requeued", markup=False)
    if risen < len(wanted):
        raise PgmemError(
            f"{len(wanted) - risen:,} of the {len(wanted):,} positions are no dead letters of the "
            f"group {name!r}, or a forced trim has removed their events: `pgmem groups dead` tells "
            f"which there are"
        )


@app.command()
def reset(
    name: Name,
    position: Annotated[
        int,
        typer.Argument(
            min=0, help="The events above it come next; 0: with the oldest that is kept."
        ),
    ],
    *,
    yes: Yes = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Let a group go on behind POSITION, and accept the present history of the log.

    Whoever holds something of it loses it; what is parked is forgotten. Dead letters stay.
    """
    with memory_of(url, schema) as memory:
        group = memory.groups.join(name)
        if not yes:
            info = group.info()
            ask(
                f"Move the group {name} from position {info.position:,} to "
                f"{position:,}? Its members lose the {info.held:,} events that they hold, and "
                f"{info.parked:,} parked ones are forgotten."
            )
        group.reset(position)
    if as_json:
        print_json({"group": name, "position": position})
    else:
        out().print(f"{printable(name)}: goes on behind position {position:,}", markup=False)


@app.command()
def delete(
    name: Name,
    *,
    yes: Yes = False,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Forget a group, with what is open in it, and its dead letters. The events stay."""
    with memory_of(url, schema) as memory:
        if not yes and (info := memory.groups.get(name)) is not None:
            ask(
                f"Delete the group {name}, with its position {info.position:,}, "
                f"{info.held:,} held and {info.parked:,} parked events, and "
                f"{info.dead_letters:,} dead letters?"
            )
        if not memory.groups.delete(name):
            raise GroupNotFound(
                f"there is no group {name!r}: `pgmem groups list` tells which there are"
            )
    if as_json:
        print_json({"group": name, "deleted": True})
    else:
        out().print(f"{printable(name)}: deleted", markup=False)


# --- what is asked of the memory ------------------------------------------------------------


def _with_lag(memory: Memory) -> Iterator[tuple[GroupInfo, int]]:
    """The groups, but for those that are deleted in this moment."""
    for info in memory.groups.list():
        try:
            lag = memory.groups.join(info.name).lag()
        except GroupNotFound:
            continue
        yield info, lag


def _dead_letters(group: Group) -> Iterator[DeadLetter]:
    """All dead letters, read page after page: not of one moment."""
    after = 0
    while page := group.dead_letters(after=after, limit=PAGE):
        yield from page
        after = page[-1].position


# --- looks ----------------------------------------------------------------------------------


def _info_data(info: GroupInfo, lag: int) -> dict[str, Any]:
    return {
        "name": info.name,
        "selection": info.selection,
        "ordered_by": info.ordered_by,
        "max_attempts": info.max_attempts,
        "position": info.position,
        "lag": lag,
        "held": info.held,
        "parked": info.parked,
        "dead_letters": info.dead_letters,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
    }


def _pending_data(event: Pending) -> dict[str, Any]:
    return {
        "position": event.position,
        "consumer": event.consumer,
        "attempts": event.attempts,
        "parked": event.parked,
        "handed_at": event.handed_at,
        "until": event.until,
        "error": event.error,
    }


def _dead_data(letter: DeadLetter) -> dict[str, Any]:
    return {
        "position": letter.position,
        "attempts": letter.attempts,
        "consumer": letter.consumer,
        "error": letter.error,
        "buried_at": letter.buried_at,
        "event": None if letter.event is None else event_data(letter.event),
    }


def _follows(selection: dict[str, Any]) -> str:
    """What a group selects, as `stream=orders, type=placed`."""
    if not selection:
        return "all events"
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json_text(value)}"
        for name, value in selection.items()
    )


def _about(info: GroupInfo, lag: int) -> Iterator[tuple[str, str]]:
    """A group: a label, and what there is to say."""
    yield "group", info.name
    yield "follows", _follows(info.selection)
    yield "ordered by", info.ordered_by or "nothing"
    yield "attempts", f"at most {info.max_attempts:,}"
    yield "position", f"{info.position:,}, {lag:,} events behind"
    yield "open", f"{info.held:,} held, {info.parked:,} parked"
    yield "dead", f"{info.dead_letters:,}"
    yield "made", moment(info.created_at)
    yield "changed", moment(info.updated_at)


def _info_row(info: GroupInfo, lag: int) -> tuple[str, ...]:
    numbers = (info.position, lag, info.held, info.parked, info.dead_letters)
    return (info.name, *(f"{number:,}" for number in numbers), _follows(info.selection))


def _pending_row(event: Pending) -> tuple[str, ...]:
    return (
        str(event.position),
        f"{event.attempts:,}",
        "parked" if event.consumer is None else event.consumer,
        moment(event.until),
        event.error or "",
    )


def _dead_line(letter: DeadLetter) -> Text:
    event = letter.event
    return line(
        (f"{letter.position:>8}", "bold"),
        (f"  {moment(letter.buried_at)}", "dim"),
        ("  (trimmed)" if event is None else f"  {event.stream}", "cyan"),
        ("" if event is None else f"  {event.type}", "green"),
        (f"  attempts {letter.attempts:,}", ""),
        ("" if letter.consumer is None else f"  {letter.consumer}", "magenta"),
        ("" if letter.error is None else f"  {letter.error}", "red"),
    )
