"""Run the migrations on one database and schema, one process at a time.

`pgmem.migrate` passes the connection in `config.attributes`. The alembic command in a checkout
takes `-x url=…`, `-x schema=…`, `-x create_schema=false`, or the environment (`PGMEM_DATABASE_URL`,
`PGMEM_SCHEMA`). Everything happens in one transaction, the version table included.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection

from pgmem.admin.migrate import engine, refuse_unreleased
from pgmem.admin.sessions import ensure_schema, lock_schema, safe_search_path
from pgmem.core.names import DEFAULT_SCHEMA, VERSION_TABLE, check_schema_name
from pgmem.errors import InvalidInput

attributes = context.config.attributes
# Only the command line has -x.
arguments = context.get_x_argument(as_dictionary=True) if context.config.cmd_opts else {}


def schema_name() -> str:
    """Return the schema to migrate, checked because it becomes part of statements."""
    return check_schema_name(
        attributes.get("schema")
        or arguments.get("schema")
        or os.environ.get("PGMEM_SCHEMA")
        or DEFAULT_SCHEMA
    )


def create_schema() -> bool:
    """Return True if the schema is to be created."""
    if "create_schema" in attributes:
        return bool(attributes["create_schema"])
    given = arguments.get("create_schema", "true").lower()
    if given not in {"true", "false"}:
        raise InvalidInput(f"-x create_schema={given}: take true or false")
    return given == "true"


def run_offline() -> None:
    """Print the SQL instead of running it."""
    schema = schema_name()
    context.configure(
        dialect_name="postgresql",
        literal_binds=True,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
    )
    with context.begin_transaction():
        if create_schema():
            context.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        # So that no name or operator of another schema is used.
        context.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Run the migrations on `connection`, in its transaction."""
    schema = schema_name()
    # The lock comes before the first read, so that the second of two processes finds the work done.
    # The lock ends with the transaction.
    lock_schema(connection, schema)
    refuse_unreleased(connection, schema)
    ensure_schema(connection, schema, create=create_schema())
    context.configure(
        connection=connection, version_table=VERSION_TABLE, version_table_schema=schema
    )
    with safe_search_path(connection), context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Run offline, on the given connection, or on a new one."""
    if context.is_offline_mode():
        run_offline()
        return
    given = attributes.get("connection")
    if given is not None and given.in_transaction():
        run_online(given)  # the caller commits
        return
    if given is not None:
        with given.begin():
            run_online(given)
        return
    with engine(arguments.get("url")).begin() as connection:
        run_online(connection)


main()
