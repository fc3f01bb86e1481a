"""The charts of a report: valid, inside of their frame, and each mark where its figure belongs."""

from __future__ import annotations

import re
from html import unescape
from xml.etree import ElementTree as ET

import pytest

from benchmarks import figures, harness
from benchmarks.harness import Arm, Scenario, of_times
from benchmarks.report import Content, headline
from benchmarks.report.axis import NARROW, WIDE, Scale, linear_ticks, log_ticks, spaced, text_width
from benchmarks.report.chart import Curve, charts, nines
from tests.support.report import measured


@pytest.fixture(scope="module")
def run():
    return measured()


def test_a_wrong_arm_is_marked_in_its_chart(run):
    for drawing in charts(run.results[0])[0]:
        assert "published, wrong</text>" in "".join(drawing.content)


def test_plots_are_xml_and_say_what_they_show(run):
    for result in run.results:
        for both in charts(result):
            for drawing in both:
                root = ET.fromstring(drawing.alone())
                space = "{http://www.w3.org/2000/svg}"
                assert root.find(f"{space}title").text == drawing.title
                detail = root.find(f"{space}desc").text
                assert all(arm.name in detail for arm in result.scenario.arms)
                shown = "".join(root.itertext())
                assert "prefers-color-scheme: dark" in shown
                assert "http" not in drawing.alone().replace("http://www.w3.org/2000/svg", "")


def test_which_chart_is_for_what(run):
    kinds = [[wide.title.partition(": ")[2] for wide, _ in charts(r)] for r in run.results]
    assert kinds == [
        ["times of a call by percentile"],
        ["what each round gave, in events/s"],
        ["what each round gave, in lost"],
        ["kB after so many deliveries"],
    ]


def test_all_of_a_chart_is_inside_of_it(run):
    drawings = [headline(Content(run), layout) for layout in (WIDE, NARROW)]
    drawings += [drawing for result in run.results for both in charts(result) for drawing in both]
    for drawing in drawings:
        layout, content = drawing.layout, "".join(drawing.content)
        for x, text in re.findall(
            r'<text x="([\d.]+)" y="[\d.]+"(?: class="\w+")?>([^<]+)<', content
        ):
            assert float(x) + text_width(unescape(text)) <= layout.width, text
        for x, y in re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)"', content):
            assert 0 <= float(x) <= layout.width
            assert 0 <= float(y) <= drawing.height


def test_percentiles_are_the_histogram_s():
    taken = figures.histogram(1_000 * number for number in range(1, 1_001))
    curve = Curve(taken)
    assert curve.count == 1_000
    for percent in (0, 1, 50, 90, 95, 99, 99.9, 100):
        assert curve.at(percent) == taken.get_value_at_percentile(percent)
    assert curve.at(50) == pytest.approx(500_000, rel=0.001)
    assert curve.at(100) == pytest.approx(1_000_000, rel=0.001)


def test_each_nine_is_a_step():
    assert [nines(p) for p in (0, 90, 99, 99.9)] == pytest.approx([0, 1, 2, 3])


def test_times_that_are_all_the_same_have_a_chart():
    one = Arm("one", lambda: of_times(figures.histogram([1_000] * 9)))
    result = harness.run(Scenario("s", "t", "µs", [one], rounds=2))
    assert "max 1 µs" in charts(result)[0][0].detail


def test_a_marker_stands_where_its_percentile_is():
    one = Arm("one", lambda: of_times(figures.histogram([1_000] * 99 + [100_000])))
    result = harness.run(Scenario("s", "t", "µs", [one], rounds=1, warmup=0))
    ((wide, _),) = charts(result)
    places = re.findall(r"translate\(([\d.]+) ([\d.]+)\)", "".join(wide.content))
    (_, p50), (_, p90), (_, p99), (_, longest), *_ = [(float(x), float(y)) for x, y in places]
    grid = {
        text: float(y) - 4
        for y, text in re.findall(r'y="([\d.]+)"[^>]*>([\d]+ µs)</text>', "".join(wide.content))
    }
    assert p50 == p90 == p99 == pytest.approx(grid["1 µs"], abs=0.2)
    assert longest == pytest.approx(grid["100 µs"], abs=0.2)


def test_a_course_shows_each_round_where_it_stands(run):
    ((wide, _),) = charts(run.results[-1])
    assert "growing: 8,000 kB after 50,000, 32,000 after 200,000" in wide.detail
    drawn = "".join(wide.content)
    level, growing = (
        [tuple(map(float, point.split())) for point in line.split("L")]
        for line in re.findall(r'class="arm [^"]*" d="M([^"h]+)"', drawn)
    )
    grid = {
        text: float(y) - 4 for y, text in re.findall(r'y="([\d.]+)"[^>]*>([\d,]+)</text>', drawn)
    }
    across = {
        text: float(x) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*>([\d,]+)</text>', drawn)
    }
    assert [height for _, height in growing[1::2]] == pytest.approx(
        [(grid["15,000"] * 4 + grid["20,000"]) / 5, (grid["30,000"] * 3 + grid["35,000"] * 2) / 5],
        abs=0.5,
    )
    assert len({height for _, height in level[1:]}) == 1
    assert [x for x, _ in growing][1::2] == pytest.approx([across["100,000"], across["200,000"]])


def test_scales():
    log = Scale(1, 100, 0, 200, log=True)
    assert [log(v) for v in (1, 10, 100, 1_000, 0.1)] == pytest.approx([0, 100, 200, 200, 0])
    assert Scale(0, 10, 100, 0)(2.5) == 75
    assert log_ticks(3, 40) == [2, 5, 10, 20, 50]
    assert log_ticks(1, 1) == [1, 2]
    assert log_ticks(3, 3) == [2, 5]
    assert log_ticks(9, 9) == [5, 10]
    assert linear_ticks(0) == [0, 1]
    assert linear_ticks(5) == [0, 1, 2, 3, 4, 5]
    assert spaced([10, 10, 90], 20, 0, 100) == [10, 30, 90]
    assert spaced([95, 99], 20, 0, 100) == [80, 100]
