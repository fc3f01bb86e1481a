"""`pgmem tail`: print the last events of the log, then each new one."""

from __future__ import annotations

import sys
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import click

from pgmem.cli.commands import Command
from pgmem.cli.options import POSITION, database_options, json_option, memory_of
from pgmem.cli.output import (
    Column,
    Table,
    event_data,
    has_colours,
    json_text,
    print_json_lines,
    say,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgmem import Memory, RecordedEvent, StateChange

BATCH = 500


@click.command(
    cls=Command,
    examples="""
    # The last 10 events of all streams, then each new one
    pgmem tail

    # All events of two streams from the beginning
    pgmem tail --after 0 orders payments

    # New events of one type, for a program
    pgmem tail --after now --type payment.failed --json | jq .payload
    """,
)
@click.argument("streams", metavar="[STREAM]...", nargs=-1)
@click.option("--prefix", metavar="TEXT", help="Only streams whose name begins with TEXT.")
@click.option("--type", "type_", metavar="TYPE", help="Only events of this type.")
@click.option("--agent", metavar="NAME", help="Only events of this agent.")
@click.option(
    "--after",
    metavar="POSITION",
    type=POSITION,
    help="Begin after this position: 0 is the beginning of the log, 'now' its end.",
)
@click.option(
    "--lines",
    "-n",
    metavar="N",
    type=click.IntRange(0, 10_000),
    default=10,
    show_default=True,
    help="Without --after: begin with the last N events.",
)
@click.option("--full", is_flag=True, help="Print whole payloads and metadata, over several lines.")
@database_options
@json_option
def tail(
    streams: tuple[str, ...],
    *,
    prefix: str | None,
    type_: str | None,
    agent: str | None,
    after: int | Literal["now"] | None,
    lines: int,
    full: bool,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Print the last events, then each new one, until Ctrl-C.

    Every event is printed once, in the order of the log, one line each. On a terminal the line is
    cut at its edge. With --json each event is a JSON object on a line of its own.
    """
    if streams and prefix is not None:
        raise click.UsageError("Give STREAM or --prefix, not both.", click.get_current_context())
    selection: dict[str, Any] = {"prefix": prefix, "type": type_, "agent_id": agent}
    with memory_of(url, schema, pool=(1, 2)) as memory:
        chosen = list(streams) or None
        start = _last(memory, chosen, selection, lines) if after is None else after
        printer = _Printer(full=full)
        with memory.events.subscribe(chosen, after=start, **selection) as events:
            while found := events.receive(BATCH):
                if as_json:
                    print_json_lines(map(_data, found))
                else:
                    printer.add(found)
                sys.stdout.flush()


def _last(
    memory: Memory, streams: list[str] | None, selection: dict[str, Any], lines: int
) -> int | Literal["now"]:
    """Return the position in front of the last `lines` events."""
    if lines == 0:
        return "now"
    newest = memory.events.read(streams, limit=lines, reverse=True, **selection)
    if not newest:
        say("no events yet: waiting for the first one")
    return newest[-1].position - 1 if len(newest) == lines else 0


class _Printer:
    """Prints events below each other, and the date whenever the day changes."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._day: date | None = None
        titles = (
            Column("TIME", width=12, style="faint"),
            Column("POSITION", right=True, width=8, style="bold"),
            Column("STREAM", width=10, style="key"),
            Column("TYPE", width=10, style="type"),
            Column("AGENT", width=6, style="agent"),
        )
        self._table = Table(*titles) if full else Table(*titles, Column("PAYLOAD"))

    def add(self, events: Sequence[RecordedEvent]) -> None:
        """Print events in the order given."""
        rows = [self._row(event) for event in events]
        self._table.fit(rows)
        for event, row in zip(events, rows, strict=True):
            day = event.recorded_at.astimezone().date()
            if day != self._day:
                self._day = day
                self._table.note(f"{day}")
            self._table.add([row])
            if self._full:
                _print_whole(event)

    def _row(self, event: RecordedEvent) -> tuple[str, ...]:
        row = (
            f"{event.recorded_at.astimezone():%H:%M:%S.%f}"[:-3],
            str(event.position),
            event.stream,
            event.type,
            event.agent_id or "-",
        )
        return row if self._full else (*row, _summary(event))


def _summary(event: RecordedEvent) -> str:
    """Return the payload, or for a change of the state the key and the new value."""
    if event.change is None:
        return "" if event.payload is None else json_text(event.payload)
    change = event.change
    key = "" if event.stream == f"state:{change.key}" else f"{change.key} "
    version = "" if change.version is None else f"v{change.version} "
    return f"{key}{version}{'deleted' if change.deleted else json_text(change.value)}"


def _print_whole(event: RecordedEvent) -> None:
    coloured = has_colours(sys.stdout)
    parts = {"payload": event.payload, "metadata": event.metadata or None}
    if (change := event.change) is not None:
        parts["change"] = _change_data(change)
        if change.value == event.payload:
            del parts["payload"]  # printed as the change's value
    for label, value in parts.items():
        if value is None:
            continue
        shown = style(label, "faint") if coloured else label
        text = json_text(value, indent=2).replace("\n", "\n    ")
        sys.stdout.write(f"  {shown}:\n    {text}\n")


def _data(event: RecordedEvent) -> dict[str, Any]:
    data: dict[str, Any] = {"position": event.position, **event_data(event)}
    if (change := event.change) is not None:
        data["change"] = _change_data(change)
    return data


def _change_data(change: StateChange) -> dict[str, Any]:
    return {
        "key": change.key,
        "version": change.version,
        "deleted": change.deleted,
        "value": change.value,
        "expires_at": change.expires_at,
    }
