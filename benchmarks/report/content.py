"""What is told, and in what order and words, however it looks.

The order is the reader's: where pgmem stands beside Redis done right at the equal promise, what
was asked and missed, what was wrong, what is not measured; then each scenario; then what it ran
on. Figures are the harness's: nothing is computed here beyond choosing, rounding and naming them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest

from benchmarks.audit import Faults
from benchmarks.figures import PERCENTILES, Interval, microseconds
from benchmarks.harness import Arm, Comparison, Limit, Result, Scenario, Standing, Verdict
from benchmarks.report.data import Run

TIER_TITLES = {"strict": "strict", "relaxed": "relaxed", "none": "none", "": "–"}
KIND_TITLES = {
    "pgmem": "pgmem",
    "redis": "Redis done right",
    "published": "the article's Redis code",
    "floor": "the bare driver",
    "peer": "another library",
}
PROMISES = (
    (
        "strict",
        "synchronous_commit as the server has it (on)",
        "appendonly yes, appendfsync always",
        "What is acknowledged is on the disk: it survives kill -9 of the server and a power cut.",
    ),
    (
        "relaxed",
        'durability="relaxed": synchronous_commit off',
        "appendonly yes, appendfsync everysec",
        "A crash may take the last of what was acknowledged. pgmem: the last fraction of a second, "
        "by kill -9 of the server or a power cut, and never a part of a transaction. Redis: up to "
        "about two seconds, by a power cut; by kill -9 only what waits for a disk that is late.",
    ),
    ("none", "pgmem has no such tier", "appendonly no", "Nothing: it is in memory only."),
)
"""Tier, how pgmem and Redis are set to it, and what an acknowledged write survives."""
METHOD = (
    "Arms run in turn, round by round, in an order that alternates, so that whatever else the "
    "machine does hits all of them; the warm-up rounds are thrown away.",
    "A figure is the median over the rounds. A ratio is made within each round, from figures taken "
    "moments apart; its median is given, with a 95 % bootstrap interval.",
    "Level means that the interval holds 1. An arm that did anything wrong is behind, and meets no "
    "target, however fast it was.",
    "What was lost, duplicated, reordered, torn or starved is counted from what the store holds.",
)
INSTALL = "python3 -m venv .venv && .venv/bin/pip install '.[bench]'"
SPENT = {
    "per second": "per second",
    "client CPU, µs each": "client CPU, µs",
    "server CPU, µs each": "server CPU, µs",
    "log, B each": "log, B",
    "data, B each": "data, B",
    "memory, B each": "memory, B",
}
"""The further figures with a column in every scenario: as they are named, and their heading."""
STANDINGS: tuple[Standing, ...] = ("ahead", "level", "behind")
HEADLINE_ROWS = 16


def figure(value: float) -> str:
    """A figure with three or four digits that mean something."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value: float) -> str:
    """How often, as a ratio is told: with two digits behind the point, or three that mean much."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def duration(nanoseconds: float) -> str:
    """A time with its unit."""
    for size, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def code_spans(text: str) -> list[tuple[bool, str]]:
    """A note in parts: whether it is code, which stands between backquotes, and the text."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backquote without its other half is only a character
        return [(False, text)]
    return [(bool(number % 2), part) for number, part in enumerate(parts) if part]


@dataclass(frozen=True, slots=True)
class Answer:
    """A question of a scenario with its answer."""

    scenario: Scenario
    asked: Comparison | Limit
    verdict: Verdict
    wrong: bool

    @property
    def arm(self) -> Arm:
        """Whom it is about."""
        return self.scenario.arm(self.asked.arm)

    @property
    def figure(self) -> str:
        """Which further figure is compared, behind the scenario's name; "" for its own."""
        named = isinstance(self.asked, Comparison) and self.asked.figure
        return f", {named}" if named else ""

    @property
    def told(self) -> bool:
        """Whether it says where pgmem stands beside Redis at the equal promise."""
        return self.verdict.standing is not None and self.verdict.better is not None

    @property
    def ratio(self) -> str:
        """The figure with its interval, as it was asked for."""
        found = self.verdict.ratio
        if isinstance(self.asked, Limit):
            return spread(found, figure)
        return f"{spread(found, times)} ×" if found.low == found.high else f"{spread(found, times)}"

    @property
    def outcome(self) -> str:
        """Whether the target is met; "" without one."""
        if self.verdict.met is None:
            return ""
        if self.wrong:
            return "missed: wrong"
        doubt = "" if self.verdict.sure else ", but the interval crosses the target"
        return ("met" if self.verdict.met else "missed") + doubt

    @property
    def in_words(self) -> str:
        """Where pgmem is, for people: "1.35 × slower"."""
        better = self.verdict.better
        if better is None:
            return ""
        unit = self.scenario.unit
        comparison = self.asked if isinstance(self.asked, Comparison) else None
        named = comparison.figure if comparison and comparison.figure else unit
        timed = named.startswith("p") or "/s" in named or "per second" in named
        timed = timed or named in ("ns", "µs", "ms", "s", "max")
        more, less = ("faster", "slower") if timed else ("better", "worse")
        text = f"{times(better.median)} × {more}"
        if better.median < 1:
            text = f"{times(1 / better.median)} × {less}"
        return f"{text}, and wrong" if self.wrong else text


