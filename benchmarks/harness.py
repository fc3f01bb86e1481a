"""Define arms and scenarios, run them in interleaved rounds, and compute the statistics.

The method is the same for every scenario:

- Arms run in turn, A B C, C B A, A B C …, so that other load on the machine affects all of them.
- The first rounds warm up. Their times do not count; their faults do.
- The garbage collector is on for every arm, and runs just before an arm starts.
- An arm's figure is the median over the rounds. A ratio is computed within each round, from figures
  taken moments apart; its median is given with a bootstrap interval.
- Each round counts what its arm did wrong. An arm with a fault is wrong, and misses every target.

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
    """Hold what one arm did in one round.

    Attributes:
        value: its figure, in the scenario's unit.
        faults: what it did wrong.
        figures: further figures by name.
        times: the times of the calls, in nanoseconds; see `of_times`.
    """

    value: float
    faults: Faults = NO_FAULTS
    figures: Mapping[str, float] = field(default_factory=dict)
    times: HdrHistogram | None = None


def of_times(
    times: HdrHistogram, faults: Faults = NO_FAULTS, figures: Mapping[str, float] | None = None
) -> Sample:
    """Make a sample from times: the median in microseconds, and the percentiles above it.

    Args:
        times: a histogram of nanoseconds, from `figures.histogram`.
        faults: what was wrong.
        figures: further figures by name.
    """
    percentiles = {
        name: microseconds(times, percent) for name, percent in PERCENTILES.items() if percent > 50
    }
    return Sample(microseconds(times, 50), faults, {**percentiles, **(figures or {})}, times)


@dataclass(frozen=True, slots=True)
class Arm:
    """Define one of the implementations that are compared.

    Attributes:
        name: short, unique in its scenario.
        run: runs one round.
        note: a description for the report.
        kind: "pgmem", "redis" for Redis done right, "published" for the article's code, "floor" for
            the bare driver, "peer" for another library.
        tier: its promise for an acknowledged write: "none" nothing, "relaxed" to lose at most the
            last moment in a crash (appendfsync everysec, durability="relaxed"), "strict" to lose
            nothing (appendfsync always). "" if the arm writes nothing.
        prepare: called before each run, outside of all figures.
        excused: the kinds of fault that the arm is there to show. They count like all others, but
            do not make the run fail.
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
    """Ask for the ratio of two arms; without a target, for information.

    A ratio has one direction in every scenario: below 1 the first arm is better. It is arm / base
    of what a call or an event costs: time, memory, lag. What is counted per second is turned over
    first, so that the ratio is that of the time for each of them.

    Attributes:
        arm, base: what is compared, and with what.
        at_most: the target of the ratio.
        figure: the further figure to compare; None for the arms' own.
    """

    arm: str
    base: str
    at_most: float | None = None
    figure: str | None = None

    @property
    def question(self) -> str:
        """The compared arms and figure, in words."""
        return f"{self.arm} / {self.base}" + (f", {self.figure}" if self.figure else "")

    @property
    def target(self) -> str:
        """The target in words; "" for none."""
        return "" if self.at_most is None else f"≤ {self.at_most:.3g} ×"

    def counts_per_second(self, unit: str) -> bool:
        """Return True if the compared figure is a rate.

        Args:
            unit: the unit of the arms' own figures.
        """
        return "/s" in (self.figure or unit) or self.figure == "per second"


