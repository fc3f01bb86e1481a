"""A run as Markdown, with its plots as SVG files in a folder beside it.

The order is that of the page. What people wrote about a run is not here: see `NOTES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from benchmarks.report.axis import Drawing
from benchmarks.report.chart import charts
from benchmarks.report.content import (
    INSTALL,
    KIND_TITLES,
    METHOD,
    PROMISES,
    TIER_TITLES,
    Answer,
    Content,
    Section,
    code_spans,
    figure,
    spread,
    whose,
)
from benchmarks.report.forest import headline

NOTES = "NOTES.md"
"""What was tried where a target is missed: beside the file, if it is there."""
SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$])")


def write_markdown(file: Path, content: Content) -> None:
    """Write the file, and its plots into a folder that holds nothing else."""
    folder = file.with_name(f"{file.stem}-plots")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    plots = _Plots(folder)
    text = "\n".join(_lines(content, plots, (file.parent / NOTES).exists()))
    file.write_text(f"{text}\n", encoding="utf-8")


class _Plots:
    """Writes plots, and gives the lines that show them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def add(self, name: str, drawing: Drawing) -> str:
        """Write a plot; gives the line that shows it."""
        stem = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-").lower() or "plot"
        while stem in self._names:
            stem += "-2"
        self._names.add(stem)
        (self._folder / f"{stem}.svg").write_text(drawing.alone(), encoding="utf-8")
        return f"![{_escaped(drawing.title)}]({quote(self._folder.name)}/{stem}.svg)\n"


def _lines(content: Content, plots: _Plots, notes: bool) -> Iterator[str]:
    yield "# Results\n"
    yield "Made by `python -m benchmarks --markdown`; do not edit it by hand." + (
        f" What was tried where a target\nis missed, and what changed what: [{NOTES}]({NOTES}).\n"
        if notes
        else "\n"
    )
    yield f"**{_escaped(content.summary())}** {content.met()} targets are met.\n"
    if content.headline():
        yield plots.add("headline", headline(content))
    yield from _verdict(content)
    for name, sections in content.groups.items():
        yield f"## {_escaped(name)}\n"
        for section in sections:
            yield from _scenario(section, plots)
    yield from _facts(content)


def _verdict(content: Content) -> Iterator[str]:
    if content.compared:
        yield "## Beside Redis done right, at the equal promise\n"
        yield from _table(
            ["scenario", "promise", "pgmem is", "ratio (95 %)", "target", "compared"],
            map(_compared, content.compared),
        )
    if content.targets:
        yield "## Targets\n"
        yield from _table(
            ["scenario", "asked", "figure (95 %)", "target", ""],
            (
                [a.scenario.name, a.verdict.question, a.ratio, a.verdict.target, a.outcome]
                for a in content.targets
            ),
        )
    yield "## What was wrong\n"
    headings, rows = content.correctness()
    yield "Counted from what the stores hold and the readers got, in all rounds.\n"
    yield from _table(headings, rows, "l" + "r" * (len(headings) - 1))
    if content.wrong:
        yield from _table(
            ["scenario", "arm", "whose", "wrong"],
            (
                [scenario.name, arm.name, KIND_TITLES[arm.kind], text]
                for scenario, arm, text in content.wrong
            ),
        )
    if content.run.missing:
        yield "## What is not measured, and why\n"
        for what, why in content.run.missing.items():
            yield f"- **{_escaped(what)}**: {_note(why)}"
        yield ""


def _compared(answer: Answer) -> list[str]:
    return [
        f"{answer.scenario.name}{answer.figure}",
        TIER_TITLES[answer.arm.tier],
        f"{answer.verdict.standing}: {answer.in_words}",
        answer.ratio,
        answer.verdict.target or "–",
        answer.verdict.question,
    ]


def _scenario(section: Section, plots: _Plots) -> Iterator[str]:
    scenario = section.scenario
    if scenario.name != section.group:
        yield f"### {_escaped(scenario.name)}\n"
    yield f"{_escaped(scenario.title)}; {scenario.rounds} rounds\n"
    for number, (wide, _) in enumerate(charts(section.result)):
        yield plots.add(scenario.name + ("-rounds" if number else ""), wide)
    yield from _table(
        ["arm", "promise", "wrong", *section.headings, "what it is"],
        (
            [
                row.arm.name,
                TIER_TITLES[row.arm.tier],
                row.wrong,
                *row.cells,
                f"{row.arm.note}{whose(row.arm)}",
            ]
            for row in section.rows
        ),
        "lll" + "r" * len(section.headings),
    )
    if section.answers:
        yield from _table(
            ["asked", "figure (95 %)", "pgmem is", "target", ""],
            (
                [
                    answer.verdict.question,
                    answer.ratio,
                    answer.in_words if answer.told else "",
                    answer.verdict.target,
                    answer.outcome,
                ]
                for answer in section.answers
            ),
        )
    yield from _further(section)


def _further(section: Section) -> Iterator[str]:
    if section.further:
        names = [arm.name for arm in section.scenario.arms]
        yield "<details><summary>Further figures: medians of the rounds (95 %)</summary>\n"
        yield from _table(
            ["figure", *names],
            (
                [name, *(spread(found[arm], figure) if arm in found else "–" for arm in names)]
                for name, found in section.further.items()
            ),
            "l" + "r" * len(names),
        )
        yield "</details>\n"


def _facts(content: Content) -> Iterator[str]:
    run = content.run
    yield "## What it ran on\n"
    if run.taken:
        yield f"{_escaped(run.taken)}\n"
    for title, facts in run.facts.items():
        yield from _table([title, ""], ([name, value or '""'] for name, value in facts.items()))
    yield "## What each promise means\n"
    yield from _table(
        ["promise", "pgmem", "Redis", "what an acknowledged write survives"], PROMISES
    )
    yield "## How it was measured\n"
    for text in METHOD:
        yield f"- {_escaped(text)}"
    yield "\n## How to reproduce it\n"
    yield "In a copy of the project, with Python 3.11 or newer:\n"
    yield f"```sh\n{INSTALL}\n.venv/bin/{run.command or 'python -m benchmarks'}\n```"


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], aligned: str = ""
) -> Iterator[str]:
    """A table; `aligned` has an "l" or "r" for each column, "l" where it ends."""
    marks = ["---:" if mark == "r" else "---" for mark in aligned.ljust(len(headings), "l")]
    yield f"| {' | '.join(map(_escaped, headings))} |"
    yield f"|{'|'.join(marks)}|"
    for row in rows:
        yield f"| {' | '.join(map(_note, row))} |"
    yield ""


def _note(text: str) -> str:
    """Text with its code; a bar would end a cell even there."""
    return "".join(
        f"`{_plain(part).replace('|', chr(92) + '|')}`" if is_code else _escaped(part)
        for is_code, part in code_spans(text)
    )


def _escaped(text: str) -> str:
    """Text that means nothing else in Markdown and in HTML."""
    found = SPECIAL.sub(r"\\\1", _plain(text))
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(text: str) -> str:
    """In one line."""
    return " ".join(text.split())
