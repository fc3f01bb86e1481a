"""`pgmem leases`: list named leases and release one.

A release names the fencing token, so that it takes the lease from the holder that was seen and
never from a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pgmem.cli.commands import Group
from pgmem.cli.options import database_options, json_option, memory_of
from pgmem.cli.output import (
    Column,
    Table,
    moment,
    print_json,
    print_json_lines,
    print_labelled,
    print_line,
    say,
    short_moment,
)
from pgmem.errors import PgmemError

if TYPE_CHECKING:
    from datetime import datetime

    from pgmem.leases.models import LeaseInfo

WIDTH = 10

COLUMNS = (
    Column("LEASE", style="key"),
    Column("TOKEN", right=True),
    Column("SINCE", style="faint"),
    Column("EXPIRES", style="faint"),
    Column("WAITING", right=True),
    Column("OWNER", style="agent"),
)


@click.group("leases", cls=Group)
def app() -> None:
    """List the named leases that are held, and release one."""


@app.command(
    "list",
    examples="""
    pgmem leases list
    pgmem leases list nightly-
    pgmem leases list --json | jq 'select(.waiters > 0)'
    """,
)
@click.argument("prefix", required=False, default="")
@database_options
@json_option
def list_(prefix: str, *, url: str | None, schema: str, as_json: bool) -> None:
    """List the leases that are held, ordered by name.

    With PREFIX only those whose name begins with it.
    With --json each lease is a JSON object on a line of its own.
    """
    with memory_of(url, schema) as memory:
        found = memory.leases.list(prefix)
    if as_json:
        print_json_lines(lease._asdict() for lease in found)
    elif found:
        Table(*COLUMNS).add(_row(lease, short_moment) for lease in found)
    else:
        say("no leases are held")


@app.command(
    examples="""
    pgmem leases show nightly-report
    pgmem leases show nightly-report --json
    """,
)
@click.argument("name")
@database_options
@json_option
def show(name: str, *, url: str | None, schema: str, as_json: bool) -> None:
    """Print the holder of a lease. Exit code 1 if the lease is not held."""
    with memory_of(url, schema) as memory:
        lease = memory.leases.get(name)
    if lease is None:
        raise PgmemError(f"the lease {name!r} is not held; `pgmem leases list` shows those held")
    if as_json:
        print_json(lease._asdict())
    else:
        labels = (column.title.lower() for column in COLUMNS)
        print_labelled(zip(labels, _row(lease, moment), strict=True), WIDTH)


@app.command(
    examples="""
    # With the token that `pgmem leases show` prints
    pgmem leases release nightly-report --token 7
    """,
)
@click.argument("name")
@click.option(
    "--token",
    metavar="N",
    type=int,
    required=True,
    help="The fencing token of the holder, as `pgmem leases show` prints it.",
)
@database_options
@json_option
def release(name: str, *, token: int, url: str | None, schema: str, as_json: bool) -> None:
    """Take a lease from its holder and give it to the first waiter.

    The holder notices at its next renewal. What it writes with the lease is refused at once.
    """
    with memory_of(url, schema) as memory:
        memory.leases.release(name, token=token)
    if as_json:
        print_json({"lease": name, "released": True})
    else:
        print_line(f"{name}: released")


def _row(lease: LeaseInfo, time: Callable[[datetime], str]) -> tuple[str, ...]:
    return (
        lease.name,
        str(lease.token),
        time(lease.acquired_at),
        time(lease.expires_at),
        f"{lease.waiters:,}",
        lease.owner,
    )
