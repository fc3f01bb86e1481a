"""`pgmem leases`: who holds which lease, and taking one from a holder who is not to have it.

Only the command lines and the looks; what is done is `memory.leases`. A release names the fencing
token, so that it takes the lease from the one who was looked at, and from nobody after him.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pgmem.cli.options import (
    AsJson,
    Schema,
    Url,
    memory_of,
    moment,
    out,
    print_columns,
    print_json,
    print_json_line,
    print_labelled,
    printable,
)
from pgmem.core.names import DEFAULT_SCHEMA
from pgmem.errors import PgmemError

if TYPE_CHECKING:
    from pgmem import LeaseInfo

app = typer.Typer(help="See who holds which lease, and release one.", no_args_is_help=True)

WIDTH = 10

Name = Annotated[str, typer.Argument(help="The lease's name.")]


@app.command("list")
def list_(
    prefix: Annotated[
        str, typer.Argument(help="Only leases whose name begins so.", show_default=False)
    ] = "",
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """List the leases that are held now, in the order of their names.

    With --json each lease is one JSON object on a line of its own.
    """
    with memory_of(url, schema) as memory:
        found = memory.leases.list(prefix)
    if as_json:
        for lease in found:
            print_json_line(lease._asdict())
    elif found:
        titles = ("lease", "held by", ">token", "since", "until", ">waiting")
        print_columns(titles, list(map(_row, found)))


@app.command()
def show(
    name: Name, url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False
) -> None:
    """Print who holds a lease; exit code 1 if nobody does."""
    with memory_of(url, schema) as memory:
        lease = memory.leases.get(name)
    if lease is None:
        raise PgmemError(
            f"nobody holds the lease {name!r}: `pgmem leases list` tells which are held"
        )
    if as_json:
        print_json(lease._asdict())
    else:
        labels = ("lease", "held by", "token", "since", "until", "waiting")
        print_labelled(zip(labels, _row(lease), strict=True), WIDTH)


@app.command()
def release(
    name: Name,
    *,
    token: Annotated[
        int,
        typer.Option(
            "--token",
            metavar="N",
            help="The fencing token of the holder, as `pgmem leases show` tells it.",
            show_default=False,
        ),
    ],
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    as_json: AsJson = False,
) -> None:
    """Take a lease from its holder, and give it to the first who waits for it.

    The holder learns it with its next renewal; what it writes with the lease is refused at once.
    """
    with memory_of(url, schema) as memory:
        memory.leases.release(name, fencing_token=token)
    if as_json:
        print_json({"lease": name, "released": True})
    else:
        out().print(f"{printable(name)}: released", markup=False)


def _row(lease: LeaseInfo) -> tuple[str, ...]:
    return (
        lease.name,
        lease.holder,
        str(lease.fencing_token),
        moment(lease.acquired_at),
        moment(lease.expires_at),
        f"{lease.waiters:,}",
    )
