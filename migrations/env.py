"""alembic's environment: which database, which schema, and one migrator at a time.

Runs for `pgmem.migrate` (which hands things over in `config.attributes`) and for the alembic
command in a checkout (`-x url=…`, `-x schema=…`, `-x create_schema=false`, or the environment:
`PGMEM_DATABASE_URL` and so on, `PGMEM_SCHEMA`). It configures no logging and prints nothing.
Everything happens in one transaction, the version table included.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection

from pgmem.admin.migrate import (
    begin_migration,
    engine,
    ensure_schema,
    refuse_unreleased,
    safe_search_path,
)
from pgmem.core.names import DEFAULT_SCHEMA, VERSION_TABLE, check_schema_name
from pgmem.errors import InvalidInput

attributes = context.config.attributes
# Only the command line has -x; code has the attributes.
arguments = context.get_x_argument(as_dictionary=True) if context.config.cmd_opts else {}


def schema_name() -> str:
    """The schema to migrate, checked: it goes into SQL."""
    return check_schema_name(
        attributes.get("schema")
        or arguments.get("schema")
        or os.environ.get("PGMEM_SCHEMA")
        or DEFAULT_SCHEMA
    )


def create_schema() -> bool:
    """Whether the schema itself is made here."""
    if "create_schema" in attributes:
        return bool(attributes["create_schema"])
    given = arguments.get("create_schema", "true").lower()
    if given not in {"true", "false"}:
        raise InvalidInput(f"-x create_schema={given}: take true or false")
    return given == "true"


def run_offline() -> None:
    """Writes the SQL instead of running it."""
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
        # So that no name or operator is ever taken from a schema that somebody else can fill.
        context.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Runs the migrations on `connection`, in its transaction."""
    schema = schema_name()
    # First the lock, then the look at what is there: the second of two migrators finds the work
    # done. The lock ends with the transaction.
    begin_migration(connection, schema)
    refuse_unreleased(connection, schema)
    ensure_schema(connection, schema, create=create_schema())
    context.configure(
        connection=connection, version_table=VERSION_TABLE, version_table_schema=schema
    )
    with safe_search_path(connection), context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Offline, on the connection handed over, or on one of its own."""
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
