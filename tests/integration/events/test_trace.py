"""Runs and causes: selecting events by them, and the tree of what followed from what."""

from __future__ import annotations

import pytest

from pgmem import AsyncMemory, Event, EventFilter
from pgmem.errors import InvalidInput, NotFound
from tests.support.both import context
from tests.support.database import sql


async def append(memory, type_, cause=None, run_id=None):
    with context(memory, cause=cause, run_id=run_id):
        return (await memory.events.append("s", Event(type=type_))).position


def types(events):
    return [event.type for event in events]


def tree(trace):
    return (
        {trace.event.type: [tree(one) for one in trace.effects]}
        if trace.effects
        else (trace.event.type)
    )


async def test_events_are_selected_by_run_and_cause(both):
    first = await append(both, "a", run_id="r1")
    await append(both, "b", cause=first, run_id="r1")
    await append(both, "c", cause=first, run_id="r2")
    await append(both, "d")
    assert types(await both.events.read(run_id="r1")) == ["a", "b"]
    assert types(await both.events.read(run_id=["r1", "r2"])) == ["a", "b", "c"]
    assert types(await both.events.read(cause=first)) == ["b", "c"]
    assert types(await both.events.read(cause=first, run_id="r2")) == ["c"]
    assert types(await both.events.read("s", cause=first, reverse=True)) == ["c", "b"]
    assert await both.events.count(run_id="r1") == 2
    assert await both.events.head(cause=first) == first + 2


async def test_a_subscription_and_a_group_select_by_run_and_cause(both):
    first = await append(both, "a", run_id="r1")
    group = await both.groups.create("g", run_id="r1", cause=first)
    async with both.events.subscribe(run_id="r1", cause=first, after=first) as events:
        await append(both, "other run", cause=first, run_id="r2")
        await append(both, "other cause", run_id="r1")
        await append(both, "wanted", cause=first, run_id="r1")
        assert types(await events.receive(timeout=10)) == ["wanted"]
    (delivery,) = await group.read("m")
    assert delivery.event.type == "wanted"


@pytest.mark.parametrize(
    ("metadata", "passes"),
    [
        ('{"run_id": "7"}', True),
        ('{"run_id": 7}', True),
        ('{"run\\u005fid": "\\u0037"}', True),
        ('{"run_id": 7.0}', False),
        ('{"run_id": null}', False),
        ('{"run_id": true}', False),
        ('{"other": "run_id"}', False),
        (None, False),
    ],
)
async def test_the_server_and_the_subscription_select_the_same(
    memory, database_url, metadata, passes
):
    wanted = EventFilter(runs=["7"])
    sql(
        database_url,
        "INSERT INTO pgmem.events (stream, type, payload, metadata) VALUES ('s', 't', '1', %s)",
        metadata,
    )
    found = memory.events.read(run_id="7")
    row = (1, "s", None, "t", "1", None, metadata, None)
    assert bool(found) is passes
    assert wanted.test()(row) is passes


def test_a_filter_survives_its_stored_form():
    wanted = EventFilter(runs=["b", "a"], cause=7)
    assert EventFilter.from_json(wanted.to_json()) == wanted
    assert not wanted.selects_all


@pytest.mark.parametrize("options", [{"cause": -1}, {"cause": "7"}, {"run_id": ""}, {"run_id": []}])
async def test_bad_selections_are_refused(both, options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        await both.events.read(**options)


async def test_a_trace_is_the_whole_tree_from_any_of_its_events(both):
    question = await append(both, "question")
    plan = await append(both, "plan", cause=question)
    await append(both, "unrelated")
    step = await append(both, "step", cause=plan)
    other = await append(both, "step", cause=plan)
    await append(both, "answer", cause=other)
    want = {"question": [{"plan": ["step", {"step": ["answer"]}]}]}
    for position in (question, plan, step, other):
        found = await both.events.trace(position)
        assert tree(found) == want
        assert found.complete
    assert types(found) == ["question", "plan", "step", "step", "answer"]


async def test_state_changes_are_effects(both):
    cause = await append(both, "asked")
    with context(both, cause=cause):
        await both.state.put("answer", 42)
    (effect,) = (await both.events.trace(cause)).effects
    assert (effect.event.change.key, effect.event.change.value) == ("answer", 42)


async def test_a_trace_says_what_it_leaves_out(both):
    first = await append(both, "a")
    for _ in range(3):
        await append(both, "b", cause=first)
    found = await both.events.trace(first, limit=3)
    assert (len(list(found)), found.complete) == (3, False)
    assert (await both.events.trace(first, limit=4)).complete


class Paid(Event, type="paid"):
    amount: int


async def test_an_event_that_does_not_fit_its_class_is_in_the_tree(database_url):
    async with AsyncMemory(database_url, events=[Paid]) as memory:
        cause = (await memory.events.append("s", Paid(amount=5))).position
        with memory.context(cause=cause):
            await memory.events.append("s", Event(type="paid", payload={"amount": "much"}))
        paid, misfit = await memory.events.trace(cause)
    assert (paid.payload.amount, misfit.payload) == (5, {"amount": "much"})


async def test_a_cause_that_is_not_in_the_log_is_said(both):
    lost = await append(both, "c", cause=10**6)
    found = await both.events.trace(lost)
    assert (types(found), found.complete) == (["c"], False)


async def test_causes_of_a_writers_own_make_no_circle(both):
    await both.events.append("s", Event(type="a", metadata={"cause": 2}))
    await both.events.append("s", Event(type="b", metadata={"cause": 1}))
    await both.events.append("s", Event(type="c", metadata={"cause": "no position"}))
    await both.events.append("s", Event(type="d", metadata={"cause": 4}))
    assert tree(await both.events.trace(2)) == {"a": ["b"]}
    assert tree(await both.events.trace(3)) == "c"
    assert tree(await both.events.trace(4)) == "d"


async def test_a_position_without_an_event_is_not_found(both):
    with pytest.raises(NotFound, match="no event at position 9"):
        await both.events.trace(9)
    for options in ({"position": -1}, {"position": 1, "limit": 0}):
        with pytest.raises(InvalidInput):
            await both.events.trace(**options)
