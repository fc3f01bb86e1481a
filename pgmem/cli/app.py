"""The root of the `pgmem` command: its subcommands, and what its errors look like.

Conventions for every command:

- `--url` and `--schema` say where the data is, `--json` prints for programs.
- Data goes to stdout, everything else to stderr.
- Exit code 1 and a message of one or two lines for an error, 2 for wrong usage, 130 for Ctrl-C.
- No traceback for an error of the library, and no password in any message.

To add a command, write it in the module of its capability and name it in `SECTIONS`. Import the
library inside the function that uses it: `pgmem --version` and `--help` must start quickly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from pgmem.cli.commands import LazyGroup
from pgmem.cli.output import one_line

SECTIONS: Final = {
    "Events and state": {
        "tail": "pgmem.cli.events:tail",
        "state": "pgmem.cli.state:app",
        "trace": "pgmem.cli.agents:trace",
        "digest": "pgmem.cli.agents:digest",
        "stats": "pgmem.cli.stats:stats",
    },
    "Shared work": {
        "subscriptions": "pgmem.cli.subscriptions:app",
        "history": "pgmem.cli.history:app",
        "groups": "pgmem.cli.groups:app",
        "leases": "pgmem.cli.leases:app",
    },
    "Administration": {
        "migrate": "pgmem.cli.migrate:app",
        "retention": "pgmem.cli.retention:app",
        "trim": "pgmem.cli.retention:trim",
        "restore": "pgmem.cli.retention:restore",
        "maintain": "pgmem.cli.retention:maintain",
    },
    "Getting started": {
        "dev": "pgmem.cli.dev:dev",
        "demo": "pgmem.cli.demo:demo",
        "import-redis": "pgmem.cli.redis:import_redis",
        "completion": "pgmem.cli.completion:completion",
    },
}


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"pgmem {version('pgmem-agents')}")
    except PackageNotFoundError:
        click.echo("pgmem (not installed)")
    ctx.exit()


@click.group("pgmem", cls=LazyGroup, sections=SECTIONS, context_settings={"max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
def app() -> None:
    """Shared memory for several agents, in the PostgreSQL that you already run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and end the process with its exit code.

    Args:
        arguments: The command line without the program's name. None: the process's own.

    Raises:
        SystemExit: Always.
    """
    if "_PGMEM_COMPLETE" in os.environ:
        from pgmem.cli.completion import complete

        sys.exit(complete(os.environ["_PGMEM_COMPLETE"]))
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader of our output has ended, as in `pgmem … | head`. Another write at exit would
        # print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command line; print its error if it has one. Return the exit code."""
    code = 1
    try:
        with app.make_context("pgmem", arguments) as ctx:
            app.invoke(ctx)
        code = 0
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.UsageError as error:
        path = "pgmem" if error.ctx is None else error.ctx.command_path
        sys.stderr.write(f"{path}: {one_line(error.format_message())}\nTry '{path} --help'.\n")
        code = 2
    except click.ClickException as error:
        sys.stderr.write(f"pgmem: {one_line(error.format_message())}\n")
    except click.Abort:
        pass  # the question has said why
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"pgmem: {one_line(f'{where}{error.strerror or error}')}\n")
    return code
