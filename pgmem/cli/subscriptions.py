"""`pgmem subscriptions`: list, reset and delete durable subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgmem.cli.commands import Group
from pgmem.cli.options import database_options, json_option, memory_of, yes_option
from pgmem.cli.output import (
    Column,
    Table,
    confirm,
    print_json,
    print_json_lines,
    print_line,
    say,
    short_moment,
)
from pgmem.errors import PgmemError

if TYPE_CHECKING:
    from pgmem import Memory
    from pgmem.events.models import SubscriptionInfo

COLUMNS = (
    Column("SUBSCRIPTION", style="key"),
    Column("POSITION", right=True),
    Column("LAG", right=True),
    Column("UPDATED", style="faint"),
    Column("OWNER", style="agent"),
)


@click.group("subscriptions", cls=Group)
def app() -> None:
    """List, reset and delete durable subscriptions.

    A durable subscription stores the position up to which its reader has handled the log.
    """


@app.command(
    "list",
    examples="""
    pgmem subscriptions list

    # The names of those that have more than 1,000 events to handle
    pgmem subscriptions list --json | jq -r 'select(.lag > 1000) | .name'
    """,
)
@database_options
@json_option
def list_(*, url: str | None, schema: str, as_json: bool) -> None:
    """List the subscriptions, with position, lag and owner.

    The lag is the number of events that the subscription selects and has not handled. With --json
    each subscription is a JSON object on a line of its own.
    """
    with memory_of(url, schema) as memory:
        found = memory.subscriptions.list()
    if as_json:
        print_json_lines(info._asdict() for info in found)
    elif found:
        Table(*COLUMNS).add(map(_row, found))
    else:
        say("no subscriptions")


@app.command(
    examples="""
    # Go on after position 1200
    pgmem subscriptions reset billing 1200

    # Read everything again from the oldest event on
    pgmem subscriptions reset billing 0 --yes

    # After a restore: keep the position, accept the log as it is now
    pgmem subscriptions reset billing
    """,
)
@click.argument("name")
@click.argument("position", type=click.IntRange(min=0), required=False)
@yes_option
@database_options
@json_option
def reset(
    name: str, position: int | None, *, yes: bool, url: str | None, schema: str, as_json: bool
) -> None:
    """Let a subscription go on after POSITION.

    It also accepts the present history of the log, as after a restore. Without POSITION
    it keeps its position, or gets the head of the log if that is lower. A reader that holds the
    subscription loses it.
    """
    with memory_of(url, schema) as memory:
        info = _find(memory, name)
        if not yes:
            confirm(
                f"Accept the present log for subscription {name} at {info.position:,}?"
                if position is None
                else f"Move subscription {name} from {info.position:,} to {position:,}?"
            )
        memory.subscriptions.reset(name, position)
        info = _find(memory, name)
    if as_json:
        print_json({"subscription": name, "position": info.position})
    else:
        print_line(f"{name}: continues after position {info.position:,}")


@app.command(
    examples="""
    pgmem subscriptions delete billing
    pgmem subscriptions delete billing --yes
    """,
)
@click.argument("name")
@yes_option
@database_options
@json_option
def delete(name: str, *, yes: bool, url: str | None, schema: str, as_json: bool) -> None:
    """Delete a subscription and its position. The events stay.

    A reader that holds the subscription loses it.
    """
    with memory_of(url, schema) as memory:
        info = _find(memory, name)
        if not yes:
            confirm(f"Delete subscription {name} with its position {info.position:,}?")
        if not memory.subscriptions.delete(name):
            raise _missing(name)
    if as_json:
        print_json({"subscription": name, "deleted": True})
    else:
        print_line(f"{name}: deleted")


def _find(memory: Memory, name: str) -> SubscriptionInfo:
    info = memory.subscriptions.get(name)
    if info is None:
        raise _missing(name)
    return info


def _missing(name: str) -> PgmemError:
    return PgmemError(
        f"there is no subscription {name!r}; `pgmem subscriptions list` shows the subscriptions"
    )


def _row(info: SubscriptionInfo) -> tuple[str, ...]:
    return (
        info.name,
        f"{info.position:,}",
        f"{info.lag:,}",
        short_moment(info.updated_at),
        info.owner or "-",
    )
