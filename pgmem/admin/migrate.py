"""Create, migrate and check pgmem's schema in a database, with alembic.

The migrations are in the wheel (`pgmem/migrations`) or, in a checkout, beside the package
(`migrations/`). Each run is one transaction behind one lock for each schema: of two processes that
migrate at once, one waits and then finds nothing to do. The version table is in pgmem's schema, so
a team's own alembic history is never touched. This module prints nothing, configures no logging
and keeps no connection.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pgmem.admin.drift import describe, differences, expected
from pgmem.admin.grants import grant_sql
from pgmem.admin.sessions import run_with_retries, safe_search_path
from pgmem.admin.watched import WatchedConnection
from pgmem.core.names import (
    DEFAULT_SCHEMA,
    SCHEMA_REVISION,
    VERSION_TABLE,
    check_schema_name,
    unreleased_schema,
)
from pgmem.core.starting import RETRY_SECONDS, is_starting
from pgmem.core.url import connection_string, redacted
from pgmem.errors import (
    DatabaseFault,
    InvalidInput,
    PermissionDenied,
    PgmemError,
    SchemaError,
    Unavailable,
)

__all__ = [
    "check", "check_revision", "checked", "current", "downgrade", "engine", "grant", "grant_sql",
    "migrations_directory", "refuse_unreleased", "set_inline", "sql", "upgrade",
]  # fmt: skip

CONNECT_SECONDS: Final = 10
"""How long to wait for the server, also for one that is not up yet, and for a sign that it works on
a statement. The URL's connect_timeout takes precedence."""

# alembic keeps the running environment in module globals: one command at a time in a process.
_one_command = threading.Lock()


def upgrade(
    url: str | None = None,
    *,
    schema: str = DEFAULT_SCHEMA,
    revision: str = "head",
    create_schema: bool = True,
) -> None:
    """Migrate the schema to `revision`. Do nothing if it has that revision.

    Args:
        url: the database, see `pgmem.core.url.connection_string`.
        schema: the schema of the tables.
        revision: the revision to reach.
        create_schema: create the schema if it does not exist. False requires that it exists.

    Raises:
        InvalidInput: the schema name, the url or the revision cannot be used.
        Unavailable: no server was reached, or other sessions hold locks on the tables. The error
            names them.
        SchemaError: the schema does not exist, and `create_schema` is False.
        SchemaError: the schema's revision is one that this library does not know.
        PermissionDenied: the role may not create the schema or its tables.
        DatabaseFault: the server refused for another reason. Nothing was changed.
    """
    check_schema_name(schema)
    _check_revision(revision)

    def up(connection: Connection) -> None:
        config = _config(connection=connection, schema=schema, create_schema=create_schema)
        command.upgrade(config, revision)

    with _one_command, _translated(url, schema):
        run_with_retries(engine(url), schema, up)


def downgrade(url: str | None = None, *, revision: str, schema: str = DEFAULT_SCHEMA) -> None:
    """Downgrade the schema to `revision`. What later revisions created is dropped with its data.

    Args:
        url: the database, see `pgmem.core.url.connection_string`.
        revision: the revision to go back to; ``base`` removes every table.
        schema: the schema.

    Raises:
        SchemaError: the schema does not exist.
        PgmemError: as `upgrade`.
    """
    check_schema_name(schema)
    _check_revision(revision)

    def down(connection: Connection) -> None:
        config = _config(connection=connection, schema=schema, create_schema=False)
        command.downgrade(config, revision)

    with _one_command, _translated(url, schema):
        run_with_retries(engine(url), schema, down)


