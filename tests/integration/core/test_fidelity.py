"""A model comes back equal from every verb that takes one, or is refused before the write."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from pgmem import Append, Event, Fold
from pgmem.errors import InvalidValue


class Step(BaseModel):
    name: str


class ToolStep(Step):
    arguments: dict[str, int]


class Plan(BaseModel):
    model_config = ConfigDict(strict=True)
    steps: list[Step]
    at: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    pair: tuple[int, Decimal] = (1, Decimal("0.10"))
    key: str = Field("k", alias="theKey")


class Planned(Event, type="planned"):
    model_config = ConfigDict(strict=True)
    plan: Plan
    at: datetime = Field(alias="plannedAt")


GOOD = Plan(steps=[Step(name="a")])
BAD = Plan(steps=[ToolStep(name="a", arguments={"x": 1})])
GOOD_EVENT = Planned(plan=GOOD, plannedAt=datetime(2026, 3, 1, tzinfo=UTC), metadata={"n": 1})
BAD_EVENT = Planned(plan=BAD, plannedAt=datetime(2026, 3, 1, tzinfo=UTC))


def writes(memory, value, event) -> list[Any]:
    """Return a call for each verb that stores a value or an event."""
    plain = Event(type="t", payload=value)
    return [
        lambda: memory.state.put("put", value),
        lambda: memory.state.put_many({"many": 1, "many:2": value}),
        lambda: memory.state.create("create", value),
        lambda: memory.state.compare_and_set("cas", value, expected_version=0),
        lambda: memory.state.update("update", lambda _: value),
        lambda: memory.state.put("event", 1, event=plain),
        lambda: memory.state.put("event", 1, event=event),
        lambda: memory.state.delete("none", event=event),
        lambda: memory.events.append("s", plain),
        lambda: memory.events.append("s", event),
        lambda: memory.events.append("s", [Event(type="t"), event]),
        lambda: memory.events.append("s", event, idempotency_key="k"),
        lambda: memory.folds.save("fold", value, position=1),
    ]


async def test_bad_model_is_refused_in_every_verb_before_anything_is_written(both):
    async with both.transaction() as tx:
        for where in (both, tx):
            for refused in writes(where, BAD, BAD_EVENT):
                with pytest.raises(InvalidValue, match="ToolStep at"):
                    await refused()
    for part in (Append("s", BAD_EVENT), Append("s", [Event(type="t"), BAD_EVENT])):
        with pytest.raises(InvalidValue, match="ToolStep at"):
            await both.events.append_all([Append("other", Event(type="t")), part])
    async with both.optimistic() as tx:
        with pytest.raises(InvalidValue, match="ToolStep at"):
            await tx.state.put("k", BAD)
        with pytest.raises(InvalidValue, match="ToolStep at"):
            await tx.events.append("s", BAD_EVENT)
    claim = await both.dedupe.claim("w")
    with pytest.raises(InvalidValue, match="ToolStep at"):
        await both.dedupe.complete(claim, BAD)
    assert await both.events.count() == 0
    assert await both.state.list() == []
    await both.dedupe.complete(claim, GOOD)


async def test_good_model_comes_back_equal_from_every_verb(form):
    async with form.memory(events=[Planned]) as memory:
        for write in writes(memory, GOOD, GOOD_EVENT):
            await write()
        keys = ["put", "many:2", "create", "cas", "update"]
        entries = await memory.state.get_many(keys, model=Plan)
        assert [entry.value for entry in entries.values()] == [GOOD] * len(keys)
        assert (await memory.state.history("put", model=Plan))[0].payload == GOOD
        assert (await memory.folds.load("fold", model=Plan)).value == GOOD
        (found,) = await memory.events.read("s", type="t", model=Plan, limit=1)
        assert found.payload == GOOD
        for events in (
            await memory.events.read(type="planned"),
            await memory.events.read(type="planned", reverse=True),
            [await memory.events.get(event.position) for event in await memory.events.read("s")],
        ):
            typed = [event.payload for event in events if event.type == "planned"]
            assert typed
            assert typed == [GOOD_EVENT.model_copy(update={"agent_id": None})] * len(typed)
        async with memory.optimistic() as tx:
            await tx.state.put("optimistic", GOOD)
            assert (await tx.state.get("optimistic", model=Plan)).value == GOOD
            await tx.events.append("optimistic", GOOD_EVENT)
        assert (await memory.state.get("optimistic", model=Plan)).value == GOOD
        assert (await memory.events.read("optimistic"))[0].payload == GOOD_EVENT


async def test_live_events_come_back_equal(form):
    async with form.memory(events=[Planned]) as memory:
        group = await memory.groups.create("g", stream="s")
        async with memory.events.subscribe("s") as subscription:
            await memory.events.append("s", GOOD_EVENT)
            (event,) = await subscription.receive(timeout=20)
            assert event.payload == GOOD_EVENT
        (delivery,) = await group.read("member", timeout=20)
        assert delivery.event.payload == GOOD_EVENT


async def test_default_converts_in_every_verb(form):
    amount = Decimal("0.10")
    event = Event(type="t", payload={"amount": amount}, metadata={"amount": amount})
    async with form.memory(default=str) as memory:
        for write in writes(memory, {"amount": amount}, event):
            await write()
        found = [entry.value for entry in await memory.state.list()]
        events = await memory.events.read()
        for status in ("processed", "skipped"):
            outcome = await memory.dedupe.run_once("k", lambda: amount)
            assert outcome == (status, "0.10")
    assert {"amount": "0.10"} in found
    assert all(value in ({"amount": "0.10"}, 1) for value in found)
    assert {"amount": "0.10"} in [one.metadata for one in events]


class Total(BaseModel):
    amount: int = 0


def add(total: Total, event: Any) -> Total:
    return Total(amount=total.amount + event.payload["amount"])


async def test_fold_of_models_goes_on_with_the_model_or_is_refused(both):
    await both.events.append("s", [Event(type="t", payload={"amount": n}) for n in range(5)])
    fold = Fold("sum", Total, add)
    for model in (None, Plan):
        with pytest.raises(InvalidValue, match="model=Total"):
            await both.folds.fold(fold, save_every=1, model=model)
    for _ in range(2):
        assert (await both.folds.fold(fold, save_every=1, model=Total)).value == Total(amount=10)
