"""The charts of a scenario: how its arms' times are distributed, or what each round gave.

    percentiles   one line for each arm: so large a share of its calls took no longer than this
    rounds        one row for each arm: a dot for each round, the median, its 95 % interval
    course        one line for each arm: the rounds one after the other

No bars of averages: an average hides what a percentile shows.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import accumulate

from hdrh.histogram import HdrHistogram

from benchmarks.figures import bootstrap
from benchmarks.harness import Result
from benchmarks.report.axis import (
    NARROW,
    WIDE,
    Drawing,
    Layout,
    Scale,
    key,
    label,
    linear_ticks,
    log_ticks,
    looks,
    marker,
    spaced,
    text_width,
    wrapped,
)
from benchmarks.report.content import duration, figure, listed, shortened
from benchmarks.report.markup import Markup, element

NINES = {0.0: "min", 50.0: "50", 90.0: "90", 99.0: "99", 99.9: "99.9", 99.99: "99.99"}
STEP = 9
"""A line has a point each so many units."""
TIMES = ("ns", "µs", "ms", "s")


class Curve:
    """The percentiles of a histogram, for many of them at once.

    `HdrHistogram.get_value_at_percentile` goes through all of its thirty thousand buckets for each.
    """

    def __init__(self, times: HdrHistogram) -> None:
        filled = [(i, count) for i, count in enumerate(times.counts) if count]
        self._values = [
            times.get_highest_equivalent_value(times.get_value_from_index(i)) for i, _ in filled
        ]
        self._until = list(accumulate(count for _, count in filled))
        self.count = self._until[-1] if self._until else 0

    def at(self, percent: float) -> float:
        """The time that so large a share of the calls did not exceed, in nanoseconds."""
        # As HdrHistogram rounds: the chart and the table beside it say the same.
        wanted = max(1, int(percent * self.count / 100 + 0.5))
        return float(self._values[bisect_left(self._until, wanted)])


def nines(percent: float) -> float:
    """Where a percentile stands: each further nine is a step to the right."""
    return -math.log10(1 - percent / 100)


def charts(result: Result) -> list[tuple[Drawing, Drawing]]:
    """The charts of a scenario, each one wide and narrow."""
    if result.scenario.course is not None:
        return [(course(result, WIDE), course(result, NARROW))]
    arms = result.scenario.arms
    curves = {}
    for arm in arms:
        times = result.times(arm.name)
        if times is not None and times.total_count:
            curves[arm.name] = Curve(times)
    found = []
    if curves:
        found.append((percentiles(result, curves, WIDE), percentiles(result, curves, NARROW)))
    if len(curves) < len(arms) or result.scenario.unit not in TIMES:
        found.append((rounds(result, WIDE), rounds(result, NARROW)))
    return found


def percentiles(result: Result, curves: dict[str, Curve], layout: Layout) -> Drawing:
    """The distribution of the times of the arms that have them."""
    look = looks(result.scenario)
    # Beyond the nines that the calls are enough for, there is only the longest of them.
    most = max(curve.count for curve in curves.values())
    last = min(4, max(1, math.floor(math.log10(max(10, most)))))
    low = min(curve.at(0) for curve in curves.values())
    high = max(curve.at(100) for curve in curves.values())
    ticks = log_ticks(low, high)
    wrong = {name for name in curves if result.faults[name]}
    legend, top = _legend(list(curves), look, wrong, layout)
    plot = 250.0 if layout is NARROW else max(260.0, 20.0 * len(curves))
    left, bottom = (52.0, top + plot)
    right = layout.width - (layout.labels if layout.labels else 16)
    longest = right - 8
    x = Scale(0, last, left + 6, longest - (longest - left) * 0.13)
    y = Scale(ticks[0], ticks[-1], bottom, top, log=True)
    content = [*legend, *_grid_of_times(ticks, y, left, right)]
    shown = {percent: name for percent, name in NINES.items() if nines(percent) <= last + 1e-9}
    places = {**{x(nines(percent)): name for percent, name in shown.items()}, longest: "max"}
    for place, name in places.items():
        line = element("path", class_="grid", d=f"M{place:.1f} {top}V{bottom}")
        content += [line, label(name, place, bottom + 18, anchor="middle", look="soft")]
    content.append(
        label("percentile of the calls", (left + right) / 2, bottom + 36, anchor="middle")
    )
    content.append(label("time of a call", 4, top - 13))
    for name, curve in curves.items():
        content.append(element("path", class_=f"arm {look[name]}", d=_line(curve, x, y, longest)))
    for name, curve in curves.items():
        for percent in (p for p in shown if p > 0):
            content.append(marker(look[name], x(nines(percent)), y(curve.at(percent))))
        content.append(marker(look[name], longest, y(curve.at(100))))
    if layout.labels:
        ends = {name: y(curve.at(100)) for name, curve in curves.items()}
        content += _at_ends(ends, look, wrong, (longest, right), (top, bottom))
    return Drawing(
        layout,
        bottom + 46,
        f"{result.scenario.name}: times of a call by percentile",
        "; ".join(_in_words(name, curve, shown) for name, curve in curves.items()),
        content,
    )


def _in_words(name: str, curve: Curve, shown: dict[float, str]) -> str:
    told = [f"p{text} {duration(curve.at(p))}" for p, text in shown.items() if p > 0]
    return f"{name}: {listed([*told, f'max {duration(curve.at(100))}'])}"


def _line(curve: Curve, x: Scale, y: Scale, longest: float) -> str:
    """The line of an arm; points that lie on the line between others are left out."""
    points: list[tuple[str, str]] = []
    steps = round((x.end - x.start) / STEP)
    for step in range(steps + 1):
        at = x.high * step / steps
        point = f"{x(at):.1f}", f"{y(curve.at(100 * (1 - 10**-at))):.1f}"
        if len(points) > 1 and points[-2][1] == points[-1][1] == point[1]:
            points[-1] = point
        else:
            points.append(point)
    points.append((f"{longest:.1f}", f"{y(curve.at(100)):.1f}"))
    return "M" + "L".join(f"{a} {b}" for a, b in points)


def _grid_of_times(ticks: Sequence[float], y: Scale, left: float, right: float) -> Iterator[Markup]:
    for tick in ticks:
        yield element("path", class_="grid", d=f"M{left} {y(tick):.1f}H{right}")
        yield label(duration(tick), left - 5, y(tick) + 4, anchor="end", look="soft")


def _legend(
    names: Sequence[str], look: dict[str, str], wrong: set[str], layout: Layout
) -> tuple[list[Markup], float]:
    """The names of the arms above a plot, and where the plot may begin.

    A wide one has them at the ends of its lines.
    """
    if layout.labels:
        return [], 32.0
    content: list[Markup] = []
    room = {n: 48 + text_width(n[:26]) + (60 if n in wrong else 0) for n in names}
    lines = wrapped(names, layout.width - 8, room.__getitem__)
    for row, line in enumerate(lines):
        left, middle = 6.0, 14.0 + 20 * row
        for name in line:
            content += _named(name, look[name], name in wrong, left, middle)
            left += room[name]
    return content, 20.0 * len(lines) + 36


def _at_ends(
    ends: Mapping[str, float],
    look: Mapping[str, str],
    wrong: Set[str],
    sides: tuple[float, float],
    within: tuple[float, float],
) -> Iterator[Markup]:
    """The names of the arms behind a plot, each beside the end of its line.

    Args:
        ends: the height at which each arm's line ends.
        look: of each arm.
        wrong: the arms that are.
        sides: where the lines end, and where the plot does.
        within: the top and the bottom of the plot.
    """
    last, right = sides
    apart = spaced(list(ends.values()), 19, within[0] + 4, within[1] - 4)
    for (name, end), place in zip(ends.items(), apart, strict=True):
        lead = f"M{last + 8:.1f} {end:.1f}L{right + 10} {place:.1f}"
        yield element("path", class_="lead", d=lead)
        yield from _named(name, look[name], name in wrong, right + 14, place)


def _named(name: str, look: str, wrong: bool, left: float, middle: float) -> list[Markup]:
    """An arm's line, and its name behind it."""
    text = f"{shortened(name, 18)}, wrong" if wrong else shortened(name, 26)
    style = "bad" if wrong else ""
    return [key(look, left, middle), label(text, left + 36, middle + 4, look=style)]


