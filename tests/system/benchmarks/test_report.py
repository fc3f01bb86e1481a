"""Test the report: it holds all of a run, loads nothing, and is the same from the run's JSON."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import orjson
import pytest

from benchmarks import harness
from benchmarks.__main__ import _command, main
from benchmarks.audit import Faults
from benchmarks.harness import Comparison, Scenario
from benchmarks.report import Content, DataError, Run, read_json, write_json
from benchmarks.report.charts import headline
from benchmarks.report.content import duration, figure, times
from benchmarks.report.document import page, write_markdown
from tests.support.report import measured, timed

VOID = {"meta", "br", "hr", "link", "img", "input"}


@pytest.fixture(scope="module")
def run():
    return measured()


@pytest.fixture(scope="module")
def html(run):
    return page(Content(run))


class Checked(HTMLParser):
    """Parse a page, and collect unbalanced tags."""

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


def test_page_is_balanced_and_its_links_lead_to_its_headings(html):
    found = Checked(html)
    assert not found.wrong
    assert len(set(found.ids)) == len(found.ids)
    links = [attrs["href"] for tag, attrs in found.tags if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(found.ids)
    assert all(a.get("scope") in ("col", "row") for tag, a in found.tags if tag == "th")
    assert all(a.get("alt") for tag, a in found.tags if tag == "img")


def test_page_loads_and_runs_nothing(html):
    found = Checked(html)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object"}
    assert not [a for _, a in found.tags if a.get("href", "#")[0] != "#"]
    images = [a["src"] for _, a in found.tags if "src" in a]
    assert len(images) == 5
    assert all(image.startswith("data:image/svg+xml;base64,") for image in images)
    assert not re.search(r"@import|url\(|https?:", html)
    assert not [name for _, a in found.tags for name in a if name.startswith("on")]


def test_page_holds_every_scenario_arm_and_answer(html, run):
    text = " ".join("".join(Checked(html).text).split())
    for result in run.results:
        assert result.scenario.name in text
        assert " ".join(result.scenario.title.split()) in text
        for arm in result.scenario.arms:
            assert arm.name in text
            assert figure(result.median(arm.name)) in text
        for verdict in result.verdicts():
            assert verdict.question in text
            assert verdict.target in text
    for told in ("consumer <groups>", "none yet", "python -m benchmarks --rounds 4", "185 µs"):
        assert told in text
    assert "<script" not in html


def test_page_begins_with_the_outcome(html):
    assert "Of 4 comparisons with Redis done right" in html
    assert "ahead in 2, level in 0 and behind in 2" in html
    assert "2 of 5 targets are met" in html
    assert html.index("Of 4 comparisons") < html.index(">Contents<") < html.index('id="writeone"')


def test_page_of_a_quick_run_says_that_it_is_one(html, run):
    assert "A quick run" not in html
    quick = page(Content(replace(run, command=f"{run.command} --quick")))
    assert quick.index("A quick run") < quick.index("Of 4 comparisons")


def test_cells_are_marked_by_their_outcome(html):
    assert re.search(r'<td class="ahead">ahead: [\d.]+ × faster</td>', html)
    assert re.search(r'<td class="behind">behind: [\d.]+ × slower</td>', html)
    assert '<td class="missed">missed</td>' in html
    assert '<td class="met">met</td>' in html


def test_wrong_arm_is_marked_and_counted(html, run):
    assert "<strong>10 lost, 5 torn</strong>" in html  # four rounds and a warm-up
    assert "0 of pgmem, 1 of the others" in html
    headings, rows = Content(run).correctness()
    assert headings == ["code", "arms wrong", *Faults.__slots__]
    assert ["the article's Redis code", "1 of 1", "10", "0", "0", "5", "0"] in rows
    assert rows[0][:3] == ["pgmem", "0 of 6", "0"]


def test_wrong_arm_of_pgmem_is_behind_however_fast_it_is():
    arms = [timed("pgmem", 10, faults=Faults(torn=1)), timed("redis", 100, "redis")]
    asked = [Comparison("pgmem", "redis", at_most=1.0)]
    result = harness.run(Scenario("s", "t", "µs", arms, asked, rounds=3))
    content = Content(Run({}, [result]))
    assert "level in 0 and behind in 1" in content.summary()
    assert content.compared[0].outcome == "missed: wrong"
    assert "and wrong" in content.compared[0].in_words
    assert ", and wrong" in headline(content).svg()
    assert "1 of pgmem, 0 of the others" in page(content)


def test_empty_run_has_a_report():
    content = Content(Run({}, []))
    assert not Checked(page(content)).wrong
    assert "No scenario of this run" in page(content)
    assert ET.fromstring(headline(content).svg()).tag.endswith("svg")


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
def test_numbers_keep_their_significant_digits(told, text):
    assert told == text


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        ("`<i>|</i>` and <i>", "<code>&lt;i&gt;|&lt;/i&gt;</code> and &lt;i&gt;"),
        ("a ` b", "a ` b"),
        ("*a* [b](c) _d_", "*a* [b](c) _d_"),
        ("&lt;b&gt; <!-- c", "&amp;lt;b&amp;gt; &lt;!-- c"),
    ],
)
def test_notes_hold_code_but_no_other_markup(note, shown):
    result = harness.run(Scenario("s", "t", "µs", [timed("pgmem", 10, note=note)], rounds=1))
    assert f"<small>{shown}</small>" in page(Content(Run({}, [result])))


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


def test_headline_has_a_row_for_each_scenario_and_a_mark_for_each_promise(run):
    rows = Content(run).headline()
    assert [[answer.arm.name for answer in row] for row in rows] == [
        ["pgmem", "pgmem relaxed"],
        ["pgmem"],
    ]
    svg = headline(Content(run)).svg()
    assert "faster than Redis" in svg
    assert "× faster</text>" in svg
    assert "× slower</text>" in svg


def test_report_from_json_has_the_same_bytes(tmp_path, run, html):
    write_json(tmp_path / "run.json", run)
    again = read_json(tmp_path / "run.json")
    write_json(tmp_path / "again.json", again)
    assert (tmp_path / "run.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert page(Content(again)) == html
    assert headline(Content(again)).svg() == headline(Content(run)).svg()
    for name, each in (("one", run), ("two", again)):
        (tmp_path / name).mkdir()
        write_markdown(tmp_path / name / "R.md", Content(each))
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert len(one) == 6
    assert one == two
    with pytest.raises(RuntimeError, match="does not run"):
        again.results[0].scenario.arms[0].run()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_file_without_a_run_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json"):
        read_json(tmp_path / "run.json")


def test_broken_histogram_is_refused(tmp_path, run):
    write_json(tmp_path / "run.json", run)
    data = orjson.loads((tmp_path / "run.json").read_bytes())
    data["scenarios"][0]["arms"][0]["times, ns"] = "SElT"
    (tmp_path / "run.json").write_bytes(orjson.dumps(data))
    with pytest.raises(DataError, match="holds no run"):
        read_json(tmp_path / "run.json")


def test_command_line_writes_all_forms_of_an_earlier_run(tmp_path, run, html, capsys):
    write_json(tmp_path / "run.json", run)
    files = {name: tmp_path / f"out.{name}" for name in ("json", "html", "markdown", "headline")}
    options = [part for name, file in files.items() for part in (f"--{name}", str(file))]
    assert main(["--from-json", str(tmp_path / "run.json"), *options]) == 0
    assert files["html"].read_text() == html
    assert files["json"].read_bytes() == (tmp_path / "run.json").read_bytes()
    assert (tmp_path / "out-plots" / "headline.svg").exists()
    assert "targets are met" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-json", "/no/such/file"], "cannot be read"),
        (["--from-json", "x", "--quick"], "leave --quick out"),
        (["--html", "/no/such/folder/x.html"], "--html: there is no folder /no/such/folder"),
    ],
)
def test_wrong_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_command_to_reproduce_has_no_files_and_no_passwords():
    given = ["--quick", "--only", "a", "b c", "--json", "x", "--html=y"]
    url = ["--postgres-url", "postgres://u:secret@h", "--redis-url=redis://:secret@h"]
    assert _command([*given, *url]) == (
        "python -m benchmarks --quick --only a 'b c' --postgres-url URL --redis-url URL"
    )
