"""`memory.context`: the agent, run and cause of the events that are written in a block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import InvalidInput, NotOpen
from tests.support.both import context

pytestmark = pytest.mark.both_forms


async def only(memory, stream="s"):
    """Return the attribution of the only event of a stream."""
    (event,) = await memory.events.read(stream)
    return event.agent_id, event.metadata


async def test_events_in_the_block_carry_agent_run_and_cause(both):
    with context(both, agent_id="planner", run_id="r1", cause=7):
        await both.events.append("s", Event(type="t"))
    assert await only(both) == ("planner", {"run_id": "r1", "cause": 7})


async def test_the_context_ends_with_the_block(both):
    with pytest.raises(ZeroDivisionError), context(both, agent_id="planner", run_id="r1"):
        _ = 1 / 0
    await both.events.append("s", Event(type="t"))
    assert await only(both) == ("tester", None)


async def test_an_inner_block_keeps_what_it_does_not_set(both):
    with context(both, agent_id="a", run_id="r"), context(both, cause=3):
        await both.events.append("s", Event(type="t"))
    assert await only(both) == ("a", {"run_id": "r", "cause": 3})


async def test_the_events_own_values_take_precedence(both):
    own = Event(type="t", agent_id="own", metadata={"run_id": "mine", "trace": 1})
    with context(both, agent_id="a", run_id="r", cause=3):
        await both.events.append("s", own)
    assert await only(both) == ("own", {"run_id": "mine", "cause": 3, "trace": 1})
    assert own.metadata == {"run_id": "mine", "trace": 1}


async def test_several_events_of_one_append_carry_it(both):
    with context(both, run_id="r"):
        await both.events.append("s", [Event(type="t"), Event(type="t", metadata={"n": 2})])
    events = await both.events.read("s")
    assert [event.metadata for event in events] == [{"run_id": "r"}, {"run_id": "r", "n": 2}]


async def test_a_key_is_recognised_in_another_run(both):
    with context(both, run_id="first"):
        first = await both.events.append("s", Event(type="t"), idempotency_key="k")
    with context(both, run_id="second"):
        again = await both.events.append("s", Event(type="t"), idempotency_key="k")
    assert (again.position, again.duplicate) == (first.position, True)


async def test_state_writes_and_transactions_carry_it(both):
    with context(both, agent_id="a", run_id="r"):
        await both.state.put("k", 1)
        async with both.transaction() as tx:
            await tx.state.put("k", 2)
            await tx.events.append("s", Event(type="t"))
    events = await both.events.read()
    assert {(event.agent_id, event.metadata["run_id"]) for event in events} == {("a", "r")}
    assert len(events) == 3


async def test_the_memorys_own_run_and_agent_are_the_default(form):
    async with form.memory(agent_id="a", run_id="r") as memory:
        await memory.events.append("s", Event(type="t"))
        with context(memory, run_id="other"):
            await memory.events.append("s2", Event(type="t"))
        assert await only(memory) == ("a", {"run_id": "r"})
        assert await only(memory, "s2") == ("a", {"run_id": "other"})


async def test_another_memory_is_not_affected(form):
    async with form.memory() as one, form.memory() as other:
        with context(one, run_id="r"):
            await other.events.append("s", Event(type="t"))
        assert await only(other) == (None, None)


async def test_a_handler_of_a_group_writes_with_its_event_as_the_cause(both):
    group = await both.groups.create("g", stream="s")
    receipt = await both.events.append("s", Event(type="t"))
    memory = getattr(both, "wrapped", both)

    async def handle(delivery):
        await memory.events.append("out", Event(type="done"))
        group.stop()

    def handle_sync(delivery):
        memory.events.append("out", Event(type="done"))
        group.wrapped.stop()

    handler = handle if memory is both else handle_sync
    await asyncio.wait_for(group.run(handler, member="m"), 30)
    assert await only(both, "out") == ("tester", {"cause": receipt.position})


async def test_tasks_do_not_share_the_block_of_another_task(database_url):
    async with AsyncMemory(database_url) as memory:
        entered, written = asyncio.Event(), asyncio.Event()

        async def inside():
            with memory.context(run_id="r"):
                entered.set()
                await written.wait()

        task = asyncio.create_task(inside())
        await entered.wait()
        await memory.events.append("s", Event(type="t"))
        written.set()
        await task
        assert await only(memory) == (None, None)


def test_a_new_thread_starts_without_the_block(database_url):
    with Memory(database_url) as memory, memory.context(run_id="r"):
        thread = threading.Thread(target=memory.events.append, args=("s", Event(type="t")))
        thread.start()
        thread.join()
        (event,) = memory.events.read("s")
        assert event.metadata is None


@pytest.mark.parametrize(
    "values", [{"run_id": ""}, {"agent_id": "\0"}, {"cause": -1}, {"cause": "x"}]
)
def test_values_that_are_not_allowed_are_refused(values):
    memory = Memory("postgresql://")
    with pytest.raises(InvalidInput), memory.context(**values):
        pytest.fail("the block was entered")
    with pytest.raises(InvalidInput):
        Memory("postgresql://", run_id="")


def view(memory, *arguments, **options):
    """Return the view of an agent, of a memory in either form."""
    wrapped = getattr(memory, "wrapped", memory)
    made = wrapped.as_agent(*arguments, **options)
    return made if wrapped is memory else type(memory)(made)


async def attributed(memory):
    """Write an event, and return the agent, run and cause that it got."""
    receipt = await memory.events.append("s", Event(type="t"))
    event = await memory.events.get(receipt.position)
    metadata = event.metadata or {}
    return event.agent_id, metadata.get("run_id"), metadata.get("cause")


async def test_a_view_writes_in_the_name_of_its_agent(both):
    researcher = view(both, "researcher", run_id="r1")
    assert await attributed(researcher) == ("researcher", "r1", None)
    assert await attributed(both) == ("tester", None, None)
    entry = await researcher.state.put("k", 1)
    assert (await both.events.get(entry.position)).agent_id == "researcher"
    async with researcher.transaction() as tx:
        await tx.events.append("s", Event(type="t"))
    async with researcher.optimistic() as tx:
        await tx.events.append("s", Event(type="t"))
    assert [e.agent_id for e in await both.events.read("s", after=3)] == ["researcher"] * 2


async def test_a_view_takes_what_it_does_not_set_from_the_memorys_blocks(both):
    researcher = view(both, "researcher", run_id="r1")
    with context(both, agent_id="planner", run_id="r2", cause=7):
        assert await attributed(researcher) == ("researcher", "r1", 7)
        assert await attributed(view(both, "writer")) == ("writer", "r2", 7)
        with context(researcher, run_id="r3"):
            assert await attributed(researcher) == ("researcher", "r3", 7)
            assert await attributed(both) == ("planner", "r2", 7)
    assert await attributed(researcher) == ("researcher", "r1", None)


async def test_the_cause_of_a_loop_holds_for_a_view(database_url):
    async with AsyncMemory(database_url, agent_id="tester") as memory:
        await memory.events.append("s", Event(type="first"))
        researcher = memory.as_agent("researcher")
        async with memory.events.subscribe("s") as events:
            async for event in events:
                assert await attributed(researcher) == ("researcher", None, event.position)
                with memory.context(cause=99):
                    assert await attributed(researcher) == ("researcher", None, 99)
                with researcher.context(run_id="r"):
                    assert await attributed(researcher) == ("researcher", "r", event.position)
                    assert await attributed(memory) == ("tester", None, event.position)
                break


def test_the_cause_of_a_sync_loop_holds_for_a_view(memory):
    memory.events.append("s", Event(type="first"))
    researcher = memory.as_agent("researcher")
    with memory.events.subscribe("s") as events:
        for event in events:
            receipt = researcher.events.append("s", Event(type="t"))
            assert memory.events.get(receipt.position).metadata == {"cause": event.position}
            break


async def test_opening_and_closing_a_view_does_nothing(database_url):
    async with AsyncMemory(database_url) as memory:
        async with memory.as_agent("researcher") as researcher:
            await researcher.events.append("s", Event(type="t"))
        await researcher.events.append("s", Event(type="t"))
    with pytest.raises(NotOpen):
        await researcher.events.append("s", Event(type="t"))


@pytest.mark.parametrize("options", [{"agent_id": ""}, {"agent_id": "a", "run_id": 7}])
async def test_bad_views_are_refused(both, options):
    with pytest.raises(InvalidInput):
        view(both, **options)
