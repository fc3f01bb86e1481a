"""Each pair of snippets in docs/reference/redis shows the same on a real Redis and in pgmem.

A pair is the two Python blocks below a heading of the second level, the one for Redis first. Each
runs on an empty server and shows what it says. What they show last is the same text.
"""

from __future__ import annotations

import contextlib
import doctest
import json
import re
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from pgmem import Event, Memory
from tests.integration.docs import examples
from tests.integration.docs.examples import Program

PAGES = sorted({*examples.REDIS_PAIRS.glob("*.md")} - {examples.REDIS_PAIRS / "index.md"})
_SECTION = re.compile(r"^## (?P<title>[^\n]+)$(?P<body>.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)


class Pair(NamedTuple):
    """The two halves of a section, as its blocks of Python."""

    page: Path
    halves: list[examples.Block]


def pairs() -> dict[str, Pair]:
    """Return the pairs of all pages, by their headings."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for section in _SECTION.finditer(text):
            above = text.count("\n", 0, section.start("body"))
            halves = [
                block._replace(line=block.line + above)
                for block in examples.blocks(section["body"])
            ]
            assert section["title"] not in found
            found[section["title"]] = Pair(page, halves)
    return found


PAIRS = pairs()


def results(block: examples.Block) -> list[str]:
    """Return what a block is said to show, in order."""
    return [example.want for example in doctest.DocTestParser().get_examples(block.source)]


@pytest.fixture
def r(redis_url):
    """The page's client."""
    with contextlib.closing(
        redis.Redis.from_url(redis_url, decode_responses=True, protocol=2)
    ) as client:
        yield client
        client.config_set("notify-keyspace-events", "")


@pytest.mark.parametrize("title", PAIRS)
def test_both_halves_show_what_the_page_says(title, r, database_url):
    where = f"{PAIRS[title].page.name}, {title}"
    names = {"json": json, "threading": threading, "time": time, "Event": Event, "Memory": Memory}
    theirs, ours = PAIRS[title].halves
    assert "memory." not in theirs.source
    with Program(where, database_url, names={**names, "r": r, "redis": redis}) as program:
        program.execute(theirs)
    with Program(where, database_url, names=names) as program:
        program.execute(ours)


@pytest.mark.parametrize("title", PAIRS)
def test_both_halves_end_in_the_same(title):
    last = [results(half)[-1] for half in PAIRS[title].halves]
    assert last[0] == last[1] != ""


def test_every_block_is_in_a_pair():
    assert all(len(pair.halves) == 2 for pair in PAIRS.values())
    blocks = sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES)
    assert blocks == 2 * len(PAIRS) > 60


def test_each_line_of_the_index_leads_to_its_pair():
    index = (examples.REDIS_PAIRS / "index.md").read_text(encoding="utf-8")
    places = set(re.findall(r"\[pair\]\(([^)]+)\)", index))
    assert places == {f"{pair.page.name}#{anchor(title)}" for title, pair in PAIRS.items()}


def anchor(title: str) -> str:
    """Return the anchor that GitHub and Sphinx give to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
