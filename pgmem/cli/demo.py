"""`pgmem demo`: run three agents, a stream of payments, faults and a kill -9.

With --json only the JSON document goes to stdout, and the progress goes to stderr.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import click

from pgmem.cli.commands import Command
from pgmem.cli.options import json_option
from pgmem.cli.output import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from pgmem.demo.run import Mode, Role
    from pgmem.demo.scenario import Scenario
    from pgmem.demo.summary import Summary


@click.command(
    cls=Command,
    examples="""
    # In a private PostgreSQL that is removed afterwards
    pgmem demo

    # Beside the same agents without a shared memory
    pgmem demo --payments 500 --compare

    # In a database of yours
    pgmem demo --url postgresql://localhost/scratch
    """,
)
@click.option(
    "--payments",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=2000,
    show_default=True,
    help="Number of payments.",
)
@click.option(
    "--seed",
    metavar="N",
    type=int,
    default=1,
    show_default=True,
    help="The same seed gives the same payments and faults.",
)
@click.option(
    "--rate",
    metavar="N",
    type=click.FloatRange(1, 10_000),
    default=80.0,
    show_default=True,
    help="Payments per second.",
)
@click.option(
    "--kill",
    type=click.Choice(["processor", "validator", "notifier", "none"]),
    default="processor",
    show_default=True,
    help="The agent that gets a kill -9 half way.",
)
@click.option("--compare", is_flag=True, help="Run the same agents without a shared memory too.")
@click.option(
    "--url",
    metavar="URL",
    help="Run in this database, in schemas of the demo that stay there. Default: a private "
    "PostgreSQL that is removed afterwards.",
)
@json_option
def demo(
    *,
    payments: int,
    seed: int,
    rate: float,
    kill: Literal["processor", "validator", "notifier", "none"],
    compare: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Watch agents process payments while things go wrong.

    Three agents share a memory. Requests are repeated, and one agent is killed.
    Exit code 1 if a payment was applied twice, a balance is off, or anything else that must not
    happen did.
    """
    from rich.console import Console

    from pgmem.demo.scenario import plan

    scenario = plan(payments, seed=seed, rate=rate)
    victim: Role | None = None if kill == "none" else kill
    console = Console(stderr=as_json, soft_wrap=False)
    modes: list[Mode] = ["isolated", "shared"] if compare else ["shared"]
    with ExitStack() as stack:
        database, place = _database(stack, url)
        summaries = _run_all(console, database, scenario, victim, modes)
        _report(
            console,
            summaries=summaries,
            scenario=scenario,
            victim=victim,
            place=place,
            as_json=as_json,
        )
    if summaries["shared"].wrong():
        raise click.exceptions.Exit(1)


def _database(stack: ExitStack, url: str | None) -> tuple[str, str]:
    """Return the URL of the database, and a sentence about where the data is."""
    from pgmem import EmbeddedPostgres
    from pgmem.demo.run import BANK_SCHEMA, SCHEMA

    if url is None:
        server = stack.enter_context(EmbeddedPostgres())
        return server.url, "The data was in a private PostgreSQL, which is removed now."
    return url, (
        f"The data stays in the schemas {SCHEMA} and {BANK_SCHEMA}. To remove it: "
        f"DROP SCHEMA {SCHEMA}, {BANK_SCHEMA} CASCADE"
    )


def _run_all(
    console: Console, url: str, scenario: Scenario, victim: Role | None, modes: list[Mode]
) -> dict[Mode, Summary]:
    from pgmem.demo import show
    from pgmem.demo.conduct import conduct
    from pgmem.demo.run import Run

    show.print_faults(console, scenario, victim)
    summaries: dict[Mode, Summary] = {}
    for mode in modes:
        run = Run.new(mode)
        how = "through a shared memory" if mode == "shared" else "by messages only"
        show.say(console, f"Run {run.id}: {how}")
        with show.watcher(console, scenario) as watcher:
            summaries[mode] = conduct(url, run, scenario, victim=victim, watcher=watcher)
        console.print()
    return summaries


def _report(
    console: Console,
    *,
    summaries: dict[Mode, Summary],
    scenario: Scenario,
    victim: Role | None,
    place: str,
    as_json: bool,
) -> None:
    from pgmem.demo import show

    if as_json:
        print_json(_document(summaries, scenario, victim))
        return
    if "isolated" in summaries:
        show.print_comparison(console, summaries["shared"], summaries["isolated"])
        show.say(console, show.ABOUT_MANUAL)
        show.say(console, show.ABOUT_ISOLATED)
    else:
        show.print_summary(console, summaries["shared"])
    wrong = ", ".join(summaries["shared"].wrong())
    if wrong:
        show.say(console, f"Not zero: {wrong}", show.BAD)
    else:
        show.say(console, "All figures that must be zero are zero.", show.GOOD)
    show.say(console, place)


def _document(
    summaries: dict[Mode, Summary], scenario: Scenario, victim: Role | None
) -> dict[str, Any]:
    from pgmem.demo.scenario import FAULT_RATES
    from pgmem.demo.summary import PUBLISHED

    document: dict[str, Any] = {
        "seed": scenario.seed,
        "payments": scenario.payments,
        "rate": scenario.rate,
        "fault_rates": dict(FAULT_RATES),
        "faults_sent": scenario.faults(),
        "killed": victim,
        "ok": not summaries["shared"].wrong(),
        **{mode: summary.to_json() for mode, summary in summaries.items()},
    }
    if "isolated" in summaries:
        document["published"] = PUBLISHED
    return document
