"""One PostgreSQL server for a test run, and databases made from a migrated template.

The controller of the run starts the server and makes the template; the workers find both in the
environment. To make a database costs more than most tests do, so each worker empties its own and
gives it to the next test, if that can be told from a new one in nothing that matters.
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

KEEPER = "pgmem tests"
"""The application name of a session that looks after a database: no test's own."""

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
            with _temporary_folders_in_memory():
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


MEMORY, ROOM = Path("/dev/shm"), 4 * 1024**3


@contextmanager
def _temporary_folders_in_memory():
    """Where the system has a file system in memory with room for a server: thousands of tests make
    and remove files of tables there. Nothing is to outlive this server."""
    before = tempfile.tempdir
    try:
        if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
            tempfile.tempdir = str(MEMORY)
        yield
    finally:
        tempfile.tempdir = before


def binaries(wanted: str) -> Path:
    """The bin folder of a version ("15" to "18"), or the folder that was named."""
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


# Where a change to a schema, table, function, trigger, right or setting of a database shows.
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

# Files without a page, sequences that have not begun.
_EMPTY = """
DO $$
DECLARE
    used text;
BEGIN
    SET LOCAL session_replication_role = replica;  -- or the log would refuse to be truncated
    SELECT string_agg(oid::regclass::text, ', ') INTO used FROM pg_class
     WHERE relnamespace = 'pgmem'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
       AND oid NOT IN ('pgmem.meta'::regclass, 'pgmem.pgmem_version'::regclass);
    IF used IS NOT NULL THEN
        EXECUTE 'TRUNCATE ' || used || ' CASCADE';
    END IF;
    PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence;
END $$"""


class Recycled:
    """A migrated database that one test after the other has for itself.

    After each test it is emptied. It is dropped, and the next test gets a new one, if the test
    changed anything but the rows of pgmem's tables (a schema, a table, a right, a setting, the
    version), or left a session or a prepared transaction.

    It is looked after by one session that stays, `KEEPER`: a new one for each test would have to
    read the catalogs anew, which takes longer than all that it does then.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._name = ""
        self._url = ""
        self._keeper: psycopg.Connection | None = None
        self._known: tuple[str, int] | None = None  # a transaction, and the rows there were then

    @contextmanager
    def lend(self):
        """The database's URL, for as long as the block lasts."""
        if self._known is None:
            self._name = f"test_{uuid.uuid4().hex[:12]}"
            self._url = create_database(self._server, self._name, TEMPLATE)
            self._keeper = self._connect()
            self._known = self._take_stock(self._keeper)
        try:
            yield self._url
        finally:
            if not self._renewed():
                self.drop()

    def drop(self) -> None:
        """Drop the database, if there is one."""
        if self._known is not None:
            self._known = None
            self._keeper.close()
            drop_database(self._server, self._name)

    def _connect(self):
        return psycopg.connect(self._url, autocommit=True, application_name=KEEPER)

    def _take_stock(self, connection) -> tuple[str, int]:
        since = _moment(connection)
        rows, newer = connection.execute(_DEFINITION, {"since": since}).fetchone()
        assert newer == 0
        return since, rows

    def _renewed(self) -> bool:
        """Whether it is as new again."""
        try:
            if not self._in_order():
                return False
            self._keeper.execute(_EMPTY)
            # What the keeper itself did is counted now, and forgotten, not in the next test.
            self._keeper.execute("SELECT pg_stat_force_next_flush()")
            self._keeper.execute("SELECT pg_stat_reset()")
            self._known = _moment(self._keeper), self._known[1]  # Emptied, it has as many rows.
        except psycopg.Error:
            return False
        return True

    def _in_order(self) -> bool:
        """Whether nobody is there any more, and only rows of pgmem's were changed."""
        deadline = time.monotonic() + 2
        # A closed session takes a moment to end.
        while self._sessions() != 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        since, rows = self._known
        return self._keeper.execute(_DEFINITION, {"since": since}).fetchone() == (rows, 0)

    def _sessions(self) -> int:
        """Sessions and prepared transactions that are still there."""
        try:
            return self._keeper.execute(_IN_USE).fetchone()[0]
        except psycopg.OperationalError:  # The test ended each session that it found.
            self._keeper.close()
            self._keeper = self._connect()
            return self._keeper.execute(_IN_USE).fetchone()[0]


def _moment(connection) -> str:
    """A transaction, for `_DEFINITION`: each later one counts as newer."""
    (now,) = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
    return str(int(now) % 2**32)
