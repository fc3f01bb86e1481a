"""`pgmem trace` and `pgmem digest`: what followed from what, and what changed since a position."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pgmem.cli.commands import Command
from pgmem.cli.options import database_options, json_option, memory_of
from pgmem.cli.output import (
    Column,
    Table,
    event_data,
    json_text,
    print_json,
    print_json_lines,
    print_line,
    printable,
    say,
    short_moment,
)

if TYPE_CHECKING:
    from pgmem.events.trace import Trace

TREE = (
    Column("POSITION", right=True),
    Column("TIME", style="faint"),
    Column("AGENT", style="agent"),
    Column("STREAM", style="key"),
    Column("EVENT", style="type"),
    Column("PAYLOAD"),
)


@click.command(
    cls=Command,
    examples="""
    # Everything that followed from the first cause of event 1042
    pgmem trace 1042

    pgmem trace 1042 --json | jq 'select(.type == "payment.failed")'
    """,
)
@click.argument("position", type=click.IntRange(min=1))
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=1_000,
    show_default=True,
    help="Print at most N events: those nearest to the first one.",
)
@database_options
@json_option
def trace(position: int, *, limit: int, url: str | None, schema: str, as_json: bool) -> None:
    """Print the tree of causes and effects that an event is in.

    An event stands below the one that caused it, indented. With --json each event is a JSON object
    on a line of its own, with its depth.
    """
    with memory_of(url, schema) as memory:
        tree = memory.events.trace(position, limit=limit)
    if as_json:
        print_json_lines(event_data(one.event) | {"depth": depth} for depth, one in _walk(tree))
    else:
        Table(*TREE).add(_row(depth, one, position) for depth, one in _walk(tree))
    if not tree.complete:
        say("the tree is not complete: its first cause is not in the log, or --limit cut it")


@click.command(
    cls=Command,
    examples="""
    # What changed since event 1042, for a prompt
    pgmem digest 1042

    # Of the orders only, in at most 500 characters
    pgmem digest 1042 --prefix order: --budget 500
    """,
)
@click.argument("since", metavar="POSITION", type=click.IntRange(min=0))
@click.option("--key", "keys", metavar="KEY", multiple=True, help="Tell of this entry. Repeatable.")
@click.option("--prefix", metavar="TEXT", help="Tell of the entries whose key begins with TEXT.")
@click.option(
    "--stream", "streams", metavar="NAME", multiple=True, help="Tell of this stream. Repeatable."
)
@click.option(
    "--budget",
    metavar="N",
    type=click.IntRange(min=1),
    default=2_000,
    show_default=True,
    help="Characters of text at most.",
)
@database_options
@json_option
def digest(
    since: int,
    *,
    keys: tuple[str, ...],
    prefix: str | None,
    streams: tuple[str, ...],
    budget: int,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Print what changed since a position, as text for a prompt.

    The newest and largest changes come first. Without --key, --prefix and --stream it tells of
    everything. The position to go on from is a line on stderr; with --json it is in the object.
    """
    with memory_of(url, schema) as memory:
        found = memory.digest(
            since, keys=keys or None, prefix=prefix, streams=streams or None, budget=budget
        )
    if as_json:
        entries: list[dict[str, Any]] = [
            entry._asdict() | {"fields": [change._asdict() for change in entry.fields]}
            for entry in found.entries
        ]
        news = [
            {
                "stream": one.stream,
                "total": one.total,
                "events": [event_data(event) for event in one.events],
            }
            for one in found.streams
        ]
        print_json(found._asdict() | {"entries": entries, "streams": news})
        return
    for line in found.text.splitlines():
        print_line(printable(line))
    sys.stdout.flush()
    say(f"up to position {found.position}")


def _walk(tree: Trace) -> Iterator[tuple[int, Trace]]:
    """Yield each event of a tree with its depth, then its effects."""
    left = [(0, tree)]
    while left:
        depth, one = left.pop()
        yield depth, one
        left += [(depth + 1, effect) for effect in reversed(one.effects)]


def _row(depth: int, one: Trace, asked: int) -> tuple[str, ...]:
    event = one.event
    mark = " <" if event.position == asked else ""
    return (
        str(event.position),
        short_moment(event.recorded_at),
        event.agent_id or "-",
        event.stream,
        f"{'  ' * depth}{event.type}{mark}",
        json_text(event.payload),
    )