def spread(found: Interval, told: Callable[[float], str] = figure) -> str:
    """A figure and between what it lies."""
    if found.low == found.high:
        return told(found.median)
    return f"{told(found.median)} ({told(found.low)} – {told(found.high)})"


@dataclass(frozen=True, slots=True)
class Row:
    """An arm in its scenario's table: its cells, in the order of the section's headings."""

    arm: Arm
    cells: Sequence[str]
    wrong: str


@dataclass(frozen=True, slots=True)
class Section:
    """A scenario as it is told.

    Attributes:
        result: what was measured.
        answers: what was asked.
        headings: of the table's columns of figures.
        rows: of the table.
        further: figures that only this scenario has: by name, of each arm that has it.
    """

    result: Result
    answers: Sequence[Answer]
    headings: Sequence[str]
    rows: Sequence[Row]
    further: Mapping[str, Mapping[str, Interval]]

    @property
    def scenario(self) -> Scenario:
        """Which one it is."""
        return self.result.scenario

    @property
    def main(self) -> list[Answer]:
        """Where pgmem stands with the scenario's own figure: the first that is asked by promise.

        A scenario may ask for a second form of pgmem too, which would count twice.
        """
        found: dict[str, Answer] = {}
        for answer in self.answers:
            if answer.told and isinstance(answer.asked, Comparison) and answer.asked.figure is None:
                found.setdefault(answer.arm.tier, answer)
        return list(found.values())

    @property
    def group(self) -> str:
        """The scenarios that were set up together have the same."""
        return group_of(self.scenario)


def group_of(scenario: Scenario) -> str:
    """What stands before the "/" of a scenario's name."""
    return scenario.name.partition("/")[0]


def wrong_text(result: Result, arm: str) -> str:
    """What an arm did wrong, counted: "0", or how many of which kind."""
    return str(result.faults[arm]) if result.faults[arm] else "0"


