"""Write a report as Markdown with its plots beside it, or as one HTML page that loads nothing.

The page is the Markdown, rendered. So both say the same.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from markdown_it import MarkdownIt

from benchmarks.harness import Arm
from benchmarks.report.charts import Plot, charts, headline
from benchmarks.report.content import KIND_TITLES, Content, Section, spread

FOLDER = Path(__file__).parent
TITLE = "pgmem beside Redis: the comparison"
NOTES = "NOTES.md"
"""What was tried where a target is missed; linked if it is beside the Markdown file."""
QUICK = (
    "A quick run: few and short rounds, so the intervals are wide and no figure is worth quoting. "
    "Leave out --quick for figures."
)
SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$])")
MARKED = re.compile(r"(ahead|level|behind|met|missed)\b")
"""A table cell that begins with one of these words gets it as its class."""
BOX = '<div class="box" tabindex="0" role="group" aria-label="{}">'
"""What is too wide scrolls in a box; only a box that can have the focus scrolls by keyboard."""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def write_markdown(file: Path, content: Content) -> None:
    """Write the Markdown file, and its plots into a folder that holds nothing else."""
    folder = file.with_name(f"{file.stem}-plots")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    document = _Document(content, quote(folder.name))
    notes = ""
    if (file.parent / NOTES).exists():
        notes = f" What was tried where a target is missed: [{NOTES}]({NOTES})."
    made = f"Made by `python -m benchmarks --markdown`; do not edit it by hand.{notes}\n"
    text = "\n".join(["# Results\n", made, *document.lines()])
    file.write_text(f"{text}\n", encoding="utf-8")
    for name, svg in document.plots.items():
        (folder / name).write_text(svg, encoding="utf-8")


def page(content: Content) -> str:
    """Return the report as one HTML file that contains its plots."""
    document = _Document(content, "plots")
    # HTML is let through for <details>; `_escaped` escapes all text from a run.
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = markdown.parse("\n".join([f"# {TITLE}\n", *document.lines()]))
    for before, token in itertools.pairwise(tokens):
        children = token.children or []
        if before.type == "heading_open":
            text = "".join(child.content for child in children if child.type == "text")
            before.attrSet("id", _slug(text))
        elif before.type == "td_open" and (word := MARKED.match(token.content)):
            before.attrSet("class", word[1])
        elif before.type == "th_open":
            before.attrSet("scope", "col")
        for image in (child for child in children if child.type == "image"):
            svg = document.plots[str(image.attrGet("src")).removeprefix("plots/")]
            data = base64.b64encode(svg.encode()).decode()
            image.attrSet("src", f"data:image/svg+xml;base64,{data}")
    body = markdown.renderer.render(tokens, markdown.options, {})
    body = body.replace("<table>", f"{BOX.format('table')}<table>")
    body = body.replace("</table>", "</table></div>")
    body = re.sub(r"<p>(<img [^>]*>)</p>", rf"{BOX.format('chart')}\1</div>", body)
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    return PAGE.format(title=TITLE, style=style, body=body)


class _Markdown(str):
    """Mark text that is Markdown already."""

    __slots__ = ()


class _Document:
    """Write the lines of a report in Markdown, and draw the plots that they show.

    Attributes:
        plots: the SVG text by file name; `lines` fills it.
    """

    def __init__(self, content: Content, folder: str) -> None:
        self.plots: dict[str, str] = {}
        self._content = content
        self._folder = folder

    def lines(self) -> Iterator[str]:
        content = self._content
        yield from _summary(content)
        if content.headline():
            yield self._plot("headline", headline(content))
        yield from _verdict(content)
        yield from _contents(content)
        for name, sections in content.groups.items():
            yield f"## {_escaped(name)}\n"
            for each in sections:
                scenario = each.scenario
                if scenario.name != name:
                    yield f"### {_escaped(scenario.name)}\n"
                yield f"{_escaped(scenario.title)}; {scenario.rounds} rounds\n"
                for number, plot in enumerate(charts(each.result)):
                    yield self._plot(scenario.name + ("-rounds" if number else ""), plot)
                yield from _scenario(each)
        yield from _facts(content)

    def _plot(self, name: str, plot: Plot) -> str:
        """Keep a plot, and return the line that shows it."""
        stem = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-").lower() or "plot"
        while f"{stem}.svg" in self.plots:
            stem += "-2"
        self.plots[f"{stem}.svg"] = plot.svg()
        return f"![{_escaped(plot.title)}]({self._folder}/{stem}.svg)\n"


def _summary(content: Content) -> Iterator[str]:
    machine = content.run.facts.get("machine", {})
    named = (name for name in ("processor", "cores", "fsync of 8 kB") if name in machine)
    yield _escaped("; ".join([content.run.taken, *(f"{name} {machine[name]}" for name in named)]))
    if content.quick:
        yield f"\n> **{QUICK}**"
    ours = sum(arm.kind == "pgmem" for _, arm in content.wrong)
    yield (
        f"\n**{content.summary()}** {content.met()} Arms with a wrong result: {ours} of pgmem, "
        f"{len(content.wrong) - ours} of the others.\n"
    )


def _verdict(content: Content) -> Iterator[str]:
    if content.compared:
        yield "## Beside Redis done right, at the equal promise\n"
        yield (
            "The best first. Below 1 pgmem is faster, in every row. Level means that the interval "
            "of the ratio contains 1.\n"
        )
        yield from _table(
            ["scenario", "promise", "pgmem is", "ratio (95 %)", "target", "compared"],
            (
                [
                    _link(answer.scenario.name),
                    answer.arm.tier or "–",
                    answer.in_words,
                    answer.ratio,
                    answer.verdict.target or "–",
                    answer.verdict.question,
                ]
                for answer in content.compared
            ),
        )
    if content.targets:
        yield "## Targets\n"
        yield from _table(
            ["scenario", "asked", "figure (95 %)", "target", ""],
            (
                [_link(a.scenario.name), a.verdict.question, a.ratio, a.verdict.target, a.outcome]
                for a in content.targets
            ),
        )
    yield "## What was wrong\n"
    yield "Counted from what the stores hold and the readers got, in all rounds.\n"
    headings, rows = content.correctness()
    yield from _table(headings, rows, range(1, len(headings)))
    if content.wrong:
        yield from _table(
            ["scenario", "arm", "code", "wrong"],
            (
                [_link(each.scenario.name), arm.name, KIND_TITLES[arm.kind], _wrong(each, arm.name)]
                for each, arm in content.wrong
            ),
        )
    if content.run.missing:
        yield "## What is not measured, and why\n"
        for what, why in content.run.missing.items():
            yield f"- **{_escaped(what)}**: {_note(why)}"
        yield ""


def _contents(content: Content) -> Iterator[str]:
    yield "## Contents\n"
    for name, sections in content.groups.items():
        links = ", ".join(_link(each.scenario.name) for each in sections)
        alone = [each.scenario.name for each in sections] == [name]
        yield f"- {links if alone else f'{_link(name)}: {links}'}"
    yield f"- {_link('What it ran on')}\n"


def _scenario(each: Section) -> Iterator[str]:
    arms, columns = each.scenario.arms, each.columns
    yield from _table(
        ["arm", "promise", "wrong", *columns],
        (
            [
                _described(arm),
                arm.tier or "–",
                _wrong(each, arm.name),
                *(column.get(arm.name, "–") for column in columns.values()),
            ]
            for arm in arms
        ),
        range(3, 3 + len(columns)),
    )
    if each.answers:
        yield from _table(
            ["asked", "figure (95 %)", "pgmem is", "target", ""],
            (
                [a.verdict.question, a.ratio, a.in_words, a.verdict.target, a.outcome]
                for a in each.answers
            ),
        )
    if each.further:
        yield "<details><summary>Further figures: medians of the rounds (95 %)</summary>\n"
        yield from _table(
            ["figure", *(arm.name for arm in arms)],
            (
                [name, *(spread(found[a.name]) if a.name in found else "–" for a in arms)]
                for name, found in each.further.items()
            ),
            range(1, 1 + len(arms)),
        )
        yield "</details>\n"


def _described(arm: Arm) -> _Markdown:
    note = arm.note + ("" if arm.kind == "pgmem" else f" ({KIND_TITLES[arm.kind]})")
    return _Markdown(_escaped(arm.name) + (f"<br><small>{_note(note)}</small>" if note else ""))


def _wrong(each: Section, arm: str) -> str:
    text = each.wrong(arm)
    return text if text == "0" else _Markdown(f"**{text}**")


def _facts(content: Content) -> Iterator[str]:
    yield "## What it ran on\n"
    for title, facts in content.run.facts.items():
        yield from _table([title, ""], ([name, value or '""'] for name, value in facts.items()))
    yield (FOLDER / "method.md").read_text(encoding="utf-8").rstrip()
    yield f".venv/bin/{content.run.command or 'python -m benchmarks'}\n```"


def _table(
    headings: Sequence[str], rows: Iterable[Iterable[str]], numbers: Sequence[int] = ()
) -> Iterator[str]:
    """Lay out a table; columns of `numbers` are aligned to the right."""
    sides = ("---:" if column in numbers else "---" for column in range(len(headings)))
    yield f"| {' | '.join(map(_escaped, headings))} |"
    yield f"|{'|'.join(sides)}|"
    for row in rows:
        cells = (cell if isinstance(cell, _Markdown) else _escaped(cell) for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _link(heading: str) -> _Markdown:
    return _Markdown(f"[{_escaped(heading)}](#{_slug(heading)})")


def _slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _note(text: str) -> _Markdown:
    """Return text as Markdown, with its code, which stands between backquotes."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # an unpaired backquote is an ordinary character
        return _Markdown(_escaped(text))
    # A bar would end a table's cell even within code.
    return _Markdown(
        "".join(
            f"`{part.replace('|', chr(92) + '|')}`" if number % 2 else _escape(part)
            for number, part in enumerate(parts)
            if part
        )
    )


def _escaped(text: str) -> str:
    """Return text in one line and without a meaning in Markdown and HTML."""
    return _escape(" ".join(text.split()))


def _escape(text: str) -> str:
    found = SPECIAL.sub(r"\\\1", text)
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
