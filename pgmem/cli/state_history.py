"""`pgmem state history` and `pgmem state blame`: how an entry became what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pgmem.cli.commands import Command
from pgmem.cli.options import database_options, json_option, memory_of
from pgmem.cli.output import Column, Table, json_text, moment, print_json_lines, short_moment
from pgmem.errors import PgmemError

if TYPE_CHECKING:
    from pgmem import Memory, RecordedEvent, StateChange
    from pgmem.state.models import FieldBlame

PAGE = 200

HISTORY = (
    Column("POSITION", right=True),
    Column("TIME", style="faint"),
    Column("VERSION", right=True),
    Column("TYPE", style="type"),
    Column("AGENT", style="agent"),
    Column("VALUE"),
)
BLAME = (
    Column("POSITION", right=True),
    Column("TIME", style="faint"),
    Column("AGENT", style="agent"),
    Column("RUN"),
    Column("CAUSE", right=True),
    Column("FIELD", style="key"),
    Column("VALUE"),
    Column("BEFORE"),
)


@click.command(
    cls=Command,
    examples="""
    pgmem state history account:1

    # What an agent did to an entry
    pgmem state history account:1 --json | jq 'select(.agent_id == "billing")'
    """,
)
@click.argument("key")
@database_options
@json_option
def history(key: str, *, url: str | None, schema: str, as_json: bool) -> None:
    """Print the recorded changes of an entry, oldest first. Exit code 1 if there are none.

    With --json each change is a JSON object on a line of its own.
    """
    table, empty = Table(*HISTORY), True
    with memory_of(url, schema) as memory:
        for page in _changes(memory, key):
            empty = False
            if as_json:
                print_json_lines(
                    change_data(change) | {"type": event.type, "recorded_at": event.recorded_at}
                    for event, change in page
                )
            else:
                table.add(_history_row(event, change) for event, change in page)
    if empty:
        raise PgmemError(f"the log has no changes of the state entry {key!r}")


@click.command(
    cls=Command,
    examples="""
    pgmem state blame plan

    # Objects and lists below the first level count as one field
    pgmem state blame plan --depth 1

    # Which fields one agent wrote last
    pgmem state blame plan --json | jq -r 'select(.agent_id == "critic").path'
    """,
)
@click.argument("key")
@click.option(
    "--depth",
    metavar="N",
    type=click.IntRange(min=0),
    help="Levels of objects and lists to look into. Default: all.",
)
@database_options
@json_option
def blame(key: str, *, depth: int | None, url: str | None, schema: str, as_json: bool) -> None:
    """Print which change made each field of an entry what it is. Exit code 1 if there is none.

    A `?` behind the position says that writes which are not in the log came just before, and that
    one of them may have made the change. With --json each field is a JSON object on a line of its
    own.
    """
    with memory_of(url, schema) as memory:
        fields = memory.state.blame(key, depth=depth)
    if not fields:
        raise PgmemError(
            f"there is no state entry {key!r}, or it has expired; `pgmem state history` shows what "
            f"happened to it"
        )
    if as_json:
        print_json_lines(field._asdict() for field in fields)
    else:
        Table(*BLAME).add(map(_blame_row, fields))


def change_data(change: StateChange) -> dict[str, Any]:
    """Return a change as a JSON object."""
    return {
        "position": change.position,
        "key": change.key,
        "version": change.version,
        "deleted": change.deleted,
        "value": change.value,
        "expires_at": change.expires_at,
        "agent_id": change.agent_id,
    }


def version_text(change: StateChange) -> str:
    """Return the version after a change, for a table."""
    return "-" if change.version is None else f"{change.version:,}"


def value_text(change: StateChange) -> str:
    """Return the value after a change, for a table."""
    if change.deleted:
        return "(deleted)"
    if change.version is None:
        end = change.expires_at
        return "(expires never)" if end is None else f"(expires {moment(end)})"
    return json_text(change.value)


def _changes(memory: Memory, key: str) -> Iterator[list[tuple[RecordedEvent, StateChange]]]:
    """Yield the history of an entry in pages."""
    after = 0
    while events := memory.state.history(key, after=after, limit=PAGE):
        page = []
        for event in events:
            change = event.change
            if change is None or change.version is None:
                raise PgmemError(f"the event {event.position} is not a change of the state {key!r}")
            page.append((event, change))
            after = change.version
        yield page


def _history_row(event: RecordedEvent, change: StateChange) -> tuple[str, ...]:
    return (
        str(change.position),
        short_moment(event.recorded_at),
        version_text(change),
        event.type,
        change.agent_id or "-",
        value_text(change),
    )


def _blame_row(field: FieldBlame) -> tuple[str, ...]:
    position = "-" if field.position is None else str(field.position)
    return (
        position if field.certain else f"{position}?",
        "-" if field.recorded_at is None else short_moment(field.recorded_at),
        field.agent_id or "-",
        field.run_id or "-",
        "-" if field.cause is None else str(field.cause),
        field.path,
        json_text(field.value),
        json_text(field.before) if field.existed else "-",
    )
