"""The `pgmem` command: registers the subcommands and turns errors into one line.

Conventions for every command: `--url` says where the database is (`options.Url`), `--json`
prints data for programs, an error of pgmem's own is one clear line on stderr with exit code 1
(2 is a wrong command line), and no traceback or password is ever shown.

To add commands, write a module beside this one with a `typer.Typer` or a function, and register
it here. Import what is slow (SQLAlchemy, alembic, psycopg) inside the function that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from pgmem.cli import (
    demo,
    groups,
    import_redis,
    leases,
    migrate,
    retention,
    state,
    stats,
    tail,
)
from pgmem.cli.options import one_line
from pgmem.errors import PgmemError

app = typer.Typer(
    name="pgmem",
    help="Shared memory for several agents, in the PostgreSQL that you already run.",
    no_args_is_help=True,
    add_completion=False,
    # A pretty traceback shows local variables, a connection string among them.
    pretty_exceptions_enable=False,
)
app.add_typer(groups.app, name="groups")
app.add_typer(leases.app, name="leases")
app.add_typer(migrate.app, name="migrate")
app.add_typer(retention.app, name="retention")
app.add_typer(state.app, name="state")
app.command()(demo.demo)
app.command()(import_redis.import_redis)
app.command()(retention.maintain)
app.command()(retention.restore)
app.command()(stats.stats)
app.command()(tail.tail)
app.command()(retention.trim)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(f"pgmem {version('pgmem-agents')}")
    except PackageNotFoundError:
        typer.echo("pgmem (not installed)")
    raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options before the subcommand."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the `pgmem` command; ends the process.

    Args:
        arguments: the command line without the program's name; None: the process's own.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="pgmem")
    except PgmemError as error:
        sys.stderr.write(f"pgmem: {one_line(error)}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`pgmem … | head`); say nothing more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
