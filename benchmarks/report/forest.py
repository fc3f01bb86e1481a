"""pgmem beside Redis done right at the equal promise, the scenarios in one chart.

A dot is how often better pgmem is, on a log axis around 1, with its 95 % interval: to the right of
1 it is faster, to the left slower. A row is a scenario, a line in it a promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.report.axis import (
    NARROW,
    WIDE,
    Drawing,
    Layout,
    Scale,
    label,
    log_ticks,
    marker,
    text_width,
)
from benchmarks.report.content import Answer, Content, group_of, shortened, times, title_of
from benchmarks.report.markup import Markup, element

LINE = 20.0
LEAST = 0.001
"""Less than this is drawn as this."""
TITLE = "pgmem beside Redis done right, at the equal promise"


def headline(content: Content, layout: Layout = WIDE) -> Drawing:
    """The chart of the scenarios that matter most."""
    rows = content.headline()
    found = [answer.verdict.better for row in rows for answer in row if answer.verdict.better]
    low = max(LEAST, min([0.5, *(interval.low for interval in found)]))
    high = max([2.0, *(interval.high for interval in found)])
    ticks = _around_one(low, high)
    labels = 320.0 if layout.labels else 0.0
    top = 92.0 if layout.labels else 118.0
    left = max(20.0, labels)
    right = layout.width - (132 if layout.labels else 20)
    x = Scale(ticks[0], ticks[-1], left, right, log=True)
    heights = [_height(row, layout) for row in rows]
    bottom = top + sum(heights)
    told = [*_head(layout), *_ground(x, ticks, top, bottom, layout)]
    place = top
    for row, height in zip(rows, heights, strict=True):
        told += _row(row, x, place, height, layout)
        place += height
    return Drawing(layout, bottom + 34, TITLE, _in_words(rows), told)


def _around_one(low: float, high: float) -> list[float]:
    """Ticks that are as far to the one side of 1 as to the other, for a balanced eye."""
    furthest = max(high, 1 / low)
    ticks = [tick for tick in log_ticks(1, furthest) if tick > 1]
    return [*(1 / tick for tick in reversed(ticks)), 1.0, *ticks]


def _head(layout: Layout) -> list[Markup]:
    if layout is NARROW:
        first, second = TITLE.split(", ")
        title = [
            label(f"{first},", 12, 20, look="name"),
            label(f"{second}: median, 95 % interval", 12, 38, look="soft"),
        ]
        start, line = 18.0, 60.0
    else:
        title = [
            label(TITLE, 16, 26, look="name"),
            label("median of the ratios of all rounds, and its 95 % interval", 16, 46, look="soft"),
        ]
        start, line = layout.width - 400, 26.0
    keys = []
    texts = ("strict: appendfsync always", "relaxed: everysec")
    if layout is NARROW:
        texts = ("strict: always", "relaxed: everysec")
    for tier, text in zip(("strict", "relaxed"), texts, strict=True):
        keys += [marker(f"pgmem {tier} s0", start, line - 4), label(text, start + 12, line)]
        start += 26 + text_width(text)
    return [*title, *keys]


def _ground(
    x: Scale, ticks: Sequence[float], top: float, bottom: float, layout: Layout
) -> Iterable[Markup]:
    height = bottom - top
    yield element("rect", class_="worse", x=x.start, y=top, width=x(1) - x.start, height=height)
    yield element("rect", class_="better", x=x(1), y=top, width=x.end - x(1), height=height)
    yield label("slower than Redis", x(1) - 10, top - 10, anchor="end", look="name")
    yield label("faster than Redis", x(1) + 10, top - 10, look="name")
    room = (x.end - x.start) / (len(ticks) - 1)
    every = 1 if room > 40 else 2 if room > 20 else 3
    middle = len(ticks) // 2
    for number, tick in enumerate(ticks):
        look = "edge" if tick == 1 else "grid"
        yield element("path", class_=look, d=f"M{x(tick):.1f} {top}V{bottom}")
        if (number - middle) % every == 0:
            text = "1" if tick == 1 else f"{max(tick, 1 / tick):g} ×"
            yield label(text, x(tick), bottom + 18, anchor="middle", look="soft")


def _height(row: Sequence[Answer], layout: Layout) -> float:
    lines = LINE * len(row)
    return lines + 32 if layout is NARROW else max(lines, 2 * LINE) + 10


def _row(
    row: Sequence[Answer], x: Scale, top: float, height: float, layout: Layout
) -> Iterable[Markup]:
    scenario = row[0].scenario
    title = title_of(scenario, 44 if layout.labels else 46)
    yield element("path", class_="grid", d=f"M8 {top + height:.1f}H{layout.width - 8}")
    if layout is NARROW:
        text = title if scenario.headline else shortened(f"{scenario.name}: {title}", 44)
        yield label(text, 12, top + 18, look="name" if scenario.headline else "halo")
        first = top + 38
    else:
        middle = top + height / 2
        if scenario.headline:
            yield label(title, 16, middle + 4, look="name")
        else:
            yield label(shortened(scenario.name, 40), 16, middle - 4, look="name")
            yield label(title, 16, middle + 13, look="soft")
        first = middle - (len(row) - 1) * LINE / 2
    for number, answer in enumerate(row):
        yield from _answer(answer, x, first + number * LINE, layout)


def _answer(answer: Answer, x: Scale, middle: float, layout: Layout) -> Iterable[Markup]:
    better = answer.verdict.better
    assert better is not None
    look = f"pgmem {answer.arm.tier or 'any'} s0"
    low, high = x(better.low), x(better.high)
    yield element("path", class_=f"range {look}", d=f"M{low:.1f} {middle:.1f}H{high + 0.1:.1f}")
    yield marker(look, x(better.median), middle)
    text = _short(answer, better.median)
    style = "bad" if answer.wrong else "name" if answer.verdict.standing == "ahead" else ""
    if layout.labels:
        yield label(text, layout.width - 12, middle + 4, anchor="end", look=style)
    elif low - x.start > text_width(text) + 12:
        yield label(text, low - 9, middle + 4, anchor="end", look=style)
    else:
        yield label(text, high + 9, middle + 4, look=style)


def _short(answer: Answer, better: float) -> str:
    if answer.wrong:
        return "wrong"
    if answer.verdict.standing == "level":
        return f"level, {times(better)} ×"
    return f"{times(better)} × faster" if better >= 1 else f"{times(1 / better)} × slower"


def _in_words(rows: Sequence[Sequence[Answer]]) -> str:
    return "; ".join(
        f"{group_of(answer.scenario)}, {title_of(answer.scenario)}, {answer.arm.tier}: "
        f"{answer.in_words}"
        for row in rows
        for answer in row
    )
