"""One PostgreSQL server for a test run, and databases made from a migrated template.

The controller of the run starts the server and makes the template. The workers find both in the
environment. A new database costs more time than most tests. So each worker empties its database
and lends it to the next test, unless the test changed more than rows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmem import migrate
from pgmem.embedded.postgres import EmbeddedPostgres

SERVER_VARIABLE = "PGMEM_TEST_SERVER"
TEMPLATE = "pgmem_test_template"

MAINTENANCE = "pgmem tests"
"""The application name of the session that empties a database."""

SETTINGS = {
    "fsync": "off",  # The tests of durability start servers of their own.
    "max_connections": 500,
    "max_prepared_transactions": 20,
    "shared_buffers": "64MB",
}


class Server:
    """The run's server: started and stopped by the run, or one that is already there."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._embedded: EmbeddedPostgres | None = None

    def start(self) -> None:
        """Start a server if none was given, make the template, and set the workers' variable."""
        if self._wanted and ("://" in self._wanted or "=" in self._wanted):
            url = self._wanted
        else:
            if self._wanted:
                os.environ["PGMEM_PG_BIN"] = str(binaries(self._wanted))
            self._embedded = EmbeddedPostgres(settings=SETTINGS)
            with _temporary_folders_in_memory():
                self._embedded.start()
            url = self._embedded.url
        os.environ[SERVER_VARIABLE] = url
        drop_database(url, TEMPLATE)
        migrate.upgrade(create_database(url, TEMPLATE))

    def stop(self) -> None:
        """Stop the server, or drop the template of one that was given."""
        if self._embedded is not None:
            self._embedded.stop()
        elif self._wanted:
            drop_database(os.environ[SERVER_VARIABLE], TEMPLATE)


MEMORY, ROOM = Path("/dev/shm"), 4 * 1024**3


@contextmanager
def _temporary_folders_in_memory():
    """Use a file system in memory for temporary folders, if there is one with enough room.

    Thousands of tests make and remove files of tables there. No data has to outlive the server.
    """
    before = tempfile.tempdir
    try:
        if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
            tempfile.tempdir = str(MEMORY)
        yield
    finally:
        tempfile.tempdir = before


def binaries(wanted: str) -> Path:
    """Return the bin folder of a version ("15" to "18"), or the folder that was named."""
    if not wanted.isdigit():
        return Path(wanted)
    tool = Path(__file__).parents[2] / "tools" / "postgres_binaries.py"
    found = subprocess.run(
        [sys.executable, tool, wanted],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,  # It may have to download them.
    )
    return Path(found.stdout.strip())


def create_database(server: str, name: str, template: str | None = None) -> str:
    """Create a database; return its URL."""
    statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template:
        statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)
    return make_conninfo(server, dbname=name)


def drop_database(server: str, name: str) -> None:
    """Drop a database and end its sessions."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@contextmanager
def fresh_database(server: str, template: str | None = None):
    """Create a database and drop it at the end of the block."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    try:
        yield create_database(server, name, template)
    finally:
        drop_database(server, name)


# The catalogs that a change to a schema, table, function, trigger, right or setting writes to.
_CATALOGS = (
    "pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_default_acl",
    "pg_event_trigger", "pg_extension", "pg_index", "pg_namespace", "pg_policy", "pg_proc",
    "pg_publication", "pg_rewrite", "pg_sequence", "pg_statistic", "pg_trigger", "pg_type",
    "pg_largeobject_metadata", "pgmem.meta", "pgmem.pgmem_version",
    "pg_database WHERE datname = current_database()",
    "pg_db_role_setting WHERE setdatabase ="
    " (SELECT oid FROM pg_database WHERE datname = current_database())",
)  # fmt: skip

_COUNTED = " UNION ALL ".join(
    f"SELECT count(*), count(*) FILTER (WHERE age(xmin) < age(%(since)s::xid)) FROM {rows}"
    for rows in _CATALOGS
)

# How many rows define the database, and how many of them a later transaction wrote.
_DEFINITION = f"SELECT sum(rows)::int, sum(newer)::int FROM ({_COUNTED}) AS counted (rows, newer)"

_IN_USE = """
SELECT (SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()
           AND backend_type = 'client backend')
     + (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())"""

# Truncate used tables and restart sequences.
_EMPTY = """
DO $$
DECLARE
    used text;
BEGIN
    SET LOCAL session_replication_role = replica;  -- disables the trigger that refuses TRUNCATE
    SELECT string_agg(oid::regclass::text, ', ') INTO used FROM pg_class
     WHERE relnamespace = 'pgmem'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
       AND oid NOT IN ('pgmem.meta'::regclass, 'pgmem.pgmem_version'::regclass);
    IF used IS NOT NULL THEN
        EXECUTE 'TRUNCATE ' || used || ' CASCADE';
    END IF;
    PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence;
END $$"""


class Recycled:
    """A migrated database that is lent to one test after the other.

    After each test it is emptied. It is dropped instead, and the next test gets a new one, if the
    test left a session or a prepared transaction, or changed more than rows of pgmem's tables.

    One session, `MAINTENANCE`, empties it after each test. A new session would have to read the
    catalogs first, which takes longer than emptying.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._name = ""
        self._url = ""
        self._session: psycopg.Connection | None = None
        self._known: tuple[str, int] | None = None  # a transaction, and the rows there were then

    @contextmanager
    def lend(self):
        """Lend the database for the block; yield its URL."""
        if self._known is None:
            self._name = f"test_{uuid.uuid4().hex[:12]}"
            self._url = create_database(self._server, self._name, TEMPLATE)
            self._session = self._connect()
            self._known = self._take_stock(self._session)
        try:
            yield self._url
        finally:
            if not self._renewed():
                self.drop()

    def drop(self) -> None:
        """Drop the database, if there is one."""
        if self._known is not None:
            self._known = None
            self._session.close()
            drop_database(self._server, self._name)

    def _connect(self):
        return psycopg.connect(self._url, autocommit=True, application_name=MAINTENANCE)

    def _take_stock(self, connection) -> tuple[str, int]:
        since = _moment(connection)
        rows, newer = connection.execute(_DEFINITION, {"since": since}).fetchone()
        assert newer == 0
        return since, rows

    def _renewed(self) -> bool:
        """Empty the database; return False if it has to be dropped."""
        try:
            if not self._in_order():
                return False
            self._session.execute(_EMPTY)
            # Flush and reset this session's statistics, so that the next test does not count them.
            self._session.execute("SELECT pg_stat_force_next_flush()")
            self._session.execute("SELECT pg_stat_reset()")
            self._known = _moment(self._session), self._known[1]  # Emptied, it has as many rows.
        except psycopg.Error:
            return False
        return True

    def _in_order(self) -> bool:
        """Return True if no other session is left and only rows of pgmem's tables changed."""
        deadline = time.monotonic() + 2
        # A closed session takes a moment to end.
        while self._sessions() != 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        since, rows = self._known
        return self._session.execute(_DEFINITION, {"since": since}).fetchone() == (rows, 0)

    def _sessions(self) -> int:
        """Count the sessions and prepared transactions that the test left."""
        try:
            return self._session.execute(_IN_USE).fetchone()[0]
        except psycopg.OperationalError:  # The test ended all sessions.
            self._session.close()
            self._session = self._connect()
            return self._session.execute(_IN_USE).fetchone()[0]


def _moment(connection) -> str:
    """Return a transaction id; `_DEFINITION` counts rows of later ones as newer."""
    (now,) = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
    return str(int(now) % 2**32)
