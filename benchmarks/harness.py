"""How things are measured: arms, interleaved rounds, and all of the statistics.

The method, the same for every scenario:

- Arms run in turn, A B C, C B A, A B C …, so that whatever else the machine does hits all of them.
- The first rounds warm up; their times are thrown away (their faults are not).
- The garbage collector is on for every arm, and has just run when one starts.
- An arm's figure is the median over the rounds. A ratio is made within each round, from figures
  taken moments apart; its median is given, with a bootstrap interval that says how sure it is.
- Each round counts what its arm did wrong. An arm with a fault is wrong, and meets no target.

This module knows neither Postgres nor Redis, and measures nothing by itself (see `meter`).
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hdrh.histogram import HdrHistogram

from benchmarks.audit import NO_FAULTS, Faults
from benchmarks.figures import PERCENTILES, Interval, bootstrap, merged, microseconds, ratios

Kind = Literal["pgmem", "redis", "published", "floor", "peer"]
Tier = Literal["none", "relaxed", "strict"]
Standing = Literal["ahead", "level", "behind"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one arm did in one round.

    Attributes:
        value: its figure, in the scenario's unit.
        faults: what it did wrong.
        figures: further figures by name.
        times: what each call took, in nanoseconds; see `of_times`.
    """

    value: float
    faults: Faults = NO_FAULTS
    figures: Mapping[str, float] = field(default_factory=dict)
    times: HdrHistogram | None = None


