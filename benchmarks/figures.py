"""The statistics: histograms of times, medians, and how sure a ratio is.

Knows lists of figures only, no arms and no stores.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

RESAMPLES = 2_000
CONFIDENCE = 0.95
LONGEST = 300 * 10**9
"""Nanoseconds; what took longer counts as this long."""
DIGITS = 3
"""Significant digits of a histogram."""
PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass(frozen=True, slots=True)
class Interval:
    """A median, and between what it lies with 95 % confidence."""

    median: float
    low: float
    high: float


def ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [value / base for value, base in zip(values, bases, strict=True)]


def bootstrap(values: Sequence[float], *, seed: int = 1) -> Interval:
    """The median of some figures, and its 95 % interval by resampling them.

    The same figures and seed give the same interval. Source: Efron, "Bootstrap Methods: Another
    Look at the Jackknife" (1979), the percentile interval.

    Raises:
        ValueError: there are no figures.
    """
    if not values:
        raise ValueError("a median of nothing")
    return _resampled(tuple(values), seed)


@functools.cache
def _resampled(values: tuple[float, ...], seed: int) -> Interval:
    rng = random.Random(seed)  # noqa: S311  # no secret
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    cut = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Interval(statistics.median(values), medians[cut], medians[-1 - cut])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of some figures that so large a share of them does not exceed.

    Raises:
        ValueError: there are no figures.
    """
    if not values:
        raise ValueError("a percentile of nothing")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def histogram(nanoseconds: Iterable[float] = ()) -> HdrHistogram:
    """The times of some calls, kept to three digits.

    Args:
        nanoseconds: what each call took.
    """
    found = HdrHistogram(1, LONGEST, DIGITS)
    for value in nanoseconds:
        found.record_value(min(max(1, int(value)), LONGEST))
    return found


def merged(histograms: Iterable[HdrHistogram]) -> HdrHistogram:
    """All of their times in one."""
    found = histogram()
    for each in histograms:
        found.add(each)
    return found


def microseconds(times: HdrHistogram, percent: float) -> float:
    """A percentile of a histogram of nanoseconds, in microseconds.

    Args:
        times: what `histogram` made.
        percent: 0 to 100; 100 is the longest time.
    """
    if percent >= 100:
        return float(times.get_max_value()) / 1_000
    return float(times.get_value_at_percentile(percent)) / 1_000
