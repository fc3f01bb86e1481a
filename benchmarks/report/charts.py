"""Draw the charts of a report with matplotlib, as SVG for light and dark pages.

The same data always give the same bytes: ids come from a fixed salt, and no file holds a date.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

from hdrh.histogram import HdrHistogram
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from benchmarks.figures import Interval, bootstrap
from benchmarks.harness import Result
from benchmarks.report.content import (
    TIMES,
    Answer,
    Content,
    duration,
    figure,
    shortened,
    times,
    title_of,
)

GROUND, INK, SOFT, GRID, EDGE = "#ffffff", "#1b1f24", "#57606a", "#dde1e6", "#9aa3ad"
BETTER, WORSE, BAD = "#e7f0fa", "#fdeee4", "#b42318"
KINDS = {
    "pgmem": ("o", {"#0060a8": "#5cb3ff", "#3a8ad0": "#b3daff", "#00355f": "#2f86d6"}),
    "redis": ("s", {"#c2410c": "#ff9a5c", "#e0672b": "#ffcfae", "#7c2d12": "#d96b2b"}),
    "published": ("^", {"#a23b86": "#e58fd0", "#c368ad": "#f5c9ea", "#6b1f57": "#b9589f"}),
    "floor": ("X", {"#5f6670": "#a9b1bc", "#858d97": "#dadfe5", "#30363d": "#7b838e"}),
    "peer": ("D", {"#00785a": "#4fd1a5", "#1f9c77": "#aeeed6", "#004d3a": "#2a9d78"}),
}
"""The marker of a kind of arm, and the colors of its arms of one promise: on light, on dark."""
DASHES = {"relaxed": (0, (4, 2)), "none": (0, (1, 2))}
DARK = {
    **{GROUND: "#14181d", INK: "#e8ebee", SOFT: "#a7b0ba", GRID: "#2c333b", EDGE: "#626c78"},
    **{BETTER: "#15283b", WORSE: "#362318", BAD: "#ff9b8f"},
    **{light: dark for _, colors in KINDS.values() for light, dark in colors.items()},
}
# matplotlib writes colors as inline styles. Rules that match these styles replace them.
CSS = "".join(
    f'[style*="{part}: {light}"]{{{part}:{dark}!important}}'
    for light, dark in DARK.items()
    for part in ("fill", "stroke")
)
CSS = (
    "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif!important}"
    f"@media(prefers-color-scheme:dark){{{CSS}}}"
)
STYLE: dict[str, Any] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), GROUND),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), EDGE),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), SOFT),
    **dict.fromkeys(("text.color", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.spines.right", "axes.spines.top", "legend.frameon"), False),
    "axes.axisbelow": True,
    "axes.grid": True,
    "font.size": 9.5,
    "grid.color": GRID,
    "legend.handlelength": 3,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "pgmem",
    "text.parse_math": False,
}
LOOK: list[str | dict[str, Any]] = ["default", STYLE]
"""Starts from matplotlib's own settings: those of a matplotlibrc file do not change a chart."""
WRONG = "wrong"
NINES = {0.0: "min", 50.0: "50", 90.0: "90", 99.0: "99", 99.9: "99.9", 99.99: "99.99"}
FURTHEST = 1_000.0
"""The headline chart cuts off ratios above this."""
HEADLINE = "pgmem beside Redis done right, at the equal promise"


@dataclass(frozen=True, slots=True)
class Plot:
    """Hold a chart with its title."""

    title: str
    figure: Figure

    def svg(self) -> str:
        """Return the chart as the text of an SVG file."""
        file = io.StringIO()
        metadata = {**dict.fromkeys(("Date", "Creator", "Type", "Format")), "Title": self.title}
        with style.context(LOOK):
            self.figure.savefig(
                file, format="svg", bbox_inches="tight", pad_inches=0.15, metadata=metadata
            )
        head, defs, rest = file.getvalue().partition("<defs>")
        text = f"{head}<style>{CSS}</style>\n{defs}{rest}"
        return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def charts(result: Result) -> list[Plot]:
    """Draw the charts of a scenario."""
    scenario = result.scenario
    if scenario.course is not None:
        return [course(result)]
    taken = {arm.name: result.times(arm.name) for arm in scenario.arms}
    timed = {name: found for name, found in taken.items() if found and found.total_count}
    drawn = [percentiles(result, timed)] if timed else []
    if len(timed) < len(taken) or scenario.unit not in TIMES:
        drawn.append(rounds(result))
    return drawn


