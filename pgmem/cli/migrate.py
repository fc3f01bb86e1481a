"""`pgmem migrate`: makes, changes, shows and checks pgmem's schema in a database.

A thin face of `pgmem.migrate`, which is imported where it is used: alembic is slow to load.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pgmem.cli.options import AsJson, Schema, Url, ask, out, print_json, say
from pgmem.core.names import DEFAULT_SCHEMA, SCHEMA_REVISION

app = typer.Typer(
    help="Make, change, show and check pgmem's tables in a database.", no_args_is_help=True
)

CreateSchema = Annotated[
    bool,
    typer.Option(
        "--create-schema/--no-create-schema", help="Create the schema itself if it is missing."
    ),
]


@app.command()
def up(
    revision: Annotated[str, typer.Argument(help="The revision to reach.")] = "head",
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    create_schema: CreateSchema = True,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the newest revision, or to REVISION."""
    from pgmem import migrate  # noqa: PLC0415

    before = migrate.current(url, schema)
    migrate.upgrade(url, schema=schema, revision=revision, create_schema=create_schema)
    _report_move(schema, before, migrate.current(url, schema), as_json)


@app.command()
def down(
    revision: Annotated[
        str, typer.Argument(help="The revision to go back to; 'base' removes every table.")
    ],
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the data may go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go back to REVISION. What later revisions made is removed, with the data in it."""
    from pgmem import migrate  # noqa: PLC0415

    before = migrate.current(url, schema)
    if not yes:
        ask(f"Remove what came after {revision} from schema {schema}, with its data?")
    migrate.downgrade(url, schema=schema, revision=revision)
    _report_move(schema, before, migrate.current(url, schema), as_json)


@app.command()
def current(url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False) -> None:
    """Print the database's revision."""
    from pgmem import migrate  # noqa: PLC0415

    found = migrate.current(url, schema)
    if as_json:
        print_json({"schema": schema, "revision": found, "needed": SCHEMA_REVISION})
    else:
        out().print(found or "(none)", markup=False)


@app.command()
def sql(
    revision: Annotated[str, typer.Argument(help="The revision to reach.")] = "head",
    schema: Schema = DEFAULT_SCHEMA,
    from_revision: Annotated[
        str | None, typer.Option("--from", help="The revision that the database is at.")
    ] = None,
    create_schema: CreateSchema = True,
    url: Annotated[str | None, typer.Option("--url", hidden=True)] = None,
) -> None:
    """Print the SQL instead of running it, for an administrator. No database is asked."""
    from pgmem import migrate  # noqa: PLC0415

    text = migrate.sql(
        schema, revision=revision, from_revision=from_revision, create_schema=create_schema
    )
    sys.stdout.write(text)


@app.command()
def check(url: Url = None, schema: Schema = DEFAULT_SCHEMA, as_json: AsJson = False) -> None:
    """Compare the database with what this library needs; exit code 1 if they differ."""
    from pgmem import migrate  # noqa: PLC0415

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
        out().print(f"schema {schema} is at {SCHEMA_REVISION} and as it should be", markup=False)
    for problem in [] if as_json else problems:
        out().print(problem, markup=False)
    if problems:
        raise typer.Exit(1)


@app.command()
def grant(
    *,
    url: Url = None,
    schema: Schema = DEFAULT_SCHEMA,
    reader: Annotated[
        str | None, typer.Option("--reader", metavar="ROLE", help="A role that is to read.")
    ] = None,
    writer: Annotated[
        str | None, typer.Option("--writer", metavar="ROLE", help="A role that is to write, too.")
    ] = None,
    janitor: Annotated[
        str | None,
        typer.Option("--janitor", metavar="ROLE", help="A role that is to apply retention, too."),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
) -> None:
    """Give existing roles the least privileges that reading, writing or retention needs."""
    from pgmem import migrate  # noqa: PLC0415

    roles = {"reader": reader, "writer": writer, "janitor": janitor}
    if only_print:
        sys.stdout.write(migrate.grant_sql(schema, **roles))
        return
    migrate.grant(url, schema=schema, **roles)
    for kind, role in roles.items():
        if role is not None:
            say(f"{role} is a {kind} of schema {schema}")


def _report_move(schema: str, before: str | None, after: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"schema": schema, "before": before, "after": after})
    elif before == after:
        out().print(f"schema {schema} is at {after or '(none)'}: nothing to do", markup=False)
    else:
        out().print(f"schema {schema}: {before or '(none)'} → {after or '(none)'}", markup=False)