def current(url: str | None = None, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Return the revision of the schema, or None if it has none.

    Raises:
        InvalidInput, Unavailable, PermissionDenied, DatabaseFault: as `upgrade`.
    """
    check_schema_name(schema)
    with _translated(url, schema), engine(url).begin() as connection:
        return _revision(connection, schema)


def sql(
    schema: str = DEFAULT_SCHEMA,
    *,
    revision: str = "head",
    from_revision: str | None = None,
    create_schema: bool = True,
) -> str:
    """Return the SQL that migrates a schema to `revision`, for an administrator to read and run.

    The SQL is one transaction, for psql or any driver. No connection is made.

    Args:
        schema: the schema of the tables.
        revision: the revision to reach.
        from_revision: the present revision; None if there is no schema yet.
        create_schema: begin with CREATE SCHEMA IF NOT EXISTS.

    Raises:
        InvalidInput: the schema name or a revision cannot be used.
    """
    check_schema_name(schema)
    for name in (revision, from_revision):
        if name is not None:
            _check_revision(name)
    output = io.StringIO()
    config = _config(output, schema=schema, create_schema=create_schema and not from_revision)
    span = revision if from_revision is None else f"{from_revision}:{revision}"
    try:
        with _one_command:
            command.upgrade(config, span, sql=True)
    except CommandError as error:
        raise InvalidInput(
            f"there is no way from {from_revision} to {revision}: {error}"
        ) from error
    return output.getvalue()


def check(url: str | None = None, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """List the differences between the schema and what this library needs; empty if none.

    It compares the revision and every table, column, constraint, index, trigger, function and
    sequence. It changes nothing: it creates temporary tables to compare with and rolls them back.

    Raises:
        SchemaError: the revision is not this library's.
        PermissionDenied: the role may not read the schema, or make temporary tables.
        InvalidInput, Unavailable, DatabaseFault: as `upgrade`.
    """
    check_schema_name(schema)
    with _translated(url, schema), engine(url).connect() as connection, connection.begin() as work:
        refuse_unreleased(connection, schema)
        check_revision(_revision(connection, schema), schema)
        with safe_search_path(connection):  # it decides how definitions are written
            have = describe(connection, schema)
            want = expected(connection)
        work.rollback()
    return list(differences(want, have))


def check_revision(found: str | None, schema: str) -> None:
    """Compare the revision of `schema` with the one that this library needs.

    Raises:
        SchemaError: there is none, or it is another one.
    """
    if found == SCHEMA_REVISION:
        return
    if found is None:
        raise SchemaError(
            f"the schema {schema!r} has no pgmem tables. Run `pgmem migrate up --schema {schema}`",
            needed=SCHEMA_REVISION,
        )
    if found in _known_revisions():
        raise SchemaError(
            f"the schema {schema!r} is at revision {found}, and this library needs "
            f"{SCHEMA_REVISION}. Run `pgmem migrate up --schema {schema}`",
            found=found,
            needed=SCHEMA_REVISION,
        )
    raise _too_new(schema, found)


def grant(url: str | None = None, *, schema: str = DEFAULT_SCHEMA, **roles: str | None) -> None:
    """Run `grant_sql` in one transaction.

    Args:
        url: the database, see `pgmem.core.url.connection_string`.
        schema: the schema.
        roles: as for `grant_sql`.

    Raises:
        SchemaError: the revision is not this library's.
        PgmemError: as `grant_sql` and `upgrade`; a role that does not exist is a DatabaseFault.
    """
    statements = grant_sql(schema, **roles)
    with checked(url, schema) as connection:
        for statement in statements.splitlines():
            connection.exec_driver_sql(statement.replace("%", "%%"))


@contextmanager
def checked(url: str | None, schema: str) -> Iterator[Connection]:
    """Open a transaction on a schema that has this library's revision.

    Raises:
        SchemaError: the revision is not this library's.
        PgmemError: as `upgrade`.
    """
    check_schema_name(schema)
    with _translated(url, schema), engine(url).begin() as connection:
        refuse_unreleased(connection, schema)
        check_revision(_revision(connection, schema), schema)
        yield connection


def set_inline(inline: bool, url: str | None = None, *, schema: str = DEFAULT_SCHEMA) -> None:
    """Set whether small events travel in notifications. Memories that are open go on as before.

    Every role but a reader knows the notification channel, so it can send an event that is in no
    log, and subscriptions deliver it. If that is not acceptable, set it to False: a notification
    then only triggers a poll, which is a statement more for each delivery.

    Raises:
        SchemaError: the revision is not this library's.
        PermissionDenied: the role is not the schema's owner.
        InvalidInput, Unavailable, DatabaseFault: as `upgrade`.
    """
    check_schema_name(schema)
    with _translated(url, schema), engine(url).begin() as connection:
        refuse_unreleased(connection, schema)
        check_revision(_revision(connection, schema), schema)
        update = text(f'UPDATE "{schema}".meta SET inline = :inline')  # noqa: S608
        connection.execute(update, {"inline": inline})


def engine(url: str | None) -> Engine:
    """Build an engine that makes a new connection each time and keeps none.

    The isolation level is read committed, whatever the database's default: after the wait for the
    lock, the next statement must see what the other process has committed.
    """
    conninfo = connection_string(url)

    seconds = float(conninfo_to_dict(conninfo).get("connect_timeout") or CONNECT_SECONDS)

    def connect() -> psycopg.Connection[Any]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return WatchedConnection.open(conninfo, seconds)
            except psycopg.OperationalError:
                if time.monotonic() >= deadline or not is_starting(conninfo_to_dict(conninfo)):
                    raise
            time.sleep(RETRY_SECONDS)

    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
        hide_parameters=True,
    )


def refuse_unreleased(connection: Connection, schema: str) -> None:
    """Refuse a schema that a version of pgmem before the first release created.

    Its revisions have the names of later ones. It lacks a table that every released
    version has.

    Raises:
        SchemaError: an unreleased version created it.
    """
    found = _revision(connection, schema)
    if found is None:
        return
    lacks = text("SELECT pg_catalog.to_regclass(:name) IS NULL")
    if connection.execute(lacks, {"name": f'"{schema}".epochs'}).scalar_one():
        raise SchemaError(unreleased_schema(schema), found=found, needed=SCHEMA_REVISION)


def migrations_directory() -> Path:
    """Return the folder of the migrations: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "migrations", package.parent / "migrations"):
        if (directory / "env.py").is_file():
            return directory
    raise PgmemError(
        f"the migrations are missing from {package}: this installation of pgmem is incomplete; "
        "install it again"
    )


