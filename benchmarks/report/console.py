"""The results on a terminal, while the run goes on and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Interval
from benchmarks.harness import Result, Verdict
from benchmarks.report.content import figure, spread


def interval(found: Interval) -> str:
    """A ratio and between what it lies."""
    return f"{found.median:.3f}  ({found.low:.3f} – {found.high:.3f})"


def print_facts(console: Console, title: str, facts: Mapping[str, str]) -> None:
    """Print names and values, one a line."""
    console.print(Text(title, style="bold"))
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        console.print(Text(f"  {name:<{width}}  {value}"))
    console.print()


def print_result(console: Console, result: Result) -> None:
    """Print a scenario: its arms, then what was asked of them."""
    scenario = result.scenario
    console.print(Text(scenario.name, style="bold"), Text(scenario.title))
    arms = Table(box=None, pad_edge=False, padding=(0, 2))
    arms.add_column("  arm")
    arms.add_column(f"median, {scenario.unit}", justify="right")
    arms.add_column("wrong")
    arms.add_column("what it is")
    for arm in scenario.arms:
        wrong = str(result.faults[arm.name])
        style = "" if wrong == "none" else "bold red"
        arms.add_row(
            f"  {arm.name}", figure(result.median(arm.name)), Text(wrong, style=style), arm.note
        )
    console.print(arms)
    asked = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("  ratio", f"median of {scenario.rounds} rounds (95 %)", "target", ""):
        asked.add_column(heading)
    for verdict in result.verdicts():
        asked.add_row(
            f"  {verdict.question}", interval(verdict.ratio), verdict.target, _met(verdict)
        )
    console.print(asked)
    for arm in scenario.arms:
        for name, found in result.figures(arm.name).items():
            console.print(Text(f"  {arm.name}: {name} {spread(found)}"))
    console.print()


def _met(verdict: Verdict) -> Text:
    if verdict.met is None:
        return Text("for information", style="dim")
    doubt = "" if verdict.sure else ", but the interval crosses the target"
    if verdict.met:
        return Text(f"met{doubt}", style="green" if verdict.sure else "yellow")
    return Text(f"MISSED{doubt}", style="bold red")


def print_summary(console: Console, results: Sequence[Result], missing: Mapping[str, str]) -> None:
    """Print how many targets are met, which are not, and what was not measured."""
    verdicts = [(r.scenario.name, v) for r in results for v in r.verdicts() if v.met is not None]
    missed = [(name, v) for name, v in verdicts if not v.met]
    wrong = [
        f"{result.scenario.name}, {arm}: {faults}"
        for result in results
        for arm, faults in result.faults.items()
        if faults
    ]
    console.print(Text(f"{len(verdicts) - len(missed)} of {len(verdicts)} targets met."))
    for name, verdict in missed:
        text = f"  missed: {name}, {verdict.question}: {verdict.ratio.median:.3f}, {verdict.target}"
        console.print(Text(text))
    for line in wrong:
        console.print(Text(f"  WRONG: {line}", style="bold red"))
    for what, why in missing.items():
        console.print(Text(f"  not measured: {what}: {why}", style="yellow"))