@style.context(LOOK)
def percentiles(result: Result, timed: Mapping[str, HdrHistogram]) -> Plot:
    """Draw one line per arm: the time of a call at each percentile."""
    # With n calls, percentiles beyond 1 - 1/n only repeat the longest call.
    calls = max(found.total_count for found in timed.values())
    last = min(4, max(1, math.floor(math.log10(max(10, calls)))))
    shown = {nines(p): name for p, name in NINES.items() if nines(p) <= last + 1e-9}
    end = last + max(0.2, last / 8)
    places = sorted({*(step / 20 for step in range(20 * last + 1)), *shown})
    marked = [number for number, at in enumerate([*places, end]) if at == end or at in shown][1:]
    drawing, axes = _empty(max(3.2, 0.22 * len(timed)))
    for name, found in sorted(timed.items(), key=lambda item: -item[1].get_max_value()):
        # One pass over the histogram: a query per percentile scans all of its buckets each time.
        wanted = [100 * (1 - 10.0**-at) for at in places] + [100.0]
        values = found.get_percentile_to_value_dict(wanted)
        heights = [values[percent] for percent in wanted]
        axes.plot([*places, end], heights, markevery=marked, **_look(result, name))
    axes.set_xticks([*shown, end], [*shown.values(), "max"])
    axes.set(xlabel="percentile of the calls", ylabel="time of a call")
    _log(axes, "y", *axes.dataLim.intervaly)
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    _legend(axes)
    return Plot(f"{result.scenario.name}: times of a call by percentile", drawing)


def nines(percent: float) -> float:
    """Return the place of a percentile on the axis: each further nine is one step."""
    return -math.log10(1 - percent / 100)


@style.context(LOOK)
def rounds(result: Result) -> Plot:
    """Draw one row per arm: each round, the median and its interval."""
    scenario = result.scenario
    values = {arm.name: result.values(arm.name) for arm in scenario.arms}
    drawing, axes = _empty(0.5 + 0.36 * len(values))
    for row, (name, found) in enumerate(values.items()):
        look = {**_look(result, name), "linestyle": ""}
        # Rounds stand at three heights in turn, so that equal ones do not hide each other.
        heights = [row + (number % 3 - 1) * 0.2 for number in range(len(found))]
        axes.plot(found, heights, ".", color=look["color"], alpha=0.5)
        _median(axes, row, bootstrap(found), figure(bootstrap(found).median), look)
    _rows(axes, [_look(result, name)["label"] for name in values])
    low, high = axes.dataLim.intervalx
    # A count may be 0, which a log axis cannot show.
    if low > 0 and high / low > 12:
        _log(axes, "x", low, high)
    else:
        axes.set_xlim(0, 1.06 * high or 1)
        axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(_plain)
    axes.set_xlabel(scenario.unit)
    return Plot(f"{scenario.name}: what each round gave, in {scenario.unit}", drawing)


@style.context(LOOK)
def course(result: Result) -> Plot:
    """Draw one line per arm: its rounds in order, to show whether it grows."""
    scenario, along = result.scenario, result.scenario.course
    assert along is not None
    drawing, axes = _empty(3.2)
    values = {arm.name: result.values(arm.name) for arm in scenario.arms}
    for name, found in sorted(values.items(), key=lambda item: -item[1][-1]):
        done = [along.step * number for number in range(1, len(found) + 1)]
        axes.plot(done, found, **_look(result, name))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(_plain)
    axes.set(xlabel=along.of, ylabel=scenario.unit)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return Plot(f"{scenario.name}: {scenario.unit} by {along.of}", drawing)


