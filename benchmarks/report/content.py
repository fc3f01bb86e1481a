"""Choose, round and name what a report says, for all of its forms.

The figures come from `benchmarks.harness`; this module computes none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from benchmarks.audit import Faults
from benchmarks.figures import PERCENTILES, Interval, microseconds
from benchmarks.harness import Arm, Comparison, Limit, Result, Scenario, Standing, Verdict
from benchmarks.report.data import Run

KIND_TITLES = {
    "pgmem": "pgmem",
    "redis": "Redis done right",
    "published": "the article's Redis code",
    "floor": "a floor: driver or socket alone",
    "peer": "another library",
}
SPENT = {
    "per second": "per second",
    "client CPU, µs each": "client CPU, µs",
    "server CPU, µs each": "server CPU, µs",
    "log, B each": "log, B",
    "data, B each": "data, B",
    "memory, B each": "memory, B",
}
"""The further figures with a column in every scenario: name to heading."""
STANDINGS: tuple[Standing, ...] = ("ahead", "level", "behind")
TIMES = ("ns", "µs", "ms", "s")
HEADLINE_ROWS = 16


def figure(value: float) -> str:
    """Format a figure with three or four significant digits."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value: float) -> str:
    """Format a ratio with two or three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def duration(nanoseconds: float) -> str:
    """Format a time with its unit."""
    for size, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def spread(found: Interval, form: Callable[[float], str] = figure) -> str:
    """Format a figure with its interval."""
    if found.low == found.high:
        return form(found.median)
    return f"{form(found.median)} ({form(found.low)} – {form(found.high)})"


def shortened(text: str, longest: int) -> str:
    """Cut a text to `longest` characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip(" ,") + "…"


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold a question of a scenario with its answer.

    `verdict.standing` is set if the question compares pgmem with Redis at the equal promise.
    """

    scenario: Scenario
    asked: Comparison | Limit
    verdict: Verdict
    wrong: bool

    @property
    def arm(self) -> Arm:
        """The arm that the question is about."""
        return self.scenario.arm(self.asked.arm)

    @property
    def figure(self) -> str | None:
        """The further figure that is compared; None for the scenario's own."""
        return self.asked.figure if isinstance(self.asked, Comparison) else None

    @property
    def ratio(self) -> str:
        """The figure with its interval."""
        found = self.verdict.ratio
        if isinstance(self.asked, Limit):
            return spread(found)
        return spread(found, times) + (" ×" if found.low == found.high else "")

    @property
    def outcome(self) -> str:
        """Whether the target is met, in words; "" without a target."""
        if self.verdict.met is None:
            return ""
        if self.wrong:
            return "missed: wrong"
        doubt = "" if self.verdict.sure else ", but the interval crosses the target"
        return ("met" if self.verdict.met else "missed") + doubt

    @property
    def in_words(self) -> str:
        """The standing beside Redis, such as `behind: 1.35 × slower`; empty for other questions."""
        if self.verdict.standing is None:
            return ""
        named = self.figure or self.scenario.unit
        timed = named in (*TIMES, "max") or re.match(r"p\d|.*(/s|per second)", named)
        more, less = ("faster", "slower") if timed else ("better", "worse")
        ratio = self.verdict.ratio.median
        text = f"{times(1 / ratio)} × {more}" if ratio <= 1 else f"{times(ratio)} × {less}"
        return f"{self.verdict.standing}: {text}" + (", and wrong" if self.wrong else "")


@dataclass(frozen=True, slots=True)
class Section:
    """Hold what the report says about a scenario.

    Attributes:
        result: the measurements.
        answers: the scenario's questions, answered.
        columns: the table's columns of figures: by heading, then by arm.
        further: figures that only this scenario has: by name, then by arm.
    """

    result: Result
    answers: Sequence[Answer]
    columns: Mapping[str, Mapping[str, str]]
    further: Mapping[str, Mapping[str, Interval]]

    @property
    def scenario(self) -> Scenario:
        """The scenario."""
        return self.result.scenario

    @property
    def main(self) -> list[Answer]:
        """The first comparison with Redis of the scenario's own figure at each promise.

        A scenario may compare a second form of pgmem too. It does not count again.
        """
        found: dict[str, Answer] = {}
        for answer in self.answers:
            if answer.verdict.standing is not None and answer.figure is None:
                found.setdefault(answer.arm.tier, answer)
        return list(found.values())

    def wrong(self, arm: str) -> str:
        """Return the counts of what an arm did wrong, or "0"."""
        faults = self.result.faults[arm]
        return str(faults) if faults else "0"


