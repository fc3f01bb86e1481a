"""`state.blame` on a server: whose change each field is, through every kind of write."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from pgmem import Event
from pgmem.errors import InvalidInput
from tests.support.both import context


@pytest.fixture
def command(pgmem, database_url, monkeypatch):
    """Return a function that runs `pgmem state` on the test's database."""
    monkeypatch.setenv("PGMEM_DATABASE_URL", database_url)
    return lambda *arguments: pgmem("state", *arguments)


def told(fields):
    return [(field.path, field.version, field.agent_id) for field in fields]


async def test_each_field_has_its_last_change(both):
    receipt = await both.events.append("goals", Event(type="set"))
    with context(both, agent_id="planner", run_id="r1", cause=receipt.position):
        await both.state.put("plan", {"goal": "ship", "steps": ["write", "test"]})
    with context(both, agent_id="critic"):
        await both.state.update("plan", lambda plan: {**plan, "steps": ["write", "prove"]})
    goal, first, second = fields = await both.state.blame("plan")
    assert told(fields) == [
        ("$.goal", 1, "planner"), ("$.steps[0]", 1, "planner"), ("$.steps[1]", 2, "critic"),
    ]  # fmt: skip
    assert (goal.run_id, goal.cause, goal.existed) == ("r1", receipt.position, False)
    assert (second.before, second.value, second.existed) == ("test", "prove", True)
    event = await both.events.get(second.position)
    assert (event.recorded_at, event.type) == (second.recorded_at, second.type)
    assert told(await both.state.blame("plan", depth=1)) == [
        ("$.goal", 1, "planner"), ("$.steps", 2, "critic"),
    ]  # fmt: skip
    assert told(await both.state.blame("plan", depth=0)) == [("$", 2, "critic")]
    assert first.certain


async def test_an_event_of_the_writers_own_is_named(both):
    event = Event(type="budgeted", payload={"why": "sale"}, agent_id="cfo")
    written = await both.state.put("budget", {"eur": 5}, event=event)
    (field,) = await both.state.blame("budget")
    assert (field.type, field.agent_id, field.position) == ("budgeted", "cfo", written.position)
    assert field.value == 5


async def test_increments_and_renewed_ends_are_followed(both):
    await both.state.increment("n", 1)
    await both.state.touch("n", ttl=60)
    entry = await both.state.increment("n", 2)
    (field,) = await both.state.blame("n")
    assert (field.path, field.value, field.before, field.version) == ("$", 3, 1, entry.version)
    assert field.certain


async def test_what_was_deleted_or_has_expired_counts_no_more(both):
    await both.state.put("k", {"a": 1})
    await both.state.delete("k")
    assert await both.state.blame("k") == []
    await both.state.put("k", {"a": 1}, ttl=0.01)
    await asyncio.sleep(0.02)
    assert await both.state.blame("k") == []
    entry = await both.state.put("k", {"a": 1})
    (field,) = await both.state.blame("k")
    assert (field.version, field.existed, field.certain) == (entry.version, False, True)


async def test_unrecorded_and_trimmed_changes_leave_doubt(both):
    await both.state.put("k", {"a": 1, "b": 1}, record=False)
    (a, b) = await both.state.blame("k")
    assert (a.position, a.certain, b.position) == (None, False, None)
    await both.state.put("k", {"a": 1, "b": 2})
    await both.state.put("k", {"a": 1, "b": 3})
    (a, b) = await both.state.blame("k")
    assert (a.version, a.certain, b.version, b.certain) == (2, False, 3, True)
    await both.retention.trim("state:k", max_events=1)
    (a, b) = await both.state.blame("k")
    assert (a.version, a.certain, b.version, b.certain) == (3, False, 3, False)


async def test_it_works_in_a_transaction(both):
    async with both.transaction() as tx:
        await tx.state.put("k", {"a": 1})
        assert told(await tx.state.blame("k")) == [("$.a", 1, "tester")]


async def test_more_changes_than_a_page_are_read(both, monkeypatch):
    monkeypatch.setattr("pgmem.core.paging.PAGE", 3)
    for number in range(8):
        await both.state.put("k", {"a": min(number, 4), "b": 0})
    a, b = await both.state.blame("k")
    assert (a.version, b.version) == (5, 1)


@pytest.mark.parametrize("depth", [-1, 1.5, "2", True])
async def test_bad_depths_are_refused(both, depth):
    with pytest.raises(InvalidInput, match="depth"):
        await both.state.blame("k", depth=depth)


def test_the_command_prints_a_table(command, memory):
    with memory.context(agent_id="planner", run_id="r1"):
        memory.state.put("plan", {"goal": "ship", "n": 1})
    memory.state.put("plan", {"goal": "ship", "n": 1}, record=False)  # The first is recorded.
    memory.state.put("plan", {"goal": "ship", "n": 2}, record=False)
    code, out, _ = command("blame", "plan")
    title, goal, number = (line.split() for line in out.splitlines())
    assert (code, title[-3:]) == (0, ["FIELD", "VALUE", "BEFORE"])
    assert (goal[0], goal[-5:]) == ("1", ["r1", "-", "$.goal", '"ship"', "-"])
    assert (number[0], number[-3:]) == ("-?", ["$.n", "2", "1"])


def test_the_command_prints_json(command, memory):
    memory.state.put("plan", {"goal": "ship", "deep": {"x": 1}})
    code, out, _ = command("blame", "plan", "--depth", "1", "--json")
    fields = [SimpleNamespace(**json.loads(line)) for line in out.splitlines()]
    assert code == 0
    assert [(f.path, f.value) for f in fields] == [("$.goal", "ship"), ("$.deep", {"x": 1})]


def test_the_command_fails_without_an_entry(command, memory):
    code, out, err = command("blame", "nothing")
    assert (code, out) == (1, "")
    assert err.startswith("pgmem: there is no state entry 'nothing'")