def rounds(result: Result, layout: Layout) -> Drawing:
    """What each round gave, the median and its interval, a row for each arm."""
    scenario = result.scenario
    look = looks(scenario)
    values = {arm.name: result.values(arm.name) for arm in scenario.arms}
    low = min(map(min, values.values()))
    high = max(map(max, values.values()))
    # A count may be 0, which has no place on a log axis.
    log = low > 0 and high / low > 12
    ticks = log_ticks(low, high) if log else linear_ticks(high)
    above = 0 if layout.labels else 20
    height, top = 30.0 + above, 26.0
    left, right = max(14.0, layout.labels), layout.width - (100 if layout.labels else 14)
    bottom = top + height * len(values)
    x = Scale(min(ticks[0], low), ticks[-1], left + 6, right - 6, log=log)
    content = [label(scenario.unit, left, 14, look="soft")]
    content += _grid_across(ticks, x, (top, bottom), layout)
    told = []
    for row, (name, found) in enumerate(values.items()):
        middle = top + height * row + above + 15
        interval = bootstrap(found)
        content += _row(look[name], found, (interval.low, interval.high), x, middle)
        content.append(marker(look[name], x(interval.median), middle))
        wrong = ", wrong" if result.faults[name] else ""
        style = "bad" if wrong else ""
        if layout.labels:
            text = shortened(name + wrong, 30)
            content.append(label(text, left - 10, middle + 4, anchor="end", look=style))
            content.append(
                label(figure(interval.median), layout.width - 8, middle + 4, anchor="end")
            )
        else:
            text = f"{name}{wrong}: {figure(interval.median)}"
            content.append(label(text, left, middle - 15, look=style))
        told.append(f"{name}: {figure(interval.median)} {scenario.unit}{wrong}")
    return Drawing(
        layout,
        bottom + 28,
        f"{scenario.name}: what each round gave, in {scenario.unit}",
        "; ".join(told),
        content,
    )