class Content:
    """A run as it is told; makes every figure once, for all of the forms it is told in.

    Attributes:
        run: what was measured.
        sections: a section for each scenario.
        answers: of all scenarios.
        main: those that say where pgmem stands: one for each scenario and promise.
        wrong: the arms that did something wrong, and what.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sections = [_section(result) for result in run.results]
        self.answers = [answer for section in self.sections for answer in section.answers]
        self.main = [answer for section in self.sections for answer in section.main]
        self.wrong = [
            (result.scenario, arm, wrong_text(result, arm.name))
            for result in run.results
            for arm in result.scenario.arms
            if result.faults[arm.name]
        ]

    @property
    def compared(self) -> list[Answer]:
        """Where pgmem stands beside Redis at the equal promise, the best first."""
        told = [answer for answer in self.answers if answer.told]
        return sorted(told, key=_rank)

    def standing(self, standing: Standing) -> int:
        """How many main figures of pgmem stand so."""
        return sum(answer.verdict.standing == standing for answer in self.main)

    @property
    def targets(self) -> list[Answer]:
        """What was asked, the missed first."""
        asked = [answer for answer in self.answers if answer.verdict.met is not None]
        return sorted(asked, key=lambda answer: answer.verdict.met is True)

    @property
    def groups(self) -> dict[str, list[Section]]:
        """The sections by their group, in the order they ran."""
        found: dict[str, list[Section]] = {}
        for section in self.sections:
            found.setdefault(section.group, []).append(section)
        return found

    def headline(self) -> list[list[Answer]]:
        """The main figures of the scenarios that matter most, those of one scenario together.

        They are the ones with a headline; where none has, one of each group, those with targets
        first, and then further ones, up to as many as can be read at a glance.
        """
        found: dict[str, list[Answer]] = {}
        for answer in self.main:
            found.setdefault(answer.scenario.name, []).append(answer)
        rows = list(found.values())
        named = [row for row in rows if row[0].scenario.headline]
        if named:
            return named
        groups: dict[str, list[list[Answer]]] = {}
        for row in sorted(rows, key=lambda row: all(a.verdict.met is None for a in row)):
            groups.setdefault(group_of(row[0].scenario), []).append(row)
        in_turn = [row for turn in zip_longest(*groups.values()) for row in turn if row is not None]
        chosen = {row[0].scenario.name for row in in_turn[:HEADLINE_ROWS]}
        return [row for row in rows if row[0].scenario.name in chosen]

    def summary(self) -> str:
        """The verdict in a sentence."""
        counts = {standing: self.standing(standing) for standing in STANDINGS}
        if not sum(counts.values()):
            return "No scenario of this run compares pgmem with Redis at an equal promise."
        return (
            f"Of {sum(counts.values())} comparisons with Redis done right at the equal promise, "
            f"pgmem is ahead in {counts['ahead']}, level in {counts['level']} and behind in "
            f"{counts['behind']}."
        )

    def correctness(self) -> tuple[list[str], list[list[str]]]:
        """What was wrong by whose way it is, counted: headings and rows."""
        kinds = [each.name for each in fields(Faults)]
        rows = []
        for kind, title in KIND_TITLES.items():
            arms = [
                result.faults[arm.name]
                for result in self.run.results
                for arm in result.scenario.arms
                if arm.kind == kind
            ]
            if arms:
                total = sum(arms, Faults())
                counts = [f"{getattr(total, name):,}" for name in kinds]
                rows.append([title, f"{sum(map(bool, arms))} of {len(arms)}", *counts])
        return ["whose", "arms wrong", *kinds], rows

    def met(self) -> str:
        """How many targets are met."""
        targets = self.targets
        return f"{sum(a.verdict.met is True for a in targets)} of {len(targets)}"


def _rank(answer: Answer) -> tuple[int, float]:
    assert answer.verdict.standing is not None
    assert answer.verdict.better is not None
    return STANDINGS.index(answer.verdict.standing), -answer.verdict.better.median


def _section(result: Result) -> Section:
    scenario = result.scenario
    questions: list[Comparison | Limit] = [*scenario.comparisons, *scenario.limits]
    answers = [
        Answer(scenario, asked, verdict, bool(result.faults[asked.arm]))
        for asked, verdict in zip(questions, result.verdicts(), strict=True)
    ]
    columns = {
        f"median, {scenario.unit}": {
            arm.name: figure(result.median(arm.name)) for arm in scenario.arms
        },
        **{name: {} for name in PERCENTILES},
        **{heading: {} for heading in SPENT.values()},
    }
    further: dict[str, dict[str, Interval]] = {}
    for arm in scenario.arms:
        taken = result.times(arm.name)
        if taken is not None:
            for name, percent in PERCENTILES.items():
                columns[name][arm.name] = figure(microseconds(taken, percent))
        for name in dict.fromkeys(n for s in result.samples[arm.name] for n in s.figures):
            values = [s.figures[name] for s in result.samples[arm.name] if name in s.figures]
            if name in SPENT:
                columns[SPENT[name]][arm.name] = figure(statistics.median(values))
            elif name in PERCENTILES and taken is None and scenario.unit == "µs":
                columns[name][arm.name] = figure(statistics.median(values))
    for arm in scenario.arms:
        for name, found in result.figures(arm.name).items():
            if name not in SPENT and name not in PERCENTILES:
                further.setdefault(name, {})[arm.name] = found
    filled = {heading: cells for heading, cells in columns.items() if cells}
    rows = [
        Row(
            arm,
            [cells.get(arm.name, "–") for cells in filled.values()],
            wrong_text(result, arm.name),
        )
        for arm in scenario.arms
    ]
    headings = [f"{name}, µs" if name in PERCENTILES else name for name in filled]
    return Section(result, answers, headings, rows, further)


def whose(arm: Arm) -> str:
    """Whose way an arm is, to stand behind its note; "" for pgmem's."""
    return "" if arm.kind == "pgmem" else f" ({KIND_TITLES[arm.kind]})"


def title_of(scenario: Scenario, longest: int = 60) -> str:
    """A scenario in a few words."""
    if scenario.headline:
        return scenario.headline
    return shortened(scenario.title.partition(":")[0].partition(" (")[0], longest)


def shortened(text: str, longest: int) -> str:
    """A text that is not longer than so many characters."""
    return text if len(text) <= longest else text[: longest - 1].rstrip(" ,") + "…"


def listed(texts: Iterable[str]) -> str:
    """Some texts in a line."""
    return ", ".join(texts)
