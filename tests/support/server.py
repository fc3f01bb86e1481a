"""One PostgreSQL server for a test run, and databases made from a migrated template.

The controller of the run starts the server and makes the template; the workers find both in the
environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmem import migrate
from pgmem.embedded import EmbeddedPostgres

SERVER_VARIABLE = "PGMEM_TEST_SERVER"
TEMPLATE = "pgmem_test_template"

SETTINGS = {
    "fsync": "off",  # The tests of durability start servers of their own.
    "max_connections": 300,
    "max_prepared_transactions": 20,
    "shared_buffers": "64MB",
}


class Server:
    """The run's server: ours to start and stop, or somebody else's to use."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._embedded: EmbeddedPostgres | None = None

    def start(self) -> None:
        """Start it if it is ours, make the template, and tell the workers."""
        if self._wanted and ("://" in self._wanted or "=" in self._wanted):
            url = self._wanted
        else:
            if self._wanted:
                os.environ["PGMEM_PG_BIN"] = str(binaries(self._wanted))
            self._embedded = EmbeddedPostgres(settings=SETTINGS)
            self._embedded.start()
            url = self._embedded.url
        os.environ[SERVER_VARIABLE] = url
        drop_database(url, TEMPLATE)
        migrate.upgrade(create_database(url, TEMPLATE))

    def stop(self) -> None:
        """Leave nothing behind."""
        if self._embedded is not None:
            self._embedded.stop()
        elif self._wanted:
            drop_database(os.environ[SERVER_VARIABLE], TEMPLATE)


def binaries(wanted: str) -> Path:
    """The bin folder of a version ("15" to "18"), or the folder that was named."""
    if not wanted.isdigit():
        return Path(wanted)
    tool = Path(__file__).parents[2] / "tools" / "postgres_binaries.py"
    found = subprocess.run(
        [sys.executable, tool, wanted], check=True, stdout=subprocess.PIPE, text=True
    )
    return Path(found.stdout.strip())


def create_database(server: str, name: str, template: str | None = None) -> str:
    """Create a database and give its URL."""
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template:
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)
    return make_conninfo(server, dbname=name)


def drop_database(server: str, name: str) -> None:
    """Drop a database, whoever is still connected."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@contextmanager
def fresh_database(server: str, template: str | None = None):
    """A database of its own for as long as the block lasts."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    try:
        yield create_database(server, name, template)
    finally:
        drop_database(server, name)
