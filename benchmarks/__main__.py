"""Run the command line ``python -m benchmarks``.

Exit code: 0 if all arms were right, even if they missed targets, which depend on the machine. 1 if
an arm lost, doubled, reordered or tore something, or a server failed. 2 for wrong arguments. With
``--from-json`` nothing is measured: the report is made from an earlier run.
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
"""The beginning of the reason for a missing group of scenarios that ended by an error."""
MEASURING = ("only", "peers", "rounds", "quick", "postgres_url", "redis_url")
"""The options that are refused with --from-json."""


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
        help="also run the scenarios with other libraries; the first run installs these in an "
        "environment of their own",
    )
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="count N rounds")
    parser.add_argument("--quick", action="store_true", help="shorter rounds, fewer of them")
    for name, what in WRITTEN.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="measure nothing: report an earlier run"
    )
    parser.add_argument(
        "--postgres-url", metavar="URL", help="use this server instead of a private one"
    )
    parser.add_argument(
        "--redis-url", metavar="URL", help="use this server instead of a private one"
    )
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
    """Return True if an entry runs although --only does not name it."""
    return (peers or not entry.peers) and (entry.quick or not quick) and not entry.named


def _left_out(options: argparse.Namespace) -> dict[str, str]:
    """Return what a run without --only leaves out, with the reasons."""
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
    """Show progress and the estimated time left on stderr."""

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
    """Describe what the figures are taken on: machine, servers and their settings."""
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
    """Start servers with fresh data for one group of scenarios."""
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
    """Run a group of scenarios; print and keep each result as soon as it is there."""
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
    """Return True if an arm was wrong, other than the published ones, which show their faults."""
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
    """Return the command line that repeats a run, without its output files and passwords."""
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
    # Collecting the imported modules again before each round takes longer than many a round.
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
                # A failed group must not discard the figures of the others, up to half an hour of
                # work.
                print(f"python -m benchmarks: {entry.name}: {error}", file=sys.stderr)
                missing[entry.name] = f"{FAILED}: {str(error).splitlines()[-1]}"
            else:
                missing |= bench.missing
            took[entry.name] = f"{time.monotonic() - begun:.0f} s"
    return report.Run(facts, results, missing, command, taken)


def _again(file: Path, console: Console) -> report.Run:
    """Read an earlier run, and print it."""
    run = report.read_json(file)
    for title, lines in run.facts.items():
        report.print_facts(console, title, lines)
    for result in run.results:
        report.print_result(console, result)
    return run


def _write(options: argparse.Namespace, run: report.Run) -> None:
    """Write the files that the options name."""
    if options.json is not None:
        report.write_json(options.json, run)
    if not (options.html or options.markdown or options.headline):
        return
    # matplotlib is loaded after the run, so that it takes no memory or time of an arm.
    from benchmarks.report.charts import headline
    from benchmarks.report.document import page, write_markdown

    content = report.Content(run)
    if options.html is not None:
        options.html.write_text(page(content), encoding="utf-8")
    if options.markdown is not None:
        write_markdown(options.markdown, content)
    if options.headline is not None:
        options.headline.write_text(headline(content).svg(), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    entries = _chosen(parser, options.only, peers=options.peers, quick=options.quick)
    _check(parser, options)
    # SIGTERM must also stop the servers.
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
