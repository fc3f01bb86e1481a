"""Test the harness with planted delays and losses."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks import figures, harness
from benchmarks.audit import Faults, compare, compare_counts, compare_each, compare_once
from benchmarks.harness import Arm, Comparison, Limit, Sample, Scenario, of_times
from benchmarks.scenarios._base import median_time


def spin(microseconds):
    """Be busy for some microseconds; the scheduler would round a sleep."""
    end = time.perf_counter_ns() + microseconds * 1_000
    while time.perf_counter_ns() < end:
        pass


def timed(name, microseconds, calls=20):
    def run():
        return Sample(median_time(lambda _: spin(microseconds), range(calls)))

    return Arm(name, run)


def fixed(name, values):
    left = iter(values)
    return Arm(name, lambda: Sample(next(left)))


def scenario(*arms, unit="µs", **options):
    return Scenario("test", "a test", unit, arms, **{"rounds": 10, "warmup": 1, **options})


def test_a_planted_delay_of_100_microseconds_is_found():
    asked = [Comparison("slow", "quick", at_most=1.25)]
    result = harness.run(scenario(timed("quick", 200), timed("slow", 300), comparisons=asked))
    difference = result.median("slow") - result.median("quick")
    assert 80 < difference < 130
    (verdict,) = result.verdicts()
    assert verdict.ratio.low > 1.3
    assert verdict.met is False


def test_equal_arms_are_found_equal():
    asked = [Comparison("one", "other", at_most=1.25)]
    result = harness.run(scenario(timed("one", 200), timed("other", 200), comparisons=asked))
    (verdict,) = result.verdicts()
    assert verdict.ratio.median == pytest.approx(1, abs=0.1)
    assert verdict.met


def test_an_arm_that_loses_an_event_is_wrong_however_fast_it_is():
    def lossy():
        written = list(range(1_000))
        return Sample(1.0, compare(written, [n for n in written if n != 500]))

    asked = [Comparison("lossy", "right", at_most=1.0)]
    arms = Arm("lossy", lossy), fixed("right", [10.0] * 11)
    result = harness.run(scenario(*arms, comparisons=asked))
    assert result.faults["lossy"] == Faults(lost=11)
    assert not result.faults["right"]
    assert result.verdicts()[0].met is False


def test_faults_of_the_warmup_count_and_its_times_do_not():
    warm = iter([Sample(1_000.0, Faults(torn=1)), *[Sample(1.0)] * 10])
    result = harness.run(scenario(Arm("arm", lambda: next(warm))))
    assert result.values("arm") == [1.0] * 10
    assert result.faults["arm"] == Faults(torn=1)


def test_arms_run_in_turn_and_the_order_alternates():
    ran = []
    arms = [Arm(name, lambda: Sample(1.0)) for name in "AB"]
    harness.run(scenario(*arms, rounds=3, warmup=1), ran.append)
    assert "".join(ran) in ("ABBAABBA", "BAABBAAB")


def test_ratios_are_made_within_the_rounds():
    # The machine becomes ten times slower half way; the ratio stays the same.
    slowing = [1.0] * 6 + [10.0] * 5
    arms = fixed("base", slowing), fixed("arm", [2 * value for value in slowing])
    result = harness.run(scenario(*arms))
    assert result.ratio(Comparison("arm", "base")) == harness.Interval(2.0, 2.0, 2.0)


def test_the_bootstrap_is_deterministic():
    rng = random.Random(7)
    values = [rng.gauss(1, 0.2) for _ in range(25)]
    assert figures.bootstrap(values, seed=3) == figures.bootstrap(values, seed=3)
    assert figures.bootstrap(values, seed=3) != figures.bootstrap(values, seed=4)


def test_the_bootstrap_covers_a_known_ratio():
    rng = random.Random(11)
    covered = 0
    for _ in range(100):
        bases = [rng.lognormvariate(0, 0.3) for _ in range(25)]
        values = [1.5 * base * rng.lognormvariate(0, 0.1) for base in bases]
        interval = figures.bootstrap(figures.ratios(values, bases))
        covered += interval.low <= 1.5 <= interval.high
    assert 85 <= covered <= 100


def test_bootstrap_without_figures_is_refused():
    with pytest.raises(ValueError, match="no figures"):
        figures.bootstrap([])


@pytest.mark.parametrize(("unit", "ratio"), [("µs", 2.0), ("events/s", 0.5), ("s", 2.0)])
def test_a_ratio_below_one_is_better_in_every_unit(unit, ratio):
    arms = fixed("arm", [200.0] * 11), fixed("base", [100.0] * 11)
    asked = [Comparison("arm", "base", at_most=1.0)]
    verdict = harness.run(scenario(*arms, comparisons=asked, unit=unit)).verdicts()[0]
    assert (verdict.ratio.median, verdict.met) == (ratio, ratio <= 1)


def test_a_limit_holds_for_a_further_figure():
    arm = Arm("arm", lambda: Sample(1.0, figures={"slowest / median": 2.0}))
    for limit, met in ((3.0, True), (1.9, False)):
        asked = [Limit("arm", "slowest / median", limit)]
        assert harness.run(scenario(arm, limits=asked)).verdicts()[0].met is met


def figured(name, figures, value=1.0):
    left = iter(figures)
    return Arm(name, lambda: Sample(value, figures={"p99": next(left)}))


def test_a_further_figure_may_be_compared_in_place_of_the_arms_own():
    asked = [
        Comparison("arm", "base", at_most=1.0),
        Comparison("arm", "base", at_most=1.2, figure="p99"),
    ]
    # The machine becomes ten times slower half way; the ratio of p99 also stays the same.
    bases = [10.0] * 6 + [100.0] * 5
    arms = figured("arm", [1.5 * base for base in bases]), figured("base", bases)
    own, p99 = harness.run(scenario(*arms, comparisons=asked)).verdicts()
    assert (own.question, own.ratio.median, own.met) == ("arm / base", 1.0, True)
    assert p99.question == "arm / base, p99"
    assert p99.ratio == harness.Interval(1.5, 1.5, 1.5)
    assert p99.met is False


def test_a_figure_that_an_arm_does_not_have_is_an_error():
    arms = figured("arm", [1.0] * 11), fixed("base", [1.0] * 11)
    result = harness.run(scenario(*arms, comparisons=[Comparison("arm", "base", figure="p99")]))
    with pytest.raises(KeyError, match="p99"):
        result.verdicts()


def test_a_limit_that_holds_always_takes_the_worst_round():
    for always, met, shown in ((False, True, 1.0), (True, False, 3.0)):
        arm = figured("arm", [9.0, *[1.0] * 9, 3.0])  # the first one warms up
        asked = [Limit("arm", "p99", 2.0, always=always)]
        (verdict,) = harness.run(scenario(arm, limits=asked)).verdicts()
        assert (verdict.met, verdict.ratio.median) == (met, shown)
        assert ("every round" in verdict.target) is always


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_percentiles(share, value):
    assert figures.percentile(range(100, 0, -1), share) == value


def test_percentile_without_figures_is_refused():
    with pytest.raises(ValueError, match="no figures"):
        figures.percentile([], 0.5)


def test_a_scenario_that_compares_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="other"):
        scenario(fixed("arm", []), comparisons=[Comparison("arm", "other")])
    with pytest.raises(ValueError, match="round"):
        scenario(fixed("arm", []), rounds=0)


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        ([1, 2, 3, 4], Faults()),
        ([1, 2, 4], Faults(lost=1)),
        ([1, 2, 2, 3, 4], Faults(duplicated=1)),
        ([1, 3, 2, 4], Faults(reordered=1)),
        ([1, 2, 3, 4, 9], Faults(duplicated=1)),
        ([], Faults(lost=4)),
    ],
)
def test_faults_of_events_are_counted(found, faults):
    assert compare([1, 2, 3, 4], found) == faults


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        ([1, 11, 2, 12, 3], Faults()),
        ([11, 12, 1, 2, 3], Faults()),
        ([1, 11, 2, 3], Faults(lost=1)),
        ([1, 11, 11, 2, 12, 3], Faults(duplicated=1)),
        ([1, 12, 2, 11, 3], Faults(reordered=1)),
        ([1, 11, 2, 12, 3, 99], Faults(duplicated=1)),
        ([], Faults(lost=5)),
    ],
)
def test_faults_of_events_of_several_writers_are_counted(found, faults):
    assert compare_each([[1, 2, 3], range(11, 13)], found) == faults


@pytest.mark.parametrize(
    ("found", "left", "faults"),
    [
        ("abc", 0, Faults()),
        ("cab", 0, Faults()),
        ("ac", 0, Faults(lost=1)),
        ("abc", 2, Faults(lost=2)),
        ("ac", 1, Faults(lost=1)),
        ("abbcc", 0, Faults(duplicated=2)),
        ("abcx", 0, Faults(duplicated=1)),
        ("abb", 0, Faults(lost=1, duplicated=1)),
    ],
)
def test_faults_of_work_that_takes_effect_once_are_counted(found, left, faults):
    assert compare_once("abc", found, left) == faults


def test_faults_are_counted_from_counts():
    assert compare_counts(10, 10, 10) == Faults()
    assert compare_counts(10, 9, 9) == Faults(lost=1)
    assert compare_counts(10, 11, 10) == Faults(duplicated=1)
    assert compare_counts(10, 11, 11) == Faults(duplicated=1)
    assert str(Faults(lost=1, torn=2)) == "1 lost, 2 torn"


@pytest.mark.parametrize(
    ("values", "met", "sure"),
    [
        ([1.0, 1.01, 1.02], True, True),
        ([1.0, 1.02, 1.3], True, False),
        ([1.3, 1.4, 1.5], False, True),
    ],
)
def test_verdict_is_unsure_if_the_interval_crosses_the_target(values, met, sure):
    asked = [Comparison("arm", "base", at_most=1.1)]
    arms = fixed("arm", values), fixed("base", [1.0] * 3)
    result = harness.run(scenario(*arms, comparisons=asked, rounds=3, warmup=0))
    assert (result.verdicts()[0].met, result.verdicts()[0].sure) == (met, sure)


# Times


def test_a_planted_delay_of_100_microseconds_shows_in_every_percentile():
    rng = random.Random(7)

    def run(delay):
        return of_times(
            figures.histogram(1_000 * (50 + rng.expovariate(0.1) + delay) for _ in range(3_000))
        )

    result = harness.run(scenario(Arm("slow", lambda: run(100)), Arm("quick", lambda: run(0))))
    for name, percent in figures.PERCENTILES.items():
        slow, quick = (
            figures.microseconds(result.times(arm), percent) for arm in ("slow", "quick")
        )
        tolerance = 3 if percent < 99.5 else 40
        assert slow - quick == pytest.approx(100, abs=tolerance), name
    assert result.median("slow") - result.median("quick") == pytest.approx(100, abs=3)


def test_times_keep_three_digits_from_a_microsecond_to_minutes():
    for nanoseconds in (1_234, 56_789_000, 12_345_678_901, 250 * 10**9):
        times = figures.histogram([nanoseconds] * 3)
        assert figures.microseconds(times, 50) == pytest.approx(nanoseconds / 1_000, rel=0.001)
    assert figures.microseconds(figures.histogram([10**13]), 100) <= figures.LONGEST / 999


def test_the_times_of_all_rounds_are_put_together():
    rounds = iter([[1_000], [2_000, 3_000], [4_000]])
    arm = Arm("a", lambda: of_times(figures.histogram(next(rounds))))
    result = harness.run(scenario(arm, rounds=2, warmup=1))
    assert result.times("a").get_total_count() == 3
    assert result.times("a").get_min_value() == pytest.approx(2_000, rel=0.001)


def test_an_arm_without_times_has_no_histogram():
    assert harness.run(scenario(fixed("a", [1.0]), rounds=1, warmup=0)).times("a") is None


# Standings


def against(values, bases, *, unit="µs", tier="strict", base_kind="redis", faults=()):
    """Return the only verdict of pgmem beside Redis."""
    ours, theirs = iter(values), iter(bases)
    arms = (
        Arm("pgmem", lambda: Sample(next(ours), *faults), tier="strict"),
        Arm("other", lambda: Sample(next(theirs)), kind=base_kind, tier=tier),
    )
    found = Scenario(
        "s", "", unit, arms, [Comparison("pgmem", "other")], rounds=len(values), warmup=0
    )
    (verdict,) = harness.run(found).verdicts()
    return verdict


@pytest.mark.parametrize(
    ("values", "unit", "standing"),
    [
        ([1, 1.1, 0.9], "µs", "ahead"),
        ([3, 3.1, 2.9], "µs", "behind"),
        ([1, 2, 3], "µs", "level"),
        ([1, 1.1, 0.9], "events/s", "behind"),
        ([3, 3.1, 2.9], "events/s", "ahead"),
    ],
)
def test_pgmem_is_ahead_if_the_ratio_is_below_one(values, unit, standing):
    verdict = against(values, [2, 2, 2], unit=unit)
    assert verdict.standing == standing
    assert (verdict.ratio.median < 1) == (standing == "ahead") or standing == "level"


def test_only_equal_promises_have_a_standing():
    assert against([1], [2], tier="relaxed").standing is None
    assert against([1], [2], base_kind="published").standing is None


def test_a_wrong_arm_is_behind_however_fast():
    assert against([1], [2], faults=(Faults(lost=1),)).standing == "behind"


def test_an_arm_is_prepared_before_each_run():
    steps = []
    arm = Arm(
        "a", lambda: steps.append("run") or Sample(1), prepare=lambda: steps.append("prepare")
    )
    harness.run(scenario(arm, rounds=2, warmup=0))
    assert steps == ["prepare", "run"] * 2
