"""`pgmem tail`: print the end of the log, and then each event as it comes.

Only the command line and the look of a line; what follows the log is `memory.events.subscribe`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pgmem.cli.options import (
    AsJson,
    Schema,
    Url,
    event_data,
    json_text,
    memory_of,
    out,
    print_json_line,
    printable,
)
from pgmem.errors import InvalidOption

if TYPE_CHECKING:
    from rich.text import Text

    from pgmem import Memory, RecordedEvent

BATCH = 500


def tail(
    streams: Annotated[
        list[str] | None,
        typer.Argument(metavar="STREAM", help="Only these streams.", show_default=False),
    ] = None,
    *,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", metavar="TEXT", help="Only streams whose name begins so."),
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only events of this type.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Only events of this agent.")
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="POSITION",
            help="Begin after this position: 0 with the oldest event, 'now' with the next one.",
        ),
    ] = None,
    lines: Annotated[
        int,
        typer.Option(
            "--lines",
            "-n",
            metavar="N",
            min=0,
            max=10_000,
            help="Without --after: begin with the last N events.",
        ),
    ] = 10,
    url: Url = None,
    schema: Schema = "pgmem",
    as_json: AsJson = False,
) -> None:
    """Follow the log: every event once, in order, until Ctrl-C.

    With --json each event is one JSON object on a line of its own.
    """
    selection: dict[str, Any] = {"prefix": prefix, "type": type_, "agent_id": agent}
    with memory_of(url, schema, pool=(1, 2)) as memory:
        chosen = streams or None
        start = _position(after) if after is not None else _last(memory, chosen, selection, lines)
        console = out()
        with memory.events.subscribe(chosen, after=start, **selection) as events:
            while found := events.receive(BATCH):
                for event in found:
                    if as_json:
                        print_json_line(_data(event))
                    else:
                        console.print(_line(event), soft_wrap=True)
                sys.stdout.flush()


def _position(after: str) -> int | Literal["now"]:
    if after == "now":
        return "now"
    if not after.isdecimal():
        raise InvalidOption(f"--after takes a position (0 or more) or 'now', got {after[:40]!r}")
    return int(after)


def _last(
    memory: Memory, streams: list[str] | None, selection: dict[str, Any], lines: int
) -> int | Literal["now"]:
    """The position in front of the last lines."""
    if lines == 0:
        return "now"
    newest = memory.events.read(streams, limit=lines, reverse=True, **selection)
    return newest[-1].position - 1 if len(newest) == lines else 0


def _data(event: RecordedEvent) -> dict[str, Any]:
    data: dict[str, Any] = {"position": event.position, **event_data(event)}
    if (change := event.change) is not None:
        data["change"] = {
            "key": change.key,
            "version": change.version,
            "deleted": change.deleted,
            "value": change.value,
            "expires_at": change.expires_at,
        }
    return data


def _line(event: RecordedEvent) -> Text:
    from rich.text import Text  # noqa: PLC0415

    parts = [
        (f"{event.position:>8}", "bold"),
        (f"  {event.recorded_at.astimezone():%H:%M:%S.%f}"[:-3], "dim"),
        (f"  {event.stream}", "cyan"),
        (f"  {event.type}", "green"),
    ]
    if event.agent_id is not None:
        parts.append((f"  {event.agent_id}", "magenta"))
    if event.payload is not None:
        parts.append((f"  {json_text(event.payload)}", ""))
    return Text.assemble(*((printable(text), style) for text, style in parts))