def of_times(
    times: HdrHistogram, faults: Faults = NO_FAULTS, figures: Mapping[str, float] | None = None
) -> Sample:
    """A sample whose figure is the median time in microseconds, with the percentiles above it.

    Args:
        times: nanoseconds, as `figures.histogram` makes it.
        faults: what was wrong.
        figures: further figures by name.
    """
    percentiles = {
        name: microseconds(times, percent) for name, percent in PERCENTILES.items() if percent > 50
    }
    return Sample(microseconds(times, 50), faults, {**percentiles, **(figures or {})}, times)


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the ways that are compared.

    Attributes:
        name: short, unique in its scenario.
        run: does one round.
        note: what it is, for the report.
        kind: whose way it is: "redis" is Redis done right, "published" the article's code,
            "floor" the least that a driver can do.
        tier: what it promises: "none" nothing, "relaxed" to lose no more than a moment in a crash
            (appendfsync everysec, durability="relaxed"), "strict" to lose nothing that it has
            acknowledged (appendfsync always). "" where nothing is written.
        prepare: is called before each run, and belongs to no figure.
        excused: the kinds of fault that it does not promise to avoid, and is there to show. They
            are counted like all others; only the run is no failure because of them.
    """

    name: str
    run: Callable[[], Sample]
    note: str = ""
    kind: Kind = "pgmem"
    tier: Tier | Literal[""] = ""
    prepare: Callable[[], None] | None = None
    excused: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ratio of one arm to another, and what it should be; without targets, for information.

    Attributes:
        arm, base: the ratio is arm / base.
        at_most: the target of the ratio.
        at_least: the target of the ratio.
        or_value: the target is met too if the arm's own figure reaches this.
        figure: compares this one of the further figures; None the arms' own.
    """

    arm: str
    base: str
    at_most: float | None = None
    at_least: float | None = None
    or_value: float | None = None
    figure: str | None = None

    @property
    def question(self) -> str:
        """What is compared, in words."""
        return f"{self.arm} / {self.base}" + (f", {self.figure}" if self.figure else "")

    @property
    def target(self) -> str:
        """The target in words; "" for none."""
        parts = []
        if self.at_most is not None:
            parts.append(f"≤ {self.at_most:g} ×")
        if self.at_least is not None:
            parts.append(f"≥ {self.at_least:g} ×")
        if self.or_value is not None:
            parts.append(f"or ≥ {self.or_value:,.0f}")
        return " ".join(parts)

    def more_is_better(self, unit: str) -> bool:
        """Whether a larger ratio is a better one: so it is for whatever is counted per second.

        Args:
            unit: of the arms' own figures.
        """
        return "/s" in (self.figure or unit) or self.figure == "per second"

    def is_met(self, ratio: float, own: float) -> bool:
        """Whether a ratio, or the arm's own figure, meets the target."""
        if self.or_value is not None and own >= self.or_value:
            return True
        return (self.at_most is None or ratio <= self.at_most) and (
            self.at_least is None or ratio >= self.at_least
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """A target for one of an arm's further figures.

    Attributes:
        arm: whose.
        figure: its name in `Sample.figures`.
        at_most: what its median over the rounds may be.
        always: no round may be above `at_most`; the worst one is given, not the median.
    """

    arm: str
    figure: str
    at_most: float
    always: bool = False

    @property
    def target(self) -> str:
        """The target in words."""
        return f"{self.figure} ≤ {self.at_most:g}" + (" in every round" if self.always else "")


@dataclass(frozen=True, slots=True)
class Course:
    """What goes on from round to round, where they are no repetitions of each other.

    Attributes:
        step: how much a round adds.
        of: what it adds, in the plural.
    """

    step: float
    of: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """Arms that do the same thing, and how they should compare.

    Attributes:
        name: unique.
        title: what is done, in a line.
        unit: of the arms' figures.
        arms: the ways to do it.
        comparisons, limits: what is asked.
        rounds: how many rounds are counted.
        warmup: how many are thrown away before.
        headline: a few words for the chart of the README; "" for a scenario that is not in it.
        course: what goes on from round to round: the chart shows them one after the other.
    """

    name: str
    title: str
    unit: str
    arms: Sequence[Arm]
    comparisons: Sequence[Comparison] = ()
    limits: Sequence[Limit] = ()
    rounds: int = 10
    warmup: int = 1
    headline: str = ""
    course: Course | None = None

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        asked = {name for c in self.comparisons for name in (c.arm, c.base)}
        asked |= {limit.arm for limit in self.limits}
        if len(set(names)) != len(names) or not asked <= set(names):
            raise ValueError(f"scenario {self.name}: arms {names}, compared are {sorted(asked)}")
        if self.rounds < 1 or self.warmup < 0:
            raise ValueError(f"scenario {self.name}: needs at least one round")

    def arm(self, name: str) -> Arm:
        """One of its arms."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def steps(self) -> int:
        """How many times an arm runs, warm-up included."""
        return (self.rounds + self.warmup) * len(self.arms)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question of a scenario, answered.

    Attributes:
        question: what was compared.
        target: in words; "" for information only.
        ratio: the answer.
        met: whether the median meets the target; None without a target.
        sure: whether both ends of the interval say the same.
        standing: where the first arm is, if it is pgmem and the other Redis with an equal promise:
            "level" as long as the interval holds 1. A wrong arm is behind.
        better: how often better than 1 the ratio is, whatever the unit: 2.0 is twice as fast.
    """

    question: str
    target: str
    ratio: Interval
    met: bool | None
    sure: bool = True
    standing: Standing | None = None
    better: Interval | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario that has run: the samples of each arm, in the order of the rounds."""

    scenario: Scenario
    samples: Mapping[str, Sequence[Sample]]
    faults: Mapping[str, Faults]

    def values(self, arm: str, figure: str | None = None) -> list[float]:
        """An arm's figures, one for each round: its own, or one of the further ones."""
        if figure is None:
            return [sample.value for sample in self.samples[arm]]
        return [sample.figures[figure] for sample in self.samples[arm]]

    def median(self, arm: str, figure: str | None = None) -> float:
        """An arm's figure: the median over the rounds."""
        return statistics.median(self.values(arm, figure))

    def figures(self, arm: str) -> dict[str, Interval]:
        """An arm's further figures."""
        names = dict.fromkeys(name for sample in self.samples[arm] for name in sample.figures)
        return {
            name: bootstrap([s.figures[name] for s in self.samples[arm] if name in s.figures])
            for name in names
        }

    def times(self, arm: str) -> HdrHistogram | None:
        """The times of all of an arm's calls, in nanoseconds; None if it timed none."""
        found = [sample.times for sample in self.samples[arm] if sample.times is not None]
        return merged(found) if found else None

    def ratio(self, arm: str, base: str, figure: str | None = None) -> Interval:
        """The ratio of two arms, made within each round."""
        return bootstrap(ratios(self.values(arm, figure), self.values(base, figure)))

    def verdicts(self) -> list[Verdict]:
        """The scenario's questions, answered."""
        return [
            *(self._compared(comparison) for comparison in self.scenario.comparisons),
            *(self._limited(limit) for limit in self.scenario.limits),
        ]

    def _compared(self, comparison: Comparison) -> Verdict:
        ratio = self.ratio(comparison.arm, comparison.base, comparison.figure)
        better = ratio
        if not comparison.more_is_better(self.scenario.unit):
            better = Interval(*(1 / value for value in (ratio.median, ratio.high, ratio.low)))
        verdict = Verdict(
            comparison.question,
            comparison.target,
            ratio,
            met=None,
            standing=self._standing(comparison, better),
            better=better,
        )
        if not comparison.target:
            return verdict
        if self.faults[comparison.arm]:
            return replace(verdict, met=False)
        own = self.median(comparison.arm, comparison.figure)
        met, low, high = (
            comparison.is_met(value, own) for value in (ratio.median, ratio.low, ratio.high)
        )
        return replace(verdict, met=met, sure=met == low == high)

    def _standing(self, comparison: Comparison, better: Interval) -> Standing | None:
        arm, base = self.scenario.arm(comparison.arm), self.scenario.arm(comparison.base)
        if (arm.kind, base.kind) != ("pgmem", "redis") or arm.tier != base.tier:
            return None
        if self.faults[arm.name]:
            return "behind"
        if better.low <= 1 <= better.high:
            return "level"
        return "ahead" if better.median > 1 else "behind"

    def _limited(self, limit: Limit) -> Verdict:
        figure = self.figures(limit.arm)[limit.figure]
        if limit.always:
            worst = max(self.values(limit.arm, limit.figure))
            figure = Interval(worst, worst, worst)
        if self.faults[limit.arm]:
            return Verdict(limit.arm, limit.target, figure, met=False)
        met, low, high = (
            value <= limit.at_most for value in (figure.median, figure.low, figure.high)
        )
        return Verdict(limit.arm, limit.target, figure, met, sure=met == low == high)


def run(scenario: Scenario, on_step: Callable[[str], None] = lambda arm: None) -> Result:
    """Run a scenario's arms in turn.

    Args:
        scenario: what to run.
        on_step: is called after each run of an arm, with its name.
    """
    samples: dict[str, list[Sample]] = {arm.name: [] for arm in scenario.arms}
    faults = {arm.name: Faults() for arm in scenario.arms}
    for number in range(-scenario.warmup, scenario.rounds):
        arms = scenario.arms if number % 2 else scenario.arms[::-1]
        for arm in arms:
            if arm.prepare is not None:
                arm.prepare()
            gc.collect()
            sample = arm.run()
            faults[arm.name] += sample.faults
            if number >= 0:
                samples[arm.name].append(sample)
            on_step(arm.name)
    return Result(scenario, samples, faults)
