"""`pgmem history`: show the histories of the log, and accept the present one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgmem.cli.commands import Group
from pgmem.cli.options import database_options, json_option, yes_option
from pgmem.cli.output import confirm, print_json, print_line

if TYPE_CHECKING:
    from pgmem.admin.histories import StoredPosition


@click.group("history", cls=Group)
def app() -> None:
    """Show the histories of the log, and accept the present one.

    A history is a cluster and its timeline. After a promotion nothing needs to be accepted. It is
    needed after a move to another cluster.
    """


@app.command(
    examples="""
    pgmem history show
    pgmem history show --json | jq .foreign
    """,
)
@database_options
@json_option
def show(*, url: str | None, schema: str, as_json: bool) -> None:
    """Show the present history, and the positions of another one."""
    from pgmem.admin import histories

    report = histories.show(url, schema)
    if as_json:
        print_json(
            {
                "present": report.present._asdict(),
                "epochs": [
                    {**epoch._asdict(), "history": epoch.history._asdict()}
                    for epoch in report.epochs
                ],
                "foreign": [_json(stored) for stored in report.foreign],
                "problems": list(report.problems),
            }
        )
        return
    print_line(f"cluster {report.present.system_identifier}, timeline {report.present.timeline}")
    for stored in report.foreign:
        print_line(_line(stored))
    for problem in report.problems:
        print_line(problem)


@app.command(
    examples="""
    # After pg_upgrade, a restored dump, or logical replication
    pgmem history show
    pgmem history accept --from-cluster 7423456789012345678 --dry-run
    pgmem history accept --from-cluster 7423456789012345678 --yes
    """,
)
@click.option("--from-cluster", type=int, metavar="ID", help="The cluster that the rows came from.")
@click.option("--dry-run", is_flag=True, help="Show what would be accepted, and change nothing.")
@yes_option
@database_options
@json_option
def accept(
    *,
    from_cluster: int | None,
    dry_run: bool,
    yes: bool,
    url: str | None,
    schema: str,
    as_json: bool,
) -> None:
    """Let stored positions go on in the present history.

    They keep their place. It first checks that the positions fit the log. What is open or delayed
    in a group stays.
    """
    from pgmem.admin import histories

    found = histories.accept(url, schema, from_cluster=from_cluster, dry_run=True)
    if found and not dry_run:
        if not yes:
            confirm(f"Accept the present history for {len(found)} stored positions?")
        found = histories.accept(url, schema, from_cluster=from_cluster)
    if as_json:
        print_json({"accepted": [_json(stored) for stored in found], "dry_run": dry_run})
        return
    for stored in found:
        print_line(_line(stored))
    if not found:
        print_line("nothing to accept")


def _json(stored: StoredPosition) -> dict[str, Any]:
    return {**stored._asdict(), "history": stored.history._asdict()}


def _line(stored: StoredPosition) -> str:
    return (
        f"{stored.kind} {stored.name}: position {stored.position:,} of cluster "
        f"{stored.history.system_identifier}, timeline {stored.history.timeline}"
    )