class Content:
    """Choose what the report says about a run.

    Attributes:
        run: the measurements.
        sections: one for each scenario, in the order of the run.
        compared: all comparisons with Redis at the equal promise, the best first; the summary
            counts each of them.
        targets: the answers that have a target, the missed ones first.
        wrong: the arms that did something wrong.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sections = [section(result) for result in run.results]
        answers = [answer for each in self.sections for answer in each.answers]
        self.compared = sorted((a for a in answers if a.verdict.standing), key=_rank)
        asked = [answer for answer in answers if answer.verdict.met is not None]
        self.targets = sorted(asked, key=lambda answer: answer.verdict.met is True)
        self.wrong = [
            (each, arm)
            for each in self.sections
            for arm in each.scenario.arms
            if each.result.faults[arm.name]
        ]

    @property
    def groups(self) -> dict[str, list[Section]]:
        """The sections by the part of their name before the "/", in the order of the run."""
        found: dict[str, list[Section]] = {}
        for each in self.sections:
            found.setdefault(each.scenario.name.partition("/")[0], []).append(each)
        return found

    def headline(self) -> list[list[Answer]]:
        """Return the main comparisons of the headline chart, by scenario.

        These are the scenarios with a headline; if none has one, the first of the run.
        """
        rows = [each.main for each in self.sections if each.main]
        named = [row for row in rows if row[0].scenario.headline]
        return named or rows[:HEADLINE_ROWS]

    @property
    def quick(self) -> bool:
        """True if the rounds were few and short."""
        return "--quick" in self.run.command.split()

    def summary(self) -> str:
        """Return how pgmem compares with Redis in all rows of the comparison, in a sentence."""
        if not self.compared:
            return "No scenario of this run compares pgmem with Redis at an equal promise."
        found = [answer.verdict.standing for answer in self.compared]
        ahead, level, behind = (found.count(standing) for standing in STANDINGS)
        return (
            f"Of {len(found)} comparisons with Redis done right at the equal promise, "
            f"pgmem is ahead in {ahead}, level in {level} and behind in {behind}."
        )

    def met(self) -> str:
        """Return how many targets are met."""
        met = sum(answer.verdict.met is True for answer in self.targets)
        return f"{met} of {len(self.targets)} targets are met."

    def correctness(self) -> tuple[list[str], list[list[str]]]:
        """Return what was wrong, counted by kind of arm: headings and rows."""
        kinds = [each.name for each in fields(Faults)]
        found: dict[str, list[Faults]] = {kind: [] for kind in KIND_TITLES}
        for result in self.run.results:
            for arm in result.scenario.arms:
                found[arm.kind].append(result.faults[arm.name])
        rows = []
        for kind, arms in found.items():
            counts = [f"{getattr(sum(arms, Faults()), name):,}" for name in kinds]
            if arms:
                rows.append([KIND_TITLES[kind], f"{sum(map(bool, arms))} of {len(arms)}", *counts])
        return ["code", "arms wrong", *kinds], rows


def _rank(answer: Answer) -> tuple[int, float]:
    assert answer.verdict.standing is not None
    return STANDINGS.index(answer.verdict.standing), answer.verdict.ratio.median


def section(result: Result) -> Section:
    """Return what the report says about a scenario."""
    scenario = result.scenario
    questions: list[Comparison | Limit] = [*scenario.comparisons, *scenario.limits]
    answers = [
        Answer(scenario, asked, verdict, bool(result.faults[asked.arm]))
        for asked, verdict in zip(questions, result.verdicts(), strict=True)
    ]
    main = f"median, {scenario.unit}"
    percentiles = {name: f"{name}, µs" for name in PERCENTILES}
    columns: dict[str, dict[str, str]] = {
        heading: {} for heading in (main, *percentiles.values(), *SPENT.values())
    }
    further: dict[str, dict[str, Interval]] = {}
    for arm in scenario.arms:
        columns[main][arm.name] = figure(result.median(arm.name))
        taken = result.times(arm.name)
        for name, percent in PERCENTILES.items() if taken is not None else ():
            columns[percentiles[name]][arm.name] = figure(microseconds(taken, percent))
        for name, found in result.figures(arm.name).items():
            if name in SPENT:
                columns[SPENT[name]][arm.name] = figure(found.median)
            elif name not in PERCENTILES:
                further.setdefault(name, {})[arm.name] = found
            elif taken is None and scenario.unit == "µs":
                columns[percentiles[name]][arm.name] = figure(found.median)
    return Section(result, answers, {k: v for k, v in columns.items() if v}, further)


def title_of(scenario: Scenario, longest: int = 60) -> str:
    """Return the title of a scenario in a few words."""
    title = scenario.title.partition(":")[0].partition(" (")[0]
    return scenario.headline or shortened(title, longest)
