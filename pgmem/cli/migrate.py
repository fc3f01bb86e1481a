"""`pgmem migrate`: make, change, show and check pgmem's tables.

The library is imported inside the commands: alembic is slow to load.
"""

from __future__ import annotations

import sys

import click

from pgmem.cli.commands import Group
from pgmem.cli.options import (
    database_options,
    json_option,
    schema_option,
    yes_option,
)
from pgmem.cli.output import confirm, print_json, print_line
from pgmem.core.names import SCHEMA_REVISION

_create_schema = click.option(
    "--create-schema/--no-create-schema",
    default=True,
    show_default=True,
    help="Create the schema itself if it is missing.",
)


@click.group("migrate", cls=Group)
def app() -> None:
    """Make, change, show and check pgmem's tables in a database."""


@app.command(
    examples="""
    pgmem migrate up --url postgresql://app@db/app

    # In a schema that an administrator has made
    pgmem migrate up --schema agents --no-create-schema
    """,
)
@click.argument("revision", required=False, default="head")
@_create_schema
@database_options
@json_option
def up(revision: str, *, create_schema: bool, url: str | None, schema: str, as_json: bool) -> None:
    """Bring the tables to the newest revision, or to REVISION."""
    from pgmem import migrate

    before = migrate.current(url, schema)
    migrate.upgrade(url, schema=schema, revision=revision, create_schema=create_schema)
    _report_move(schema, before, migrate.current(url, schema), as_json=as_json)


@app.command(
    examples="""
    # Remove every table of pgmem, with its data
    pgmem migrate down base
    """,
)
@click.argument("revision")
@yes_option
@database_options
@json_option
def down(revision: str, *, yes: bool, url: str | None, schema: str, as_json: bool) -> None:
    """Go back to REVISION; `base` removes every table.

    What later revisions made is removed, with its data.
    """
    from pgmem import migrate

    before = migrate.current(url, schema)
    if not yes:
        confirm(f"Remove what came after {revision} from schema {schema}, with its data?")
    migrate.downgrade(url, schema=schema, revision=revision)
    _report_move(schema, before, migrate.current(url, schema), as_json=as_json)


@app.command(
    examples="""
    pgmem migrate current
    pgmem migrate current --json
    """,
)
@database_options
@json_option
def current(*, url: str | None, schema: str, as_json: bool) -> None:
    """Print the revision of the tables."""
    from pgmem import migrate

    found = migrate.current(url, schema)
    if as_json:
        print_json({"schema": schema, "revision": found, "needed": SCHEMA_REVISION})
    else:
        print_line(found or "(none)")


@app.command(
    examples="""
    pgmem migrate sql > pgmem.sql
    psql -v ON_ERROR_STOP=1 -f pgmem.sql
    """,
)
@click.argument("revision", required=False, default="head")
@click.option(
    "--from",
    "from_revision",
    metavar="REVISION",
    help="The revision of the tables now. Default: there are none.",
)
@_create_schema
@schema_option
def sql(revision: str, *, from_revision: str | None, create_schema: bool, schema: str) -> None:
    """Print the SQL of `up` instead of running it. Connects to no database."""
    from pgmem import migrate

    text = migrate.sql(
        schema, revision=revision, from_revision=from_revision, create_schema=create_schema
    )
    sys.stdout.write(text)


@app.command(
    examples="""
    pgmem migrate check && systemctl restart agents
    """,
)
@database_options
@json_option
def check(*, url: str | None, schema: str, as_json: bool) -> None:
    """Compare the tables with what the library needs. Exit code 1 if they differ."""
    from pgmem import migrate

    problems = migrate.check(url, schema)
    if as_json:
        print_json(
            {
                "schema": schema,
                "revision": SCHEMA_REVISION,
                "ok": not problems,
                "problems": problems,
            }
        )
    elif not problems:
        print_line(f"schema {schema}: at {SCHEMA_REVISION}, no differences")
    for problem in [] if as_json else problems:
        print_line(problem)
    if problems:
        raise click.exceptions.Exit(1)


@app.command(
    examples="""
    pgmem migrate grant --agent app --reader dashboard

    # For an administrator to run
    pgmem migrate grant --janitor maintenance --sql
    """,
)
@click.option("--reader", metavar="ROLE", help="A role that reads events and state.")
@click.option("--appender", metavar="ROLE", help="A role that reads and appends events.")
@click.option("--agent", metavar="ROLE", help="A role that reads and writes through pgmem.")
@click.option("--operator", metavar="ROLE", help="A role that reads, and repairs groups.")
@click.option("--janitor", metavar="ROLE", help="An agent that also applies retention.")
@click.option("--sql", "only_print", is_flag=True, help="Print the SQL instead of running it.")
@database_options
def grant(*, only_print: bool, url: str | None, schema: str, **roles: str | None) -> None:
    """Give existing roles the least privileges that they need."""
    from pgmem import migrate

    if not any(roles.values()):
        kinds = ", ".join(f"--{kind}" for kind in roles)
        raise click.UsageError(f"Give one of {kinds}.", click.get_current_context())
    if only_print:
        sys.stdout.write(migrate.grant_sql(schema, **roles))
        return
    migrate.grant(url, schema=schema, **roles)
    for kind, role in roles.items():
        if role is not None:
            print_line(f"{role}: {kind} of schema {schema}")


@app.command(
    examples="""
    pgmem migrate inline off
    """,
)
@click.argument("setting", type=click.Choice(["on", "off"]))
@database_options
def inline(setting: str, *, url: str | None, schema: str) -> None:
    """Set whether small events travel in notifications. For memories that are opened later."""
    from pgmem import migrate

    migrate.set_inline(setting == "on", url, schema=schema)
    print_line(f"schema {schema}: events in notifications are {setting}")


@app.command(
    "sync-sequences",
    examples="""
    # On the new server, after the switch of a blue/green deployment
    pgmem migrate sync-sequences
    """,
)
@database_options
@json_option
def sync_sequences(*, url: str | None, schema: str, as_json: bool) -> None:
    """Set the sequences above what the tables hold.

    Logical replication copies rows and no sequences. Until this was run on the new server, pgmem
    refuses to write there.
    """
    from pgmem.admin import sequences

    moved = sequences.sync_sequences(url, schema)
    if as_json:
        print_json({"schema": schema, "sequences": [move._asdict() for move in moved]})
    elif not moved:
        print_line(f"schema {schema}: no sequence is behind its table")
    for move in [] if as_json else moved:
        print_line(f"{move.name}: {move.before:,} → {move.after:,}")


def _report_move(schema: str, before: str | None, after: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"schema": schema, "before": before, "after": after})
    elif before == after:
        print_line(f"schema {schema}: at {after or '(none)'}, nothing to do")
    else:
        print_line(f"schema {schema}: {before or '(none)'} → {after or '(none)'}")