@style.context(LOOK)
def headline(content: Content) -> Plot:
    """Draw what pgmem costs beside Redis, on a log axis with 1 in the middle.

    A row is a scenario, a mark in it a promise: the median of the ratios with its interval.
    """
    rows = content.headline()
    drawing, axes = _empty(0.4 + 0.45 * len(rows), 5.0)
    for row, answers in enumerate(rows):
        for number, answer in enumerate(answers):
            _answer(axes, row + (number - (len(answers) - 1) / 2) * 0.4, answer)
        axes.axhline(row + 0.5, color=GRID, linewidth=0.8)
    scenarios = [answers[0].scenario for answers in rows]
    _rows(axes, [s.headline or f"{shortened(s.name, 40)}\n{title_of(s, 44)}" for s in scenarios])
    found = [answer.verdict.ratio for row in rows for answer in row]
    ends = [end for each in found for end in (each.high, 1 / each.low)]
    furthest = min(FURTHEST, max([2.0, *ends]))
    _log(axes, "x", 1 / furthest, furthest)
    axes.xaxis.set_major_formatter(lambda v, _: "1" if v == 1 else f"{v:.3g}×")
    axes.yaxis.grid(visible=False)
    low, high = axes.get_xlim()
    axes.axvspan(low, 1, color=BETTER, zorder=0)
    axes.axvspan(1, high, color=WORSE, zorder=0)
    for side, at in (("faster", 0.25), ("slower", 0.75)):
        axes.text(at, 1, f"{side} than Redis", ha="center", va="bottom", transform=axes.transAxes)
    axes.set_title(HEADLINE, pad=20, fontsize="medium", fontweight="bold")
    promises = (("strict", "appendfsync always"), ("relaxed", "appendfsync everysec"))
    axes.legend(
        [Line2D([], [], **{**_line("pgmem", tier), "linestyle": ""}) for tier, _ in promises],
        [f"{tier}: {setting}" for tier, setting in promises],
        title="median of the ratios of all rounds, with its 95 % interval",
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        borderaxespad=2.5,
        ncols=2,
    )
    return Plot(HEADLINE, drawing)


def _answer(axes: Axes, row: float, answer: Answer) -> None:
    ratio = answer.verdict.ratio
    shown = Interval(*(min(max(value, 1 / FURTHEST), FURTHEST) for value in astuple(ratio)))
    text = answer.in_words.partition(": ")[2]
    if answer.verdict.standing == "level":
        text = f"level, {times(ratio.median)} ×"
    look = {**_line("pgmem", answer.arm.tier), "linestyle": ""}
    _median(axes, row, shown, text, look)


def _median(axes: Axes, row: float, found: Interval, text: str, look: Mapping[str, Any]) -> None:
    """Draw a median with its interval, and write `text` to the right of the row."""
    axes.plot([found.low, found.high], [row, row], color=look["color"], linewidth=5, alpha=0.32)
    axes.plot([found.median], [row], **look)
    color = BAD if text.endswith(WRONG) else INK
    axes.text(1.02, row, text, color=color, va="center", transform=axes.get_yaxis_transform())


def _empty(height: float, width: float = 6.5) -> tuple[Figure, Axes]:
    drawing = Figure((width, height))
    axes: Axes = drawing.subplots()
    axes.tick_params(which="both", length=0)
    return drawing, axes


def _log(axes: Axes, side: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic, with labels at 1, 2, 5 if there is room for them."""
    axes.set(**{f"{side}scale": "log", f"{side}lim": (low / 1.15, high * 1.15)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 3_000 else (1,)))
    axis.set_minor_locator(NullLocator())


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Label the rows, the first one at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    _color(axes.get_yticklabels())


def _legend(axes: Axes) -> None:
    """Name the lines to the right of the plot."""
    _color(axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02)).get_texts())


def _color(labels: Sequence[Text]) -> None:
    for label in labels:
        label.set_color(BAD if label.get_text().endswith(WRONG) else INK)


def _plain(value: float, _: object) -> str:
    return f"{value:,.9g}"


def _look(result: Result, name: str) -> dict[str, Any]:
    """Return the label of an arm, and how its line is drawn."""
    arm = result.scenario.arm(name)
    alike = [a.name for a in result.scenario.arms if (a.kind, a.tier) == (arm.kind, arm.tier)]
    wrong = f", {WRONG}" if result.faults[name] else ""
    label = shortened(name, 32 - len(wrong)) + wrong
    return {**_line(arm.kind, arm.tier, alike.index(name)), "label": label}


def _line(kind: str, tier: str, number: int = 0) -> dict[str, Any]:
    """Return how an arm is drawn: its kind is the color, its promise the dash."""
    marker, shades = KINDS[kind]
    color = list(shades)[number % len(shades)]
    return {
        "color": color,
        "marker": marker,
        "markerfacecolor": GROUND if tier in DASHES or number else color,
        "linestyle": DASHES.get(tier, "-"),
        "linewidth": 2.2 if tier == "strict" else 1.6,
    }
