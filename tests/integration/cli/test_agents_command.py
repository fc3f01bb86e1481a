"""`pgmem trace` and `pgmem digest`, run in this process."""

from __future__ import annotations

import json

import pytest

from pgmem import Event


@pytest.fixture
def command(pgmem, database_url, monkeypatch):
    """Return a function that runs `pgmem` on the test's database."""
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    return pgmem


@pytest.fixture
def asked(memory):
    """Write a question, a plan that follows from it, and two steps of the plan."""
    question = memory.events.append("chat", Event(type="question", payload="why?")).position
    with memory.context(agent_id="planner", cause=question):
        plan = memory.events.append("plans", Event(type="plan")).position
    with memory.context(cause=plan):
        memory.events.append("steps", [Event(type="step"), Event(type="step")])
    return plan


def test_trace_prints_the_tree(command, asked):
    code, out, err = command("trace", str(asked))
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["POSITION", "TIME", "AGENT", "STREAM", "EVENT", "PAYLOAD"]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3", "4"]
    assert [row[-2] for row in rows[1:]] == ["question", "<", "step", "step"]
    assert "    step" in out.splitlines()[3]


def test_trace_prints_json(command, asked):
    code, out, _ = command("trace", str(asked), "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(e["type"], e["depth"]) for e in events] == [
        ("question", 0), ("plan", 1), ("step", 2), ("step", 2),
    ]  # fmt: skip


def test_trace_says_what_is_missing(command, asked):
    code, out, err = command("trace", str(asked), "--limit", "2")
    assert (code, len(out.splitlines())) == (0, 3)
    assert "the tree is not complete" in err


def test_trace_of_nothing_is_an_error(command, memory):
    code, out, err = command("trace", "99")
    assert (code, out) == (1, "")
    assert err.startswith("pgmem: there is no event at position 99")


def test_digest_prints_text_and_the_next_position(command, memory):
    since = memory.state.put("order:1", {"status": "open"}).position
    memory.state.put("order:1", {"status": "paid"})
    memory.events.append("other", Event(type="noted"))
    code, out, err = command("digest", str(since), "--prefix", "order:")
    assert (code, err) == (0, "up to position 3\n")
    assert out.splitlines()[1] == '- order:1 changed by tester: $.status "open" -> "paid"'
    assert "other" in command("digest", str(since))[1]


def test_digest_prints_json(command, memory):
    memory.state.put("a", {"n": 1})
    memory.events.append("s", Event(type="noted"))
    code, out, _ = command("digest", "0", "--key", "a", "--stream", "s", "--json")
    found = json.loads(out)
    assert (code, found["position"]) == (0, 2)
    assert [(e["key"], e["fields"][0]["path"]) for e in found["entries"]] == [("a", "$")]
    assert [(n["stream"], n["total"], n["events"][0]["type"]) for n in found["streams"]] == [
        ("s", 1, "noted")
    ]


def test_digest_refuses_a_budget_that_is_too_small(command, memory):
    memory.state.put("a", 1)
    code, out, err = command("digest", "0", "--budget", "3")
    assert (code, out) == (1, "")
    assert err.startswith("pgmem: a budget of 3 is too small: the shortest digest takes ")
