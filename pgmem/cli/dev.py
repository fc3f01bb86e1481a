"""`pgmem dev`: run a private PostgreSQL with pgmem's tables until Ctrl-C, and keep its data."""

from __future__ import annotations

import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pgmem.cli.commands import Command
from pgmem.cli.output import print_line
from pgmem.errors import PgmemError

DATA = Path(".pgmem/data")


@click.command(
    cls=Command,
    examples="""
    pgmem dev

    # In another terminal, after the `export` line that it prints
    pgmem tail

    # Data elsewhere
    pgmem dev --data ~/pgmem-data
    """,
)
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA,
    show_default=True,
    help="The folder of the data. It is made if it is missing.",
)
def dev(data: Path) -> None:
    """Run a private PostgreSQL for development until Ctrl-C.

    It has pgmem's tables. The data stays for the next start. Several `pgmem dev` on the same data
    share one server. Not for production: the server accepts programs of this user only.
    """
    from pgmem import EmbeddedPostgres, migrate  # noqa: PLC0415

    with _stop_signal() as stopped:
        if data == DATA:
            _keep_out_of_git(data.parent)
        with EmbeddedPostgres(data) as server:
            migrate.upgrade(server.url)
            print_line(f"PostgreSQL is ready. Its data is in {server.data_dir}.")
            print_line(f"  {server.url}")
            print_line("Run this line in another terminal:")
            print_line(f"  export PGMEM_DATABASE_URL='{server.url}'")
            print_line("Ctrl-C stops the server and keeps the data.")
            sys.stdout.flush()
            _wait(server.url, stopped)
        print_line(f"Stopped. The data stays in {data}.")


def _keep_out_of_git(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")


@contextmanager
def _stop_signal() -> Iterator[socket.socket]:
    """Give a socket that becomes readable at SIGINT or SIGTERM."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    descriptor = signal.set_wakeup_fd(writer.fileno())
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _wait(url: str, stopped: socket.socket) -> None:
    """Return when a signal has arrived.

    Raises:
        PgmemError: The server has ended. An idle connection shows that at once.
    """
    import psycopg  # noqa: PLC0415

    with psycopg.connect(url, autocommit=True, application_name="pgmem dev") as connection:
        wake_up = stopped.fileno()
        readable, _, _ = select.select([wake_up, connection.fileno()], [], [])
    if wake_up not in readable:
        raise PgmemError("the server has ended; its log is pgmem-server.log in the data folder")
