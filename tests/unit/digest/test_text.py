"""The text of a digest: its order, its budget, and what it says of the rest."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from pgmem import RecordedEvent
from pgmem.digest.models import ChangedEntry, StreamNews
from pgmem.digest.text import write_text
from pgmem.errors import InvalidInput
from pgmem.state.fields import ABSENT, changed_fields

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(key, before, after, position, *, agents=(), certain=True):
    fields = list(changed_fields(before, after))
    plain = [None if value is ABSENT else value for value in (before, after)]
    existed, exists = before is not ABSENT, after is not ABSENT
    return ChangedEntry(
        key, *plain, existed, exists, fields, 1, 2, position, agents, certain
    )  # fmt: skip


def event(stream, position, payload=None, agent=None):
    return RecordedEvent(position, stream, None, "noted", payload, agent, None, NOW)


def write(entries=(), streams=(), budget=2_000, count=len, changed=None):
    changed = len(entries) if changed is None else changed
    return write_text(5, list(entries), list(streams), changed=changed, budget=budget, count=count)


def test_each_kind_of_change_has_its_words():
    entries = [
        entry("a", {"s": 1, "gone": [1], "l": [1]}, {"s": 2, "new": {}, "l": [1, 2]}, 19),
        entry("b", ABSENT, {"x": 1}, 18, agents=["planner", "critic"]),
        entry("c", 7, ABSENT, 17, agents=["critic"]),
        entry("d", ABSENT, ABSENT, 16),
        entry("e", 1, 1, 15),
        entry("f", ABSENT, 3, 14, certain=False),
        entry("g", ABSENT, ABSENT, 13, certain=False),
    ]
    assert write(entries).text.splitlines() == [
        "Changes since position 5:",
        "- a changed: $.s 1 -> 2; $.new added {}; $.l[1] added 2; $.gone removed, was [1]",
        '- b created by planner, critic: {"x":1}',
        "- c is gone by critic, was 7",
        "- d was created and is gone",
        "- e changed and changed back",
        "- f changed: is 3",
        "- g is gone",
    ]


def test_events_stand_by_stream_newest_first():
    news = [StreamNews("s", [event("s", 9, {"n": 1}, "a"), event("s", 6)], 4)]
    news.append(StreamNews("t", [event("t", 8, "x")], 1))
    written = write(streams=news)
    assert written.text.splitlines() == [
        "Changes since position 5:",
        "s:",
        '- [9] noted by a: {"n":1}',
        "- [6] noted",
        "t:",
        '- [8] noted: "x"',
        "Left out: 0 changed entries, 2 events.",
    ]
    assert written[1:] == (0, 2)


def test_without_changes_it_says_so():
    assert write() == ("Changes since position 5:\nNone.", 0, 0)


def test_new_and_large_changes_come_first():
    entries = [entry(f"k{n}", "a" * 10, "b" * (150 if n == 3 else 10), n) for n in range(10, 0, -1)]
    text = write(entries, budget=480).text
    assert "- k10 " in text  # the newest
    assert "- k3 " in text  # the largest
    assert "- k1 " not in text


@pytest.mark.parametrize(
    "count", [len, lambda text: len(text.split()), lambda text: len(text) ** 2]
)
def test_the_text_keeps_any_budget_and_counts_the_rest(count):
    rng = random.Random(7)
    for _ in range(200):
        entries = [
            entry(f"k{n}", {"v": n}, {"v": "x" * rng.randrange(400)}, 1000 - n)
            for n in range(rng.randrange(12))
        ]
        news = [
            StreamNews(
                s, [event(s, 900 - n * 10 - i, "y" * n) for n in range(6)], 6 + rng.randrange(9)
            )
            for i, s in enumerate("ab")
        ]
        least = count(write([], []).text) * 4 + 100
        budget = least + rng.randrange(count("x" * 1_500))
        written = write(entries, news, budget=budget, count=count)
        assert count(written.text) <= budget
        lines = written.text.splitlines()
        shown = sum(line.startswith("- k") for line in lines)
        assert written.entries_left_out == len(entries) - shown
        assert written.events_left_out == sum(n.total for n in news) - sum(
            line.startswith("- [") for line in lines
        )
        assert written == write(entries, news, budget=budget, count=count)


def test_entries_beyond_the_limit_are_counted():
    written = write([entry("k", 1, 2, 9)], changed=12_000)
    assert written.text.endswith("Left out: 11999 changed entries, 0 events.")
    assert written.entries_left_out == 11_999


def test_long_values_are_cut():
    text = write([entry("k", ABSENT, "x" * 5_000, 9)]).text
    assert len(text) < 300
    assert text.endswith("…")


def test_a_budget_that_no_text_fits_is_refused():
    with pytest.raises(
        InvalidInput, match="a budget of 10 is too small: the shortest digest takes"
    ):
        write([entry("k", 1, 2, 9)], budget=10)