@dataclass(frozen=True, slots=True)
class Limit:
    """Set a target for one of an arm's further figures.

    Attributes:
        arm: the name of the arm.
        figure: its name in `Sample.figures`.
        at_most: the target for the median over the rounds.
        always: compare the worst round with `at_most`, not the median.
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
    """Describe a quantity that grows from round to round; such rounds are no repetitions.

    Attributes:
        step: what a round adds.
        of: the name of what it adds, in the plural.
    """

    step: float
    of: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """Define arms that do the same thing, and how they should compare.

    Attributes:
        name: unique.
        title: what is done, in a line.
        unit: the unit of the arms' figures.
        arms: the implementations.
        comparisons, limits: the questions.
        rounds: the number of rounds that count.
        warmup: the number of rounds before them.
        headline: a few words for the chart of the README; "" for a scenario that is not in it.
        course: what grows from round to round; the chart then shows the rounds in order.
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
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def steps(self) -> int:
        """The number of runs of all arms, warm-up included."""
        return (self.rounds + self.warmup) * len(self.arms)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold the answer to a question of a scenario.

    Attributes:
        question: what was compared.
        target: the target in words; "" for information only.
        ratio: the answer.
        met: True if the median reaches the target; None without a target.
        sure: True if both ends of the interval give the same `met`.
        standing: the place of pgmem, if the question compares it with Redis at the same promise:
            "level" as long as the interval contains 1. A wrong arm is "behind".
    """

    question: str
    target: str
    ratio: Interval
    met: bool | None
    sure: bool = True
    standing: Standing | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Hold the samples of each arm of a scenario, in the order of the rounds."""

    scenario: Scenario
    samples: Mapping[str, Sequence[Sample]]
    faults: Mapping[str, Faults]

    def values(self, arm: str, figure: str | None = None) -> list[float]:
        """Return an arm's figures, one for each round: its own, or a further one."""
        if figure is None:
            return [sample.value for sample in self.samples[arm]]
        return [sample.figures[figure] for sample in self.samples[arm]]

    def median(self, arm: str, figure: str | None = None) -> float:
        """Return an arm's figure: the median over the rounds."""
        return statistics.median(self.values(arm, figure))

    def figures(self, arm: str) -> dict[str, Interval]:
        """Return an arm's further figures."""
        names = dict.fromkeys(name for sample in self.samples[arm] for name in sample.figures)
        return {
            name: bootstrap([s.figures[name] for s in self.samples[arm] if name in s.figures])
            for name in names
        }

    def times(self, arm: str) -> HdrHistogram | None:
        """Return the times of all of an arm's calls, in nanoseconds; None if it timed none."""
        found = [sample.times for sample in self.samples[arm] if sample.times is not None]
        return merged(found) if found else None

    def ratio(self, comparison: Comparison) -> Interval:
        """Return the ratio of two arms, computed within each round."""
        names = comparison.arm, comparison.base
        if comparison.counts_per_second(self.scenario.unit):
            names = comparison.base, comparison.arm
        return bootstrap(ratios(*(self.values(name, comparison.figure) for name in names)))

    def verdicts(self) -> list[Verdict]:
        """Answer the scenario's questions."""
        return [
            *(self._compared(comparison) for comparison in self.scenario.comparisons),
            *(self._limited(limit) for limit in self.scenario.limits),
        ]

    def _compared(self, comparison: Comparison) -> Verdict:
        ratio = self.ratio(comparison)
        verdict = Verdict(
            comparison.question,
            comparison.target,
            ratio,
            met=None,
            standing=self._standing(comparison, ratio),
        )
        if comparison.at_most is None:
            return verdict
        if self.faults[comparison.arm]:
            return replace(verdict, met=False)
        met, low, high = (
            value <= comparison.at_most for value in (ratio.median, ratio.low, ratio.high)
        )
        return replace(verdict, met=met, sure=met == low == high)

    def _standing(self, comparison: Comparison, ratio: Interval) -> Standing | None:
        arm, base = self.scenario.arm(comparison.arm), self.scenario.arm(comparison.base)
        if (arm.kind, base.kind) != ("pgmem", "redis") or arm.tier != base.tier:
            return None
        if self.faults[arm.name]:
            return "behind"
        if ratio.low <= 1 <= ratio.high:
            return "level"
        return "ahead" if ratio.median < 1 else "behind"

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
        on_step: called after each run of an arm, with its name.
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
