"""The session of a migration: its schema, its search_path, and its locks.

A lock that waits for a reader's open transaction stops every later statement on the table. So a
migration waits `LOCK_TIMEOUT` for a lock, rolls back, lets the queue go on, and begins again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from psycopg import errors as pg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from pgmem.core.names import VERSION_TABLE
from pgmem.errors import SchemaError, Unavailable

LOCK_TIMEOUT: Final = 1.0
"""Seconds. Writers wait as long at most."""
GIVE_UP: Final = 30.0
"""Seconds after which a migration reports the sessions that hold the locks."""

_RACES = (
    pg.LockNotAvailable, pg.UniqueViolation, pg.DuplicateTable, pg.DuplicateSchema,
    pg.DuplicateObject, pg.DeadlockDetected,
)  # fmt: skip
"""The errors of a migration beside another one, which has created something first."""


def ensure_schema(connection: Connection, schema: str, *, create: bool) -> None:
    """Create the schema if it is missing and `create` is True.

    Raises:
        SchemaError: it is missing, and `create` is False.
    """
    found = connection.execute(
        text("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = :schema"), {"schema": schema}
    )
    if found.first() is not None:
        # Not CREATE SCHEMA IF NOT EXISTS alone: that needs the right to create schemas even
        # where there is nothing left to create.
        return
    if not create:
        role = connection.execute(text("SELECT current_user")).scalar_one()
        raise SchemaError(
            f"the schema {schema!r} does not exist, and create_schema is off. Ask the database's "
            f'administrator for: CREATE SCHEMA "{schema}" AUTHORIZATION "{role}";'
        )
    connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))


@contextmanager
def safe_search_path(connection: Connection) -> Iterator[None]:
    """Set the search_path so that no name or operator of another schema is used."""
    setting = text("SELECT pg_catalog.set_config('search_path', :path, true)")
    before = connection.execute(
        text("SELECT pg_catalog.current_setting('search_path')")
    ).scalar_one()
    connection.execute(setting, {"path": "pg_catalog, pg_temp"})
    yield
    connection.execute(setting, {"path": before})  # the transaction may be a caller's


def lock_schema(connection: Connection, schema: str) -> None:
    """Keep other migrations of `schema` out until the commit.

    The lock is one of a table that only its owner can take. An advisory lock would be every
    role's. If there is no table yet, the second of two migrations fails when it creates one, and
    `run_with_retries` begins it again.
    """
    connection.execute(
        text("SELECT pg_catalog.set_config('lock_timeout', :timeout, true)"),
        {"timeout": f"{round(LOCK_TIMEOUT * 1000)}ms"},
    )
    table = f'"{schema}".{VERSION_TABLE}'
    present = text("SELECT pg_catalog.to_regclass(:name) IS NOT NULL")
    if connection.execute(present, {"name": table}).scalar_one():
        connection.execute(text(f"LOCK TABLE {table} IN EXCLUSIVE MODE"))


def run_with_retries(
    engine: Engine,
    schema: str,
    work: Callable[[Connection], None],
    *,
    give_up: float = GIVE_UP,
) -> None:
    """Run a migration in a transaction, and again while other sessions hold the locks it needs.

    Args:
        engine: makes the connections.
        schema: the schema.
        work: the migration.
        give_up: seconds until it is not tried again.

    Raises:
        Unavailable: the locks were held for too long.
        DBAPIError: the server refused for another reason.
    """
    deadline = time.monotonic() + give_up
    while True:
        try:
            with engine.begin() as connection:
                work(connection)
        except DBAPIError as error:
            if not isinstance(error.orig, _RACES):
                raise
            if time.monotonic() >= deadline:
                if isinstance(error.orig, pg.LockNotAvailable):
                    raise _locked(engine, schema) from error
                raise
        else:
            return
        time.sleep(random.uniform(0.1, 0.5))  # noqa: S311  # no secret


def _locked(engine: Engine, schema: str) -> Unavailable:
    query = text(
        "SELECT DISTINCT held.pid, session.usename, class.relname "
        "FROM pg_catalog.pg_locks AS held "
        "JOIN pg_catalog.pg_class AS class ON class.oid = held.relation "
        "JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace "
        "LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = held.pid "
        "WHERE space.nspname = :schema AND held.granted AND class.relkind = 'r' "
        "ORDER BY 1, 3"
    )
    with engine.connect() as connection:
        rows = connection.execute(query, {"schema": schema}).all()
    sessions = ", ".join(f"pid {pid} (role {role}) on {table}" for pid, role, table in rows)
    return Unavailable(
        f"the migration of schema {schema!r} did not get its locks within {GIVE_UP:g} s. Nothing "
        f"was changed. Sessions with locks: {sessions or 'none any more'}. End their transactions "
        f"(pg_terminate_backend), then migrate again"
    )
