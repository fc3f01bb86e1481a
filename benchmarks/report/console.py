"""Print the results on a terminal, while the run goes on and at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.harness import Result
from benchmarks.report.content import Answer, Content, section, spread, times
from benchmarks.report.data import Run


def print_facts(console: Console, title: str, facts: Mapping[str, str]) -> None:
    """Print names and values, one a line."""
    console.print(Text(title, style="bold"))
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        console.print(Text(f"  {name:<{width}}  {value}"))
    console.print()


def print_result(console: Console, result: Result) -> None:
    """Print a scenario: its arms, then the answers to its questions."""
    told, scenario = section(result), result.scenario
    median = f"median, {scenario.unit}"
    console.print(Text(scenario.name, style="bold"), Text(scenario.title))
    arms = _table(["  arm", median, "wrong", "what it is"])
    arms.columns[1].justify = "right"
    for arm in scenario.arms:
        style = "bold red" if result.faults[arm.name] else ""
        wrong = Text(str(result.faults[arm.name]), style=style)
        arms.add_row(f"  {arm.name}", told.columns[median][arm.name], wrong, Text(arm.note))
    console.print(arms)
    asked = _table(["  ratio", f"median of {scenario.rounds} rounds (95 %)", "target", ""])
    for answer in told.answers:
        verdict = answer.verdict
        asked.add_row(f"  {verdict.question}", answer.ratio, verdict.target, _outcome(answer))
    console.print(asked)
    for arm in scenario.arms:
        for name, interval in result.figures(arm.name).items():
            console.print(Text(f"  {arm.name}: {name} {spread(interval)}"))
    console.print()


def _table(headings: Iterable[str]) -> Table:
    return Table(*headings, box=None, pad_edge=False, padding=(0, 2))


def _outcome(answer: Answer) -> Text:
    if answer.verdict.met is None:
        return Text("for information", style="dim")
    sure = "green" if answer.verdict.sure else "yellow"
    return Text(answer.outcome, style=sure if answer.verdict.met else "bold red")


def print_summary(console: Console, run: Run) -> None:
    """Print how many targets are met, which are not, and what was not measured."""
    content = Content(run)
    console.print(Text(content.met()))
    for answer in content.targets:
        if not answer.verdict.met:
            asked, ratio = answer.verdict, times(answer.verdict.ratio.median)
            text = f"  missed: {answer.scenario.name}, {asked.question}: {ratio}, {asked.target}"
            console.print(Text(text))
    for told, arm in content.wrong:
        line = f"  WRONG: {told.scenario.name}, {arm.name}: {told.wrong(arm.name)}"
        console.print(Text(line, style="bold red"))
    for what, why in run.missing.items():
        console.print(Text(f"  not measured: {what}: {why}", style="yellow"))
