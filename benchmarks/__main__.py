"""``python -m benchmarks``: the command line, and the order in which things happen.

Exit code: 0 if all arms were right (targets may be missed: they are the machine's matter too),
1 if an arm lost, doubled, reordered or tore something, or a server failed, 2 for wrong arguments.
With ``--from-json`` nothing is measured: an earlier run is told again.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import harness, machine, redis_server, report, servers
from benchmarks.crew import CrewError
from benchmarks.harness import Result
from benchmarks.peers import environment
from benchmarks.scenarios import ENTRIES, HEADLINES, Bench, Entry

WRITTEN = {
    "json": "every figure to a file",
    "html": "the report as one page that loads nothing",
    "markdown": "the report as Markdown, its plots into a folder beside it",
    "headline": "the chart for the README, as SVG",
}
"""The options that name a file, and what is written to it."""
FAILED = "it failed"
"""How the reason begins for which a group of scenarios is missing that ended by an error."""
MEASURING = ("only", "peers", "rounds", "quick", "postgres_url", "redis_url")
"""The options that make no sense where nothing is measured."""


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(
        f"  {entry.name:<18} {entry.title}"
        + (" (--peers)" if entry.peers else " (--only)" if entry.named else "")
        for entry in ENTRIES.values()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure pgmem beside the bare drivers and beside Redis.",
        epilog=f"scenarios:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these scenarios")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="run those beside other libraries too, which are installed in an environment of "
        "their own the first time",
    )
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="count so many rounds")
    parser.add_argument("--quick", action="store_true", help="shorter rounds, fewer of them")
    for name, what in WRITTEN.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="measure nothing: tell an earlier run again"
    )
    parser.add_argument("--postgres-url", metavar="URL", help="use this server, not one of our own")
    parser.add_argument("--redis-url", metavar="URL", help="use this server, not one of our own")
    return parser


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"give 1 to 10000 rounds, got {text!r}")
    return int(text)


def _chosen(
    parser: argparse.ArgumentParser, only: Sequence[str] | None, *, peers: bool, quick: bool
) -> list[Entry]:
    unknown = [name for name in only or () if name not in ENTRIES]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}: there are {', '.join(ENTRIES)}")
    return [
        entry
        for entry in ENTRIES.values()
        if (entry.name in only if only else _is_listed(entry, peers=peers, quick=quick))
    ]


def _is_listed(entry: Entry, *, peers: bool, quick: bool) -> bool:
    """Whether it runs where it is not named."""
    return (peers or not entry.peers) and (entry.quick or not quick) and not entry.named


def _left_out(options: argparse.Namespace) -> dict[str, str]:
    """What does not run, though nobody chose among the scenarios, and why."""
    if options.only:
        return {}
    peers = {} if options.peers else {"other libraries": "ask for them with --peers"}
    quick = {
        entry.name: "a quick run leaves it out"
        for entry in ENTRIES.values()
        if options.quick and not entry.quick
    }
    named = {
        entry.name: f"it takes {entry.seconds[options.quick] / 60:.0f} minutes: ask for it with "
        "--only"
        for entry in ENTRIES.values()
        if entry.named
    }
    return peers | quick | named


class _Clock:
    """Progress with time left, on stderr, in guessed seconds of all chosen scenarios."""

    def __init__(self, entries: Sequence[Entry], quick: bool) -> None:
        self._quick = quick
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        total = sum(entry.seconds[quick] for entry in entries)
        self._task = self._progress.add_task("starting", total=total)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self._progress:
            yield

    def name(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def step(self, entry: Entry, steps: int) -> None:
        self._progress.advance(self._task, entry.seconds[self._quick] / steps)


def _facts(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """What the figures are taken on: machine, servers and their settings."""
    found = machine.describe()
    found["fsync of 8 kB"] = f"{machine.fsync_microseconds():.0f} µs"
    facts = {"machine": found}
    with servers.postgres(options.postgres_url) as postgres:
        facts["postgres"] = {"version": postgres.version(), **postgres.settings()}
    with redis_server.redis("strict", options.redis_url) as redis:
        facts["redis"] = redis.describe()
    return facts


@contextlib.contextmanager
def _fresh(options: argparse.Namespace) -> Iterator[Bench]:
    """Servers with fresh data for one group of scenarios."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres(options.postgres_url))
        yield Bench(
            postgres,
            stack,
            redis_url=options.redis_url,
            quick=options.quick,
            rounds=options.rounds,
        )


