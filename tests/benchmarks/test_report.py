"""The report tells all of a run, in valid files that load nothing, and the same from its JSON."""

from __future__ import annotations

import random
import re
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import orjson
import pytest

from benchmarks import figures, harness
from benchmarks.__main__ import _command, main
from benchmarks.audit import Faults
from benchmarks.harness import Arm, Comparison, Course, Limit, Sample, Scenario, of_times
from benchmarks.report import Content, DataError, Run, headline, page, read_json, write_json
from benchmarks.report.axis import NARROW, WIDE, Scale, linear_ticks, log_ticks, spaced, text_width
from benchmarks.report.chart import Curve, charts, nines
from benchmarks.report.content import code_spans, duration, figure, times
from benchmarks.report.markdown import write_markdown
from benchmarks.report.markup import Markup, element

NASTY = """<script>alert("1")</script> & 'x' | *y* `z`"""
VOID = {"meta", "br", "hr", "link", "img", "input"}


def timed(name, microseconds, kind="pgmem", tier="strict", note="", faults=None):
    rng = random.Random(name)

    def run():
        taken = figures.histogram(
            microseconds * 1_000 * rng.lognormvariate(0, 0.2) for _ in range(200)
        )
        spent = {"per second": 1e6 / microseconds, "log, B each": 612.0, "waits": 3.0}
        return of_times(taken, faults or Faults(), spent)

    return Arm(name, run, note, kind, tier)


def fixed(name, values, kind="pgmem", tier="strict", note=""):
    left = iter(values)
    return Arm(name, lambda: Sample(next(left)), note, kind, tier)


def measured():
    scenarios = [
        Scenario(
            "write/one",
            f"write: {NASTY}",
            "µs",
            [
                timed("pgmem", 100, note="`memory.events.append`"),
                timed("redis always", 200, "redis"),
                timed("pgmem relaxed", 60, tier="relaxed"),
                timed("redis everysec", 30, "redis", "relaxed"),
                timed("published", 150, "published", faults=Faults(lost=2, torn=1)),
                timed(NASTY, 90, "floor", note=NASTY),
            ],
            [
                Comparison("pgmem", "redis always", at_most=1.0),
                Comparison("pgmem", "redis always", at_most=0.01, figure="p99"),
                Comparison("pgmem relaxed", "redis everysec", at_most=1.1),
                Comparison("pgmem", NASTY),
            ],
            [Limit("pgmem", "waits", 5, always=True)],
            rounds=4,
        ),
        Scenario(
            "write/many",
            "write by many",
            "events/s",
            [
                fixed("pgmem", [900.0] * 5),
                fixed("redis", [1_000.0, 1_010, 990, 1_000, 1_005], "redis"),
            ],
            [Comparison("pgmem", "redis", at_least=1.2)],
            rounds=4,
        ),
        Scenario("lost", "no comparison", "lost", [fixed("nothing", [0.0] * 4)], rounds=3),
        Scenario(
            "growth",
            "rounds that go on",
            "kB",
            [
                fixed("level", [80.0, 96, 96, 96]),
                fixed("growing", [8_000.0, 16_000, 24_000, 32_000]),
            ],
            rounds=4,
            warmup=0,
            course=Course(50_000, "deliveries"),
        ),
    ]
    facts = {"machine": {"processor": NASTY, "fsync of 8 kB": "185 µs"}, "redis": {"save": ""}}
    return Run(
        facts,
        [harness.run(scenario) for scenario in scenarios],
        {"consumer <groups>": "none yet"},
        "python -m benchmarks --rounds 4",
        "2026-11-22 14:00 UTC",
    )


@pytest.fixture(scope="module")
def run():
    return measured()


@pytest.fixture(scope="module")
def html(run):
    return page(Content(run))