def _grid_across(
    ticks: Sequence[float], x: Scale, within: tuple[float, float], layout: Layout
) -> Iterator[Markup]:
    """The lines down from each tick, and figures below as many of them as there is room for."""
    top, bottom = within
    room = (x.end - x.start) / max(text_width(f"{tick:,.9g}") + 10 for tick in ticks)
    for number, tick in enumerate(ticks):
        yield element("path", class_="grid", d=f"M{x(tick):.1f} {top}V{bottom}")
        if number % math.ceil(len(ticks) / room) == 0:
            text = f"{tick:,.9g}"
            place = min(x(tick), layout.width - 4 - text_width(text) / 2)
            yield label(text, place, bottom + 18, anchor="middle", look="soft")


def _row(
    look: str, values: Sequence[float], interval: tuple[float, float], x: Scale, middle: float
) -> Iterator[Markup]:
    yield element("path", class_="grid", d=f"M{x.start} {middle:.1f}H{x.end}")
    low, high = map(x, interval)
    yield element("path", class_=f"range {look}", d=f"M{low:.1f} {middle:.1f}H{high + 0.1:.1f}")
    # One above the other in turn, so that equal rounds do not hide each other. All of them are one
    # path of lines without length, whose round ends are the dots.
    places = ((x(value), middle + (number % 3 - 1) * 5) for number, value in enumerate(values))
    dots = "".join(f"M{place:.1f} {height:.1f}h0" for place, height in places)
    yield element("path", class_=f"round {look}", d=dots)


def course(result: Result, layout: Layout) -> Drawing:
    """What the rounds gave, one after the other: whether it grows shows here."""
    scenario, along = result.scenario, result.scenario.course
    assert along is not None
    look = looks(scenario)
    values = {arm.name: result.values(arm.name) for arm in scenario.arms}
    wrong = {name for name in values if result.faults[name]}
    ticks = linear_ticks(max(map(max, values.values())))
    far = along.step * max(map(len, values.values()))
    legend, top = _legend(list(values), look, wrong, layout)
    left = 14 + max(text_width(f"{tick:,.9g}") for tick in ticks)
    right = layout.width - (layout.labels if layout.labels else 16)
    bottom = top + 240
    x = Scale(0, far, left + 6, right - 8)
    y = Scale(0, ticks[-1], bottom, top)
    content = [*legend, label(scenario.unit, 4, top - 13, look="soft")]
    for tick in ticks:
        content.append(element("path", class_="grid", d=f"M{left:.1f} {y(tick):.1f}H{right}"))
        text = f"{tick:,.9g}"
        content.append(label(text, left - 5, y(tick) + 4, anchor="end", look="soft"))
    content += _grid_across([at for at in linear_ticks(far) if at <= far], x, (top, bottom), layout)
    content.append(label(along.of, (left + right) / 2, bottom + 36, anchor="middle"))
    ends = {}
    for name, found in values.items():
        points = [(x(along.step * (n + 1)), y(value)) for n, value in enumerate(found)]
        line = "M" + "L".join(f"{across:.1f} {height:.1f}" for across, height in points)
        content.append(element("path", class_=f"arm {look[name]}", d=line))
        content += [marker(look[name], *point) for point in points]
        ends[name] = points[-1][1]
    if layout.labels:
        content += _at_ends(ends, look, wrong, (x.end, right), (top, bottom))
    return Drawing(
        layout,
        bottom + 46,
        f"{scenario.name}: {scenario.unit} after so many {along.of}",
        "; ".join(
            f"{name}: {figure(found[0])} {scenario.unit} after {along.step:,.9g}, "
            f"{figure(found[-1])} after {along.step * len(found):,.9g}"
            for name, found in values.items()
        ),
        content,
    )