def _run(
    bench: Bench, entry: Entry, clock: _Clock, console: Console, results: list[Result]
) -> None:
    """Run a group of scenarios, and print and keep each one when it is done."""
    with entry.setup(bench) as scenarios:
        steps = sum(scenario.steps for scenario in scenarios)
        for scenario in scenarios:
            named = replace(scenario, headline=HEADLINES.get(scenario.name, ""))

            def on_step(arm: str, name: str = scenario.name) -> None:
                clock.name(f"{name}: {arm}")
                clock.step(entry, steps)

            result = harness.run(named, on_step)
            report.print_result(console, result)
            results.append(result)


def _is_wrong(result: Result) -> bool:
    """Whether an arm did wrong that should do right: the published one is shown as it is."""
    return any(
        result.faults[arm.name].without(arm.excused)
        for arm in result.scenario.arms
        if arm.kind != "published"
    )


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in WRITTEN:
        file = getattr(options, name)
        if file is not None and not file.absolute().parent.is_dir():
            parser.error(f"--{name}: there is no folder {file.absolute().parent}")
    given = [name for name in MEASURING if getattr(options, name)]
    if options.from_json is not None and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        parser.error(f"--from-json measures nothing: leave {names} out")


def _command(arguments: Sequence[str]) -> str:
    """What makes such a run again, for a report: without the files of this one, and passwords."""
    kept = []
    left = iter(arguments)
    for argument in left:
        name, equals, _ = argument.partition("=")
        if name.removeprefix("--") in WRITTEN:
            if not equals:
                next(left, None)
        elif name in ("--postgres-url", "--redis-url"):
            kept += [name, "URL"]
            if not equals:
                next(left, None)
        else:
            kept.append(argument)
    return " ".join(["python -m benchmarks", *map(shlex.quote, kept)])


def _measured(
    options: argparse.Namespace, entries: Sequence[Entry], console: Console, command: str
) -> report.Run:
    """Run the chosen scenarios, and print each one when it is done."""
    taken = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    clock = _Clock(entries, options.quick)
    missing = _left_out(options)
    facts = _facts(options)
    if any(entry.peers for entry in entries):
        facts["peers"] = environment.versions()
    for title, lines in facts.items():
        report.print_facts(console, title, lines)
    machine.pin_clients()
    # What was imported is no garbage; looking through it again before each round takes longer
    # than many a round.
    gc.freeze()
    results: list[Result] = []
    with clock.running():
        took = facts["time"] = {}
        for entry in entries:
            clock.name(f"{entry.name}: setting up")
            begun = time.monotonic()
            try:
                with _fresh(options) as bench:
                    _run(bench, entry, clock, console, results)
            except (servers.ServerError, CrewError) as error:
                # Half an hour of the others' figures is not thrown away.
                print(f"python -m benchmarks: {entry.name}: {error}", file=sys.stderr)
                missing[entry.name] = f"{FAILED}: {str(error).splitlines()[-1]}"
            else:
                missing |= bench.missing
            took[entry.name] = f"{time.monotonic() - begun:.0f} s"
    return report.Run(facts, results, missing, command, taken)


def _again(file: Path, console: Console) -> report.Run:
    """An earlier run, printed as if it had just ended."""
    run = report.read_json(file)
    for title, lines in run.facts.items():
        report.print_facts(console, title, lines)
    for result in run.results:
        report.print_result(console, result)
    return run


def _write(options: argparse.Namespace, run: report.Run) -> None:
    """Write what was asked for."""
    if options.json is not None:
        report.write_json(options.json, run)
    if not (options.html or options.markdown or options.headline):
        return
    # matplotlib is loaded after the run, so that it takes no memory or time of an arm.
    from benchmarks.report.charts import headline  # noqa: PLC0415
    from benchmarks.report.document import page, write_markdown  # noqa: PLC0415

    content = report.Content(run)
    if options.html is not None:
        options.html.write_text(page(content), encoding="utf-8")
    if options.markdown is not None:
        write_markdown(options.markdown, content)
    if options.headline is not None:
        options.headline.write_text(headline(content).svg(), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; gives the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    entries = _chosen(parser, options.only, peers=options.peers, quick=options.quick)
    _check(parser, options)
    # A stop by SIGTERM must stop the servers too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    try:
        if options.from_json is not None:
            run = _again(options.from_json, console)
        else:
            command = _command(sys.argv[1:] if arguments is None else arguments)
            run = _measured(options, entries, console, command)
    except report.DataError as error:
        parser.error(f"--from-json: {error}")
    except (servers.ServerError, CrewError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 1
    report.print_summary(console, run)
    _write(options, run)
    failed = any(why.startswith(FAILED) for why in run.missing.values())
    return 1 if failed or any(_is_wrong(result) for result in run.results) else 0


if __name__ == "__main__":
    sys.exit(main())