class Checked(HTMLParser):
    """Reads a page, and remembers what is wrong with it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.tags, self.text, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_balanced_and_its_links_lead_somewhere(html):
    found = Checked(html)
    assert not found.wrong
    assert len(set(found.ids)) == len(found.ids)
    links = [attrs["href"] for tag, attrs in found.tags if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(found.ids)
    assert all(a.get("scope") in ("col", "row") for tag, a in found.tags if tag == "th")


def test_the_page_loads_and_runs_nothing(html):
    found = Checked(html)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object"}
    assert not [a for _, a in found.tags if "src" in a or a.get("href", "#")[0] != "#"]
    assert not re.search(r"@import|url\(|https?:", html)
    assert not [name for _, a in found.tags for name in a if name.startswith("on")]


def test_everything_is_on_the_page(html, run):
    text = " ".join("".join(Checked(html).text).split())
    for result in run.results:
        assert result.scenario.name in text
        assert " ".join(result.scenario.title.split()) in text
        for arm in result.scenario.arms:
            assert arm.name in text
        for verdict in result.verdicts():
            assert verdict.question in text
            assert verdict.target in text
    for told in ("consumer <groups>", "none yet", "python -m benchmarks --rounds 4", "185 µs"):
        assert told in text
    assert "<script" not in html


def test_the_verdict_comes_first(html):
    assert "Of 3 comparisons with Redis done right" in html
    assert "ahead in 1, level in 0 and behind in 2" in html
    assert html.index("Of 3 comparisons") < html.index("<h2>Contents</h2>") < html.index('id="s-')


def test_a_wrong_arm_is_marked(html, run):
    assert '<span class="bad">10 lost, 5 torn</span>' in html  # four rounds and a warm-up
    assert "published wrong" in html
    headings, rows = Content(run).correctness()
    assert headings == ["whose", "arms wrong", *Faults.__slots__]
    assert ["the article's Redis code", "1 of 1", "10", "0", "0", "5", "0"] in rows
    assert rows[0][:3] == ["pgmem", "0 of 6", "0"]


def test_a_wrong_arm_of_pgmem_is_behind_however_fast_it_is():
    arms = [timed("pgmem", 10, faults=Faults(torn=1)), timed("redis", 100, "redis")]
    asked = [Comparison("pgmem", "redis", at_most=1.0)]
    result = harness.run(Scenario("s", "t", "µs", arms, asked, rounds=3))
    content = Content(Run({}, [result]))
    assert content.standing("behind") == 1
    assert content.main[0].outcome == "missed: wrong"
    assert "and wrong" in content.main[0].in_words
    assert ">wrong</text>" in headline(content).alone()
    assert '<li class="bad"><b>1</b>' in page(content)


def test_a_wrong_arm_is_marked_in_its_chart(run):
    for drawing in charts(run.results[0])[0]:
        assert "published, wrong</text>" in "".join(drawing.content)


def test_without_anything_to_tell():
    content = Content(Run({}, []))
    assert not Checked(page(content)).wrong
    assert "No scenario of this run" in page(content)
    assert ET.fromstring(headline(content).alone()).tag.endswith("svg")


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


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (figure(1234.5), "1,234"),
        (figure(123.45), "123.5"),
        (figure(1.2345), "1.23"),
        (times(0.0123), "0.012"),
        (times(1.234), "1.23"),
        (times(12.34), "12.3"),
        (duration(1_500), "1.5 µs"),
        (duration(2_000_000), "2 ms"),
        (duration(10**10), "10 s"),
    ],
)
def test_numbers(told, text):
    assert told == text


def test_only_markup_is_markup():
    assert element("b", "<i>", title='"') == '<b title="&quot;">&lt;i&gt;</b>'
    assert element("b", Markup("<i></i>")) == "<b><i></i></b>"
    assert code_spans("a `b` c") == [(False, "a "), (True, "b"), (False, " c")]
    assert code_spans("a ` b") == [(False, "a ` b")]


def test_markdown_shows_its_plots(tmp_path, run):
    (tmp_path / "NOTES.md").write_text("")
    (tmp_path / "R-plots").mkdir()
    (tmp_path / "R-plots" / "old.svg").write_text("")
    write_markdown(tmp_path / "R.md", Content(run))
    text = (tmp_path / "R.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert "NOTES.md" in links
    shown = {tmp_path / unquote(link) for link in links if link.endswith(".svg")}
    assert shown == set((tmp_path / "R-plots").iterdir())
    assert len(shown) == 5
    for plot in shown:
        ET.parse(plot)
    assert all(alt for alt in re.findall(r"!\[([^]]*)\]", text))


def test_markdown_tables_are_whole(tmp_path, run):
    write_markdown(tmp_path / "R.md", Content(run))
    text = (tmp_path / "R.md").read_text()
    assert "<script" not in text
    assert "NOTES.md" not in text
    width = 0
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells
    for result in run.results:
        assert result.scenario.name in text


def test_the_headline_has_a_row_for_each_scenario_and_a_dot_for_each_promise(run):
    rows = Content(run).headline()
    assert [[answer.arm.name for answer in row] for row in rows] == [
        ["pgmem", "pgmem relaxed"],
        ["pgmem"],
    ]
    svg = headline(Content(run)).alone()
    assert "faster than Redis" in svg
    assert "× faster</text>" in svg
    assert "× slower</text>" in svg


def test_told_from_json_is_told_the_same(tmp_path, run, html):
    write_json(tmp_path / "run.json", run)
    again = read_json(tmp_path / "run.json")
    write_json(tmp_path / "again.json", again)
    assert (tmp_path / "run.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert page(Content(again)) == html
    assert headline(Content(again)).alone() == headline(Content(run)).alone()
    for name, each in (("one", run), ("two", again)):
        (tmp_path / name).mkdir()
        write_markdown(tmp_path / name / "R.md", Content(each))
    one, two = ((tmp_path / name / "R.md").read_text() for name in ("one", "two"))
    assert one == two
    with pytest.raises(RuntimeError, match="not run"):
        again.results[0].scenario.arms[0].run()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_what_is_no_run(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json"):
        read_json(tmp_path / "run.json")


def test_broken_times_are_no_run(tmp_path, run):
    write_json(tmp_path / "run.json", run)
    data = orjson.loads((tmp_path / "run.json").read_bytes())
    data["scenarios"][0]["arms"][0]["times, ns"] = "SElT"
    (tmp_path / "run.json").write_bytes(orjson.dumps(data))
    with pytest.raises(DataError, match="holds no run"):
        read_json(tmp_path / "run.json")


def test_the_command_line_writes_all_forms_of_an_earlier_run(tmp_path, run, html, capsys):
    write_json(tmp_path / "run.json", run)
    files = {name: tmp_path / f"out.{name}" for name in ("json", "html", "markdown", "headline")}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    assert main(["--from-json", str(tmp_path / "run.json"), *options]) == 0
    assert files["html"].read_text() == html
    assert files["json"].read_bytes() == (tmp_path / "run.json").read_bytes()
    assert (tmp_path / "out-plots" / "headline.svg").exists()
    assert "targets met" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-json", "/no/such/file"], "cannot be read"),
        (["--from-json", "x", "--quick"], "leave --quick out"),
        (["--html", "/no/such/folder/x.html"], "--html: there is no folder /no/such/folder"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_to_reproduce_has_no_files_and_no_passwords():
    given = ["--quick", "--only", "a", "b c", "--json", "x", "--html=y"]
    url = ["--postgres-url", "postgres://u:secret@h", "--redis-url=redis://:secret@h"]
    assert _command([*given, *url]) == (
        "python -m benchmarks --quick --only a 'b c' --postgres-url URL --redis-url URL"
    )
