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

from pgmem.cli import demo, import_redis, migrate, tail
from pgmem.errors import PgmemError

app = typer.Typer(
    name="pgmem",
    help="Shared memory for several agents, in the PostgreSQL that you already run.",
    no_args_is_help=True,
    add_completion=False,
    # A pretty traceback shows local variables, a connection string among them.
    pretty_exceptions_enable=False,
)
app.add_typer(migrate.app, name="migrate")
app.command()(demo.demo)
app.command()(tail.tail)
app.command()(import_redis.import_redis)


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


def one_line(error: BaseException) -> str:
    """The error's message without line breaks or control characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