def _config(output: io.StringIO | None = None, **attributes: object) -> Config:
    """Configure alembic without a file. Nothing in the current directory is read."""
    config = Config(stdout=io.StringIO(), output_buffer=output)
    # ConfigParser takes % for interpolation.
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def _revision(connection: Connection, schema: str) -> str | None:
    present = connection.execute(
        text("SELECT pg_catalog.to_regclass(:name) IS NOT NULL"),
        {"name": f'"{schema}".{VERSION_TABLE}'},
    )
    if not present.scalar_one():
        return None
    query = text(f'SELECT version_num FROM "{schema}".{VERSION_TABLE}')  # noqa: S608
    return connection.execute(query).scalar_one_or_none()


def _known_revisions() -> set[str]:
    script = ScriptDirectory.from_config(_config())
    return {entry.revision for entry in script.walk_revisions()}


def _check_revision(revision: str) -> None:
    """Refuse a revision that has no migration, before a connection is made."""
    named = re.fullmatch(r"[0-9A-Za-z_]+", revision)
    if revision in {"head", "heads", "base"} or re.fullmatch(r"[+-][0-9]+", revision):
        return
    if named is None or revision not in _known_revisions():
        known = ", ".join(sorted(_known_revisions()))
        raise InvalidInput(
            f"there is no revision {ascii(revision)[:80]}: take one of {known}, head, base, +1, -1"
        )


@contextmanager
def _translated(url: str | None, schema: str) -> Iterator[None]:
    """Translate errors of alembic, SQLAlchemy and psycopg into pgmem's."""
    try:
        yield
    except CommandError as error:
        unknown = re.search(r"locate revision identified by '([^']*)'", str(error))
        if unknown:  # the caller's revision was checked before, so it is the database's
            raise _too_new(schema, unknown.group(1)) from error
        raise InvalidInput(f"alembic cannot do that in schema {schema!r}: {error}") from error
    except DBAPIError as error:
        raise _database_error(error.orig, url, schema) from error
    except psycopg.Error as error:
        raise _database_error(error, url, schema) from error


def _too_new(schema: str, found: str) -> SchemaError:
    return SchemaError(
        f"the schema {schema!r} is at revision {ascii(found)[:80]}, and this library knows none "
        f"later than {SCHEMA_REVISION}. Upgrade pgmem-agents. If the schema is not pgmem's, give "
        "pgmem one of its own",
        found=found,
        needed=SCHEMA_REVISION,
    )


def _database_error(error: BaseException | None, url: str | None, schema: str) -> PgmemError:
    where = redacted(connection_string(url))
    said = " ".join(str(error).split())
    code = getattr(error, "sqlstate", None)
    if isinstance(error, pg.InsufficientPrivilege):
        return PermissionDenied(
            f"the role lacks a privilege for schema {schema!r} ({where}): {said}. Ask the "
            "database's administrator for it, or connect as the schema's owner"
        )
    if code is None and isinstance(error, psycopg.OperationalError):
        return Unavailable(f"no connection to {where}: {said}")
    return DatabaseFault(f"the server refused ({where}): {said}", sqlstate=code)
