"""docs/redis-commands.md: each pair of snippets shows the same on a real Redis and here.

A pair is the two Python blocks below a heading of the third level, Redis' half first. Each runs on
an empty server, and shows what it says; what they show last is the same text.
"""

from __future__ import annotations

import contextlib
import doctest
import json
import re
import threading
import time
from typing import NamedTuple

import pytest
import redis

from pgmem import Event, Memory
from tests.docs import examples
from tests.docs.examples import Program

PAGE = examples.BESIDE_REDIS
TEXT = PAGE.read_text(encoding="utf-8")
_SECTION = re.compile(r"^### (?P<title>[^\n]+)$(?P<body>.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)


class Pair(NamedTuple):
    """The two halves of a section, as its blocks of Python."""

    title: str
    halves: list[examples.Block]


def pairs() -> dict[str, Pair]:
    found = {}
    for section in _SECTION.finditer(TEXT):
        above = TEXT.count("\n", 0, section.start("body"))
        halves = [
            block._replace(line=block.line + above) for block in examples.blocks(section["body"])
        ]
        found[section["title"]] = Pair(section["title"], halves)
    return found


PAIRS = pairs()


def results(block: examples.Block) -> list[str]:
    """What a block is said to show, in order."""
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
    where = f"{PAGE.name}, {title}"
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


def test_the_page_opens_both_servers_as_it_says(redis_url, database_url):
    block, *_ = examples.blocks(TEXT)
    names = {"redis_url": redis_url, "url": database_url}
    exec(compile(block.source, PAGE.name, "exec"), names)
    names["memory"].close()
    names["r"].close()


def test_every_block_is_in_a_pair():
    assert all(len(pair.halves) == 2 for pair in PAIRS.values())
    assert TEXT.count("```python") == 1 + 2 * len(PAIRS)


def test_each_line_of_the_table_leads_to_its_pair():
    anchors = set(re.findall(r"\[pair\]\(#([^)]+)\)", TEXT))
    assert anchors == {anchor(title) for title in PAIRS}


def anchor(title: str) -> str:
    """The anchor that a heading has on the usual sites."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
