"""Compute the statistics: histograms of times, medians, and the intervals of ratios.

This module works on lists of figures. It knows no arms and no stores.
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
"""Nanoseconds; longer times count as this."""
DIGITS = 3
"""Significant digits of a histogram."""
PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold a median with its 95 % confidence interval."""

    median: float
    low: float
    high: float


def ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [value / base for value, base in zip(values, bases, strict=True)]


def bootstrap(values: Sequence[float], *, seed: int = 1) -> Interval:
    """Return the median of some figures with its 95 % interval by resampling.

    The same figures and seed give the same interval. It is the percentile interval of Efron,
    "Bootstrap Methods" (Annals of Statistics, 1979).

    Raises:
        ValueError: there are no figures.
    """
    if not values:
        raise ValueError("no figures to take the median of")
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
    """Return the smallest figure that is at least as large as a share of them.

    Raises:
        ValueError: there are no figures.
    """
    if not values:
        raise ValueError("no figures to take a percentile of")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def histogram(nanoseconds: Iterable[float] = ()) -> HdrHistogram:
    """Count the times of some calls in a histogram with three significant digits.

    Args:
        nanoseconds: the time of each call.
    """
    found = HdrHistogram(1, LONGEST, DIGITS)
    for value in nanoseconds:
        found.record_value(min(max(1, int(value)), LONGEST))
    return found


def merged(histograms: Iterable[HdrHistogram]) -> HdrHistogram:
    """Merge histograms into one."""
    found = histogram()
    for each in histograms:
        found.add(each)
    return found


def microseconds(times: HdrHistogram, percent: float) -> float:
    """Return a percentile of a histogram of nanoseconds, in microseconds.

    Args:
        times: a histogram of `histogram`.
        percent: 0 to 100; 100 is the longest time.
    """
    if percent >= 100:
        return float(times.get_max_value()) / 1_000
    return float(times.get_value_at_percentile(percent)) / 1_000
