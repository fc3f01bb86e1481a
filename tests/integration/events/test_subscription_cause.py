"""Events written in the body of an iteration name its event as their cause."""

from __future__ import annotations

import asyncio

from pgmem import AsyncMemory, Event, Memory


def causes(events):
    return {event.type: (event.metadata or {}).get("cause") for event in events}


async def test_the_body_of_an_iteration_has_its_event_as_the_cause(database_url):
    async with AsyncMemory(database_url, run_id="run-1") as memory:
        await memory.events.append("orders", [Event(type="placed")] * 3)

        async def write(type, writer=memory):
            await writer.events.append("written", Event(type=type))

        async with memory.events.subscribe("orders", durable="billing") as events:
            await write("before")
            async for event in events:
                if event.position == 1:
                    await write("in the body")
                    with memory.context(agent_id="biller", cause=77):
                        await write("in a context")
                    await write("after a context")
                elif event.position == 2:
                    async with memory.transaction() as tx:
                        await write("in a transaction", tx)
                    async with memory.optimistic() as tx:
                        await write("optimistic", tx)
                    await asyncio.create_task(write("in a task"))
                else:
                    break
            await write("after a break")
            await events.receive(timeout=0)
            await write("after receive")
        await write("after the block")
        found = await memory.events.read("written")
    assert causes(found) == {
        "before": None,
        "in the body": 1,
        "in a context": 77,
        "after a context": 1,
        "in a transaction": 2,
        "optimistic": 2,
        "in a task": 2,
        "after a break": 3,
        "after receive": None,
        "after the block": None,
    }
    assert {event.metadata["run_id"] for event in found} == {"run-1"}


def test_the_body_of_an_iteration_in_the_sync_form(database_url):
    with Memory(database_url) as memory:
        memory.events.append("orders", [Event(type="placed")] * 2)
        with memory.context(cause=5):
            with memory.events.subscribe("orders") as events:
                for event in events:
                    memory.state.put(f"order:{event.position}", 1)
                    if event.position == 2:
                        events.stop()
                memory.events.append("written", Event(type="after the loop"))
            memory.events.append("written", Event(type="after the block"))
        (one,), (two,) = memory.state.history("order:1"), memory.state.history("order:2")
        written = memory.events.read("written")
    assert (one.metadata, two.metadata) == ({"cause": 1}, {"cause": 2})
    assert causes(written) == {"after the loop": 5, "after the block": 5}


def test_an_iteration_inside_another_gives_the_cause_back(database_url):
    with Memory(database_url) as memory:
        memory.events.append("outer", Event(type="o"))
        memory.events.append("inner", Event(type="i"))
        with memory.events.subscribe("outer") as outer:
            for _ in outer:
                with memory.events.subscribe("inner") as inner:
                    for _ in inner:
                        memory.events.append("written", Event(type="inside"))
                        break
                memory.events.append("written", Event(type="outside"))
                break
        assert causes(memory.events.read("written")) == {"inside": 2, "outside": 1}


def test_a_change_of_the_state_is_the_cause_of_what_follows_it(database_url):
    with Memory(database_url) as memory, memory.state.watch("order:", after=0) as changes:
        memory.state.put("order:1", "paid")
        change = next(changes)
        memory.events.append("written", Event(type="shipped"))
        (shipped,) = memory.events.read("written")
    assert shipped.metadata == {"cause": change.position}


async def test_closing_in_another_task_leaves_that_tasks_cause(database_url):
    async with AsyncMemory(database_url) as memory:
        await memory.events.append("orders", [Event(type="placed")] * 2)
        events = memory.events.subscribe("orders")
        async for _ in events:
            break

        async def close_elsewhere():
            with memory.context(cause=9):
                await events.close()
                await memory.events.append("written", Event(type="elsewhere"))

        await asyncio.create_task(close_elsewhere())
        assert causes(await memory.events.read("written")) == {"elsewhere": 9}
