"""Scales, ticks, and the looks of arms, for all charts.

An arm looks the same wherever it is: its kind is its colour and its marker, its promise the dash
of its line. So it can be told apart without seeing colours. What a figure means is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Scenario
from benchmarks.report.markup import Markup, element

STYLE = (Path(__file__).parent / "chart.css").read_text(encoding="utf-8")
"""Colours and lines of charts, light and dark."""
MARKERS = {
    "pgmem": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "redis": "M-4 -4h8v8h-8z",
    "published": "M0 -5.2L4.8 3.6H-4.8z",
    "floor": "M-4 -4L4 4M4 -4L-4 4",
    "peer": "M0 -5.6L5 0L0 5.6L-5 0z",
}
SHADES = 3
"""How many arms of a kind and tier can be told apart."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The same chart for two widths: letters have the same size in both.

    Attributes:
        name: its class.
        width: in units of the drawing, which are about a pixel each.
        labels: the width of the labels beside the plot; 0 puts them above it.
    """

    name: str
    width: float
    labels: float


WIDE = Layout("wide", 860, 270)
NARROW = Layout("narrow", 350, 0)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places.

    Attributes:
        low, high: the values at its ends.
        start, end: their places.
        log: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; those outside are at the ends."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values from at or below the least to at or above the greatest."""
    steps: Sequence[float] = (1, 2, 5) if high / low < 200 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    all_ticks = [step * 10.0**power for power in range(first - 1, last + 2) for step in steps]
    below = max((t for t in all_ticks if t <= low * 1.0001), default=low)
    above = min((t for t in all_ticks if t >= high * 0.9999), default=high)
    if below == above:
        above = min((tick for tick in all_ticks if tick > below), default=10 * below)
    return [tick for tick in all_ticks if below <= tick <= above]


def linear_ticks(high: float) -> list[float]:
    """Round values from 0 to at or above the greatest, four to eight of them."""
    if high <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(high / 4))
    step = next(s * power for s in (1, 2, 5, 10) if high / (s * power) <= 7)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def looks(scenario: Scenario) -> dict[str, str]:
    """The classes of each arm's line and marker."""
    found: dict[str, str] = {}
    seen: dict[str, int] = {}
    for arm in scenario.arms:
        tier = arm.tier or "any"
        shade = seen.get(arm.kind + tier, 0)
        seen[arm.kind + tier] = shade + 1
        found[arm.name] = f"{arm.kind} {tier} s{shade % SHADES}"
    return found


def marker(look: str, x: float, y: float) -> Markup:
    """The marker of an arm."""
    shape = MARKERS[look.partition(" ")[0]]
    return element("path", class_=f"dot {look}", d=shape, transform=f"translate({x:.1f} {y:.1f})")


def key(look: str, x: float, y: float) -> Markup:
    """An arm's line with its marker, as a legend shows it."""
    line = element("path", class_=f"arm {look}", d=f"M{x:.1f} {y:.1f}h30")
    return Markup(line + marker(look, x + 15, y))


def label(text: str, x: float, y: float, *, anchor: str = "", look: str = "") -> Markup:
    """Text at a place."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=look)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart: in a page, or as a file of its own.

    Attributes:
        layout: for which width.
        height: of it.
        title, detail: say in words what it shows, to whom cannot see it.
        content: its elements.
    """

    layout: Layout
    height: float
    title: str
    detail: str
    content: Sequence[Markup]

    def inline(self) -> Markup:
        """For a page that has `STYLE`."""
        return self._svg()

    def alone(self) -> str:
        """As a file, on its own ground: light or dark as its reader wants it."""
        ground = element(
            "rect", class_="ground", width=self.layout.width, height=self.height, rx="8"
        )
        return self._svg(
            element("style", Markup(STYLE)),
            ground,
            xmlns="http://www.w3.org/2000/svg",
            width=self.layout.width,
            height=self.height,
        )

    def _svg(self, *first: Markup, **attributes: object) -> Markup:
        return element(
            "svg",
            element("title", self.title),
            element("desc", self.detail),
            *first,
            *self.content,
            viewBox=f"0 0 {self.layout.width:.0f} {self.height:.0f}",
            class_=f"chart {self.layout.name}",
            role="img",
            **attributes,
        )


def text_width(text: str) -> float:
    """About how wide a text of the charts' size is."""
    return 7.3 * len(text)


def spaced(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels as near to the wanted ones as a gap between them lets them be."""
    order = sorted(range(len(places)), key=places.__getitem__)
    found = [places[number] for number in order]
    for number in range(1, len(found)):
        found[number] = max(found[number], found[number - 1] + gap)
    if found and found[-1] > high:
        found[-1] = high
        for number in range(len(found) - 2, -1, -1):
            found[number] = min(found[number], found[number + 1] - gap)
    if found and found[0] < low:
        found = [place + low - found[0] for place in found]
    return [place for _, place in sorted(zip(order, found, strict=True))]


def wrapped(texts: Sequence[str], width: float, room: Callable[[str], float]) -> list[list[str]]:
    """Texts in as few lines as hold them."""
    lines: list[list[str]] = [[]]
    left = width
    for text in texts:
        if lines[-1] and room(text) > left:
            lines.append([])
            left = width
        lines[-1].append(text)
        left -= room(text)
    return lines
