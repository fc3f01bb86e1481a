"""``python -m benchmarks``: the command line, and the order in which things happen.

Exit code: 0 if all arms were right (targets may be missed: they are the machine's matter too),
1 if an arm lost, doubled, reordered or tore something, or a server failed, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import harness, machine, redis_server, report, servers
from benchmarks.crew import CrewError
from benchmarks.harness import Result
from benchmarks.peers import environment
from benchmarks.scenarios import ENTRIES, MISSING, Bench, Entry


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(
        f"  {entry.name:<18} {entry.title}" + (" (--peers)" if entry.peers else "")
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to a file")
    parser.add_argument("--postgres-url", metavar="URL", help="use this server, not one of our own")
    parser.add_argument("--redis-url", metavar="URL", help="use this server, not one of our own")
    return parser


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"give 1 to 10000 rounds, got {text!r}")
    return int(text)


def _chosen(
    parser: argparse.ArgumentParser, only: Sequence[str] | None, peers: bool
) -> list[Entry]:
    unknown = [name for name in only or () if name not in ENTRIES]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}: there are {', '.join(ENTRIES)}")
    return [
        entry
        for entry in ENTRIES.values()
        if (entry.name in only if only else peers or not entry.peers)
    ]


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


def _run(bench: Bench, entry: Entry, clock: _Clock, console: Console) -> list[Result]:
    """Run a group of scenarios, and print each one when it is done."""
    results = []
    with entry.setup(bench) as scenarios:
        steps = sum(scenario.steps for scenario in scenarios)
        for scenario in scenarios:

            def on_step(arm: str, name: str = scenario.name) -> None:
                clock.name(f"{name}: {arm}")
                clock.step(entry, steps)

            result = harness.run(scenario, on_step)
            report.print_result(console, result)
            results.append(result)
    return results


def _is_wrong(result: Result) -> bool:
    """Whether an arm did wrong that should do right: the published one is shown as it is."""
    return any(
        result.faults[arm.name]
        for arm in result.scenario.arms
        if arm.kind != "published" and not arm.excused
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; gives the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    entries = _chosen(parser, options.only, options.peers)
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.absolute().parent}")
    # A stop by SIGTERM must stop the servers too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    clock = _Clock(entries, options.quick)
    missing = dict(MISSING)
    try:
        facts = _facts(options)
        if any(entry.peers for entry in entries):
            facts["peers"] = environment.versions()
        for title, lines in facts.items():
            report.print_facts(console, title, lines)
        machine.pin_clients()
        results = []
        with clock.running():
            for entry in entries:
                clock.name(f"{entry.name}: setting up")
                with _fresh(options) as bench:
                    results += _run(bench, entry, clock, console)
                    missing |= bench.missing
    except (servers.ServerError, CrewError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 1
    report.print_summary(console, results, missing)
    if options.json is not None:
        report.write_json(options.json, facts, results, missing)
    return 1 if any(_is_wrong(result) for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
