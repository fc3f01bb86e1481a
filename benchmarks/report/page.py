"""A run as one HTML file: it loads nothing, runs nothing, and reads the same on a phone.

Each chart is there in two widths, of which the style shows one: letters stay as large as the
text around them. Tables that are too wide scroll in a box of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Scenario
from benchmarks.report.axis import NARROW, STYLE, WIDE, Drawing, key, looks
from benchmarks.report.chart import charts
from benchmarks.report.content import (
    INSTALL,
    KIND_TITLES,
    METHOD,
    PROMISES,
    STANDINGS,
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
from benchmarks.report.markup import Markup, element, joined

PAGE_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
TITLE = "pgmem beside Redis: the comparison"


def page(content: Content) -> str:
    """The whole file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", TITLE),
        element("style", Markup(STYLE + PAGE_STYLE)),
    )
    body = element(
        "body",
        element("header", element("h1", TITLE), _taken(content)),
        element(
            "main",
            *_verdict(content),
            *_contents(content),
            *(_group(name, sections) for name, sections in content.groups.items()),
            *_facts(content),
        ),
        element("footer", element("p", "Made by ", _code("python -m benchmarks"), ".")),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _taken(content: Content) -> Markup:
    machine = content.run.facts.get("machine", {})
    named = ("processor", "cores", "fsync of 8 kB")
    told = [f"{name} {machine[name]}" for name in named if name in machine]
    text = "; ".join([*([content.run.taken] if content.run.taken else []), *told])
    return element("p", text, class_="soft")


def _verdict(content: Content) -> Iterator[Markup]:
    yield element("p", content.summary(), class_="lead")
    yield _tiles(content)
    if content.headline():
        yield _both(headline(content, WIDE), headline(content, NARROW))
    if content.compared:
        yield element("h2", "Beside Redis done right, at the equal promise", id="verdict")
        yield element(
            "p",
            "All of them, also the further percentiles that were asked for. The best are first; "
            "level means that the interval of the ratio holds 1.",
        )
        yield _table(
            ["scenario", "pgmem is", "promise", "ratio (95 %)", "target", "compared"],
            [_compared(answer) for answer in content.compared],
            {0: "a", **dict.fromkeys(range(1, 6), "k"), 3: "n"},
        )
    yield from _targets(content)
    yield from _wrong(content)
    yield from _missing(content.run.missing)


def _tiles(content: Content) -> Markup:
    tiles = [element("li", element("b", str(content.standing(s))), s, class_=s) for s in STANDINGS]
    tiles.append(element("li", element("b", content.met()), "targets met"))
    ours = sum(arm.kind == "pgmem" for _, arm, _ in content.wrong)
    others = f"and {len(content.wrong) - ours} of the others"
    count = element("b", str(ours))
    tiles.append(
        element(
            "li",
            count,
            "arms of pgmem wrong",
            element("small", others),
            class_="bad" if ours else "",
        )
    )
    return element("ul", *tiles, class_="tiles")


def _wrong(content: Content) -> Iterator[Markup]:
    headings, rows = content.correctness()
    yield element("h2", "What was wrong")
    yield element("p", "Counted from what the stores hold and the readers got, in all rounds.")
    yield _table(headings, rows, {0: "a", **dict.fromkeys(range(1, len(headings)), "n")})
    if content.wrong:
        table = _table(
            ["scenario", "arm", "whose", "wrong"],
            [
                [
                    _link(scenario),
                    arm.name,
                    KIND_TITLES[arm.kind],
                    element("span", text, class_="bad"),
                ]
                for scenario, arm, text in content.wrong
            ],
            {0: "a", 1: "k", 2: "k", 3: "k"},
        )
        summary = element("summary", f"Where: {len(content.wrong)} arms")
        yield element("details", summary, table, class_="more")


def _missing(missing: Mapping[str, str]) -> Iterator[Markup]:
    if missing:
        yield element("h2", "What is not measured, and why")
        yield element(
            "ul",
            *(element("li", element("b", what), ": ", _note(why)) for what, why in missing.items()),
        )


def _targets(content: Content) -> Iterator[Markup]:
    missed = [answer for answer in content.targets if not answer.verdict.met]
    yield element("h2", "Targets", id="targets")
    if not content.targets:
        yield element("p", "None of these scenarios has a target.")
        return
    yield element("p", f"{content.met()} are met. What is missed:" if missed else "All are met.")
    if missed:
        yield _target_table(missed)
    met = [answer for answer in content.targets if answer.verdict.met]
    if met:
        table = _target_table(met)
        yield element(
            "details", element("summary", f"The {len(met)} that are met"), table, class_="more"
        )


def _target_table(answers: Sequence[Answer]) -> Markup:
    return _table(
        ["scenario", "asked", "figure (95 %)", "target", ""],
        [
            [
                _link(answer.scenario),
                answer.verdict.question,
                answer.ratio,
                answer.verdict.target,
                _outcome(answer),
            ]
            for answer in answers
        ],
        {0: "a", 1: "k", 2: "n", 3: "k", 4: "k"},
    )


def _compared(answer: Answer) -> list[str]:
    standing = answer.verdict.standing or ""
    told = _tag("wrong" if answer.wrong else standing, f"{standing}: {answer.in_words}")
    return [
        joined([_link(answer.scenario), answer.figure]),
        told,
        TIER_TITLES[answer.arm.tier],
        answer.ratio,
        answer.verdict.target or "–",
        answer.verdict.question,
    ]


def _outcome(answer: Answer) -> Markup:
    outcome, comma, doubt = answer.outcome.partition(",")
    tag = _tag("met" if answer.verdict.met else "missed", outcome)
    return joined([tag, element("span", comma, doubt, class_="soft")]) if comma else tag


def _contents(content: Content) -> Iterator[Markup]:
    items = []
    for name, sections in content.groups.items():
        if len(sections) > 1:
            items.append(element("li", name, class_="group"))
        items += [element("li", _link(section.scenario), *_tags(section)) for section in sections]
    items.append(element("li", element("a", "What it ran on", href="#facts")))
    yield element("h2", "Contents")
    yield element("nav", element("ul", *items), aria_label="Contents")


def _tags(section: Section) -> Iterator[Markup]:
    """The standing of a scenario's main figures, by promise."""
    for answer in section.main:
        if answer.verdict.standing is not None:
            text = f"{answer.arm.tier}: {answer.verdict.standing}"
            yield joined([" ", _tag(answer.verdict.standing, text)])
    arms = section.scenario.arms
    for kind in dict.fromkeys(arm.kind for arm in arms if section.result.faults[arm.name]):
        yield joined([" ", _tag("wrong" if kind == "pgmem" else "faulty", f"{kind} wrong")])


def _group(name: str, sections: Sequence[Section]) -> Markup:
    alone = [section.scenario.name for section in sections] == [name]
    return element(
        "section",
        *([] if alone else [element("h2", name)]),
        *(_scenario(section) for section in sections),
        aria_label=name,
    )


def _scenario(section: Section) -> Markup:
    scenario, result = section.scenario, section.result
    return element(
        "details",
        element(
            "summary",
            element("h3", scenario.name),
            *_tags(section),
        ),
        element("p", scenario.title, f"; {scenario.rounds} rounds"),
        *(_both(wide, narrow) for wide, narrow in charts(result)),
        _arms(section),
        *([_answers(section)] if section.answers else []),
        *_further(section),
        id=anchor(scenario),
        class_="scenario",
        open="open",
    )


def _arms(section: Section) -> Markup:
    look = looks(section.scenario)
    rows = []
    for row in section.rows:
        picture = element(
            "svg",
            key(look[row.arm.name], 0, 7),
            class_="key",
            viewBox="0 0 30 14",
            aria_hidden="true",
        )
        wrong = element("span", row.wrong, class_="bad") if row.wrong != "0" else row.wrong
        what = element("small", _note(row.arm.note), whose(row.arm))
        name = joined([picture, row.arm.name, what])
        rows.append([name, TIER_TITLES[row.arm.tier], wrong, *row.cells])
    headings = ["arm", "promise", "wrong", *section.headings]
    numbers = dict.fromkeys(range(3, len(headings)), "n")
    looked = {0: "a what", 1: "k", 2: "k", **numbers}
    return _table(headings, rows, looked)


def _answers(section: Section) -> Markup:
    items = []
    for answer in section.answers:
        parts: list[str] = [answer.verdict.question, ": ", element("b", answer.ratio)]
        if answer.told:
            standing = answer.verdict.standing or ""
            parts += [" ", _tag("wrong" if answer.wrong else standing, answer.in_words)]
        if answer.verdict.target:
            parts += [", target ", answer.verdict.target, " ", _outcome(answer)]
        items.append(element("li", *parts))
    return element("ul", *items, class_="answers")


def _further(section: Section) -> Iterator[Markup]:
    if section.further:
        names = [arm.name for arm in section.scenario.arms]
        rows = [
            [name, *(spread(found[arm], figure) if arm in found else "–" for arm in names)]
            for name, found in section.further.items()
        ]
        numbers = dict.fromkeys(range(1, 1 + len(names)), "n")
        yield element(
            "details",
            element("summary", "Further figures: medians of the rounds (95 %)"),
            _table(["figure", *names], rows, {0: "a", **numbers}),
            class_="more",
        )


def _facts(content: Content) -> Iterator[Markup]:
    run = content.run
    yield element("h2", "What it ran on", id="facts")
    yield element(
        "div",
        *(element("div", element("h3", title), _list(facts)) for title, facts in run.facts.items()),
        class_="facts",
    )
    yield element("h2", "What each promise means")
    yield _table(
        ["promise", "pgmem", "Redis", "what an acknowledged write survives"],
        [list(map(str, promise)) for promise in PROMISES],
        {0: "k", 1: "w", 2: "w", 3: "w"},
    )
    yield element("h2", "How it was measured")
    yield element("ul", *(element("li", text) for text in METHOD))
    yield element("h2", "How to reproduce it")
    yield element("p", "In a copy of the project, with Python 3.11 or newer:")
    yield element("pre", f"{INSTALL}\n.venv/bin/{run.command or 'python -m benchmarks'}")


def _list(facts: Mapping[str, str]) -> Markup:
    items = [(element("dt", name), element("dd", value or '""')) for name, value in facts.items()]
    return element("dl", *(part for item in items for part in item))


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], looked: Mapping[int, str]
) -> Markup:
    """A table in a box of its own, in which it scrolls where it is too wide.

    Args:
        headings: of the columns.
        rows: their first cell names them.
        looked: classes of columns, by number.
    """
    head = [
        element("th", text, scope="col", class_=looked.get(number))
        for number, text in enumerate(headings)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row", class_=looked.get(0)),
            *(
                element("td", cell, class_=looked.get(number))
                for number, cell in enumerate(row[1:], 1)
            ),
        )
        for row in rows
    ]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    # With a keyboard, only what has the focus can be scrolled.
    return element("div", table, class_="box", tabindex="0", role="group", aria_label="table")


def _both(wide: Drawing, narrow: Drawing) -> Markup:
    return joined([wide.inline(), narrow.inline()])


def anchor(scenario: Scenario) -> str:
    """Where a scenario is on the page."""
    return "s-" + re.sub(r"[^\w/]", lambda found: f".{ord(found[0]):x}", scenario.name)


def _link(scenario: Scenario) -> Markup:
    return element("a", scenario.name, href=f"#{anchor(scenario)}")


def _tag(look: str, text: str) -> Markup:
    return element("span", text, class_=f"tag {look}")


def _code(text: str) -> Markup:
    return element("code", text)


def _note(text: str) -> Markup:
    return joined(_code(part) if is_code else part for is_code, part in code_spans(text))
