"""How things are measured: arms, interleaved rounds, and all of the statistics.

The method, the same for every scenario:

- Arms run in turn, A B C, C B A, A B C …, so that whatever else the machine does hits all of them.
- The first rounds warm up; their times are thrown away (their faults are not).
- The garbage collector is on for every arm, and has just run when one starts.
- An arm's figure is the median over the rounds. A ratio is made within each round, from figures
  taken moments apart; its median is given, with a bootstrap interval that says how sure it is.
- Each round counts what its arm did wrong. An arm with a fault is wrong, and meets no target.

This module knows neither Postgres nor Redis.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.audit import NO_FAULTS, Faults

T = TypeVar("T")

RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Sample:
    """What one arm did in one round.

    Attributes:
        value: its figure, in the scenario's unit.
        faults: what it did wrong.
        figures: further figures by name.
    """

    value: float
    faults: Faults = NO_FAULTS
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the ways that are compared.

    Attributes:
        name: short, unique in its scenario.
        run: does one round.
        note: what it is, for the report.
    """

    name: str
    run: Callable[[], Sample]
    note: str = ""


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
    """

    name: str
    title: str
    unit: str
    arms: Sequence[Arm]
    comparisons: Sequence[Comparison] = ()
    limits: Sequence[Limit] = ()
    rounds: int = 10
    warmup: int = 1

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        asked = {name for c in self.comparisons for name in (c.arm, c.base)}
        asked |= {limit.arm for limit in self.limits}
        if len(set(names)) != len(names) or not asked <= set(names):
            raise ValueError(f"scenario {self.name}: arms {names}, compared are {sorted(asked)}")
        if self.rounds < 1 or self.warmup < 0:
            raise ValueError(f"scenario {self.name}: needs at least one round")

    @property
    def steps(self) -> int:
        """How many times an arm runs, warm-up included."""
        return (self.rounds + self.warmup) * len(self.arms)


@dataclass(frozen=True, slots=True)
class Interval:
    """A median, and between what it lies with 95 % confidence."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question of a scenario, answered.

    Attributes:
        question: what was compared.
        target: in words; "" for information only.
        ratio: the answer.
        met: whether the median meets the target; None without a target.
        sure: whether both ends of the interval say the same.
    """

    question: str
    target: str
    ratio: Interval
    met: bool | None
    sure: bool = True


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
        question = comparison.question
        if not comparison.target:
            return Verdict(question, "", ratio, None)
        if self.faults[comparison.arm]:
            return Verdict(question, comparison.target, ratio, met=False)
        own = self.median(comparison.arm, comparison.figure)
        met, low, high = (
            comparison.is_met(value, own) for value in (ratio.median, ratio.low, ratio.high)
        )
        return Verdict(question, comparison.target, ratio, met, sure=met == low == high)

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


def ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [value / base for value, base in zip(values, bases, strict=True)]


def bootstrap(values: Sequence[float], *, seed: int = 1) -> Interval:
    """The median of some figures, and its 95 % interval by resampling them.

    The same figures and seed give the same interval.

    Raises:
        ValueError: there are no figures.
    """
    if not values:
        raise ValueError("a median of nothing")
    rng = random.Random(seed)  # noqa: S311  # no secret
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    cut = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Interval(statistics.median(values), medians[cut], medians[-1 - cut])


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
            gc.collect()
            sample = arm.run()
            faults[arm.name] += sample.faults
            if number >= 0:
                samples[arm.name].append(sample)
            on_step(arm.name)
    return Result(scenario, samples, faults)


def latency(call: Callable[[T], object], arguments: Sequence[T]) -> float:
    """The median time of some calls one after another, in microseconds.

    Args:
        call: what to time.
        arguments: one for each call.
    """
    clock = time.perf_counter_ns
    times = []
    for argument in arguments:
        start = clock()
        call(argument)
        times.append(clock() - start)
    return statistics.median(times) / 1_000


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of some figures that so large a share of them does not exceed.

    Raises:
        ValueError: there are no figures.
    """
    if not values:
        raise ValueError("a percentile of nothing")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
