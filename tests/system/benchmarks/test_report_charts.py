"""Test the charts of a report: valid SVG that shows each figure of the data."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from benchmarks import figures, harness
from benchmarks.harness import Arm, Scenario, of_times
from benchmarks.report import Content
from benchmarks.report.charts import DARK, charts, headline, nines
from tests.support.report import measured

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def run():
    return measured()


@pytest.fixture(scope="module")
def plots(run):
    return [headline(Content(run)), *(plot for each in run.results for plot in charts(each))]


def lines_of(plot):
    """Return the lines of a chart by label: (x, y) points."""
    (axes,) = plot.figure.axes
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def timed(*nanoseconds):
    one = Arm("one", lambda: of_times(figures.histogram(nanoseconds)))
    return harness.run(Scenario("s", "t", "µs", [one], rounds=1, warmup=0))


def test_plots_are_svg_with_a_title_and_load_nothing(plots):
    for plot in plots:
        root = ET.fromstring(plot.svg())
        assert root.find(f"{SVG}title").text == plot.title
        assert not re.search(r"url\((?!#)|@import|<image|href=\"(?!#)", plot.svg())


def test_every_color_of_a_plot_has_one_for_dark_pages(plots):
    for plot in plots:
        svg = plot.svg()
        assert "@media(prefers-color-scheme:dark)" in svg
        used = re.findall(r"(?:fill|stroke): (#\w+)", re.sub(r"<style>.*?</style>", "", svg))
        assert used
        assert set(used) <= set(DARK)


def test_plots_have_no_date_and_the_same_bytes_each_time(run):
    for result in run.results:
        first, second = ([plot.svg() for plot in charts(result)] for _ in range(2))
        assert first == second
        assert not any("date" in svg for svg in first)


def test_plots_name_every_arm_and_mark_wrong_ones(run):
    for result in run.results:
        (plot,) = charts(result)
        shown = "".join(ET.fromstring(plot.svg()).itertext())
        for arm in result.scenario.arms:
            assert arm.name[:20] in shown
    assert "published, wrong" in charts(run.results[0])[0].svg()


def test_kind_of_chart_follows_from_the_data(run):
    kinds = [[plot.title.partition(": ")[2] for plot in charts(r)] for r in run.results]
    assert kinds == [
        ["times of a call by percentile"],
        ["what each round gave, in events/s"],
        ["what each round gave, in lost"],
        ["kB by deliveries"],
    ]


def test_scenario_with_and_without_times_has_both_charts():
    arms = [
        Arm("timed", lambda: of_times(figures.histogram([1_000]))),
        Arm("counted", lambda: harness.Sample(7.0)),
    ]
    result = harness.run(Scenario("s", "t", "µs", arms, rounds=2))
    assert [plot.title.partition(",")[0] for plot in charts(result)] == [
        "s: times of a call by percentile",
        "s: what each round gave",
    ]


def test_line_has_each_percentile_of_the_histogram():
    taken = [1_000 * number for number in range(1, 1_001)]
    (plot,) = charts(timed(*taken))
    points = dict(lines_of(plot)["one"])
    histogram = figures.histogram(taken)
    for percent in (50, 90, 99, 99.9):
        assert points[nines(percent)] == histogram.get_value_at_percentile(percent)
    assert points[max(points)] == histogram.get_max_value()
    assert [label.get_text() for label in plot.figure.axes[0].get_xticklabels()] == [
        *("min", "50", "90", "99", "99.9", "max")
    ]


def test_each_nine_is_one_step():
    assert [nines(p) for p in (0, 90, 99, 99.9)] == pytest.approx([0, 1, 2, 3])


def test_equal_times_have_a_chart():
    (plot,) = charts(timed(*[1_000] * 9))
    assert {height for _, height in lines_of(plot)["one"]} == {1_000}
    assert "1 µs" in plot.svg()


def test_rounds_show_every_round_and_the_median(run):
    (plot,) = charts(run.results[1])
    (axes,) = plot.figure.axes
    shown = [value for line in axes.lines for value in line.get_xdata()]
    for name in ("pgmem", "redis"):
        assert set(run.results[1].values(name)) <= set(shown)
        assert run.results[1].median(name) in shown
    assert "1,002" in plot.svg()


def test_course_shows_each_round_at_its_step(run):
    lines = lines_of(charts(run.results[-1])[0])
    assert lines["growing"] == [(50_000 * n, 8_000 * n) for n in range(1, 5)]
    assert [kilobytes for _, kilobytes in lines["level"]] == [80, 96, 96, 96]


def test_headline_shows_each_ratio_with_its_interval(run):
    content = Content(run)
    (axes,) = headline(content).figure.axes
    shown = [tuple(line.get_xdata()) for line in axes.lines]
    for answer in (answer for row in content.headline() for answer in row):
        ratio = answer.verdict.ratio
        assert (ratio.median,) in shown
        assert (ratio.low, ratio.high) in shown
    low, high = axes.get_xlim()
    assert low == pytest.approx(1 / high)
