"""An event that does not fit its class or `model` is one event's matter for a subscription."""

from __future__ import annotations

import logging

import pytest
from pydantic import BaseModel, field_validator

from pgmem import Event, InvalidEvent, InvalidInput

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks

SECRET = "secret-value"


class Placed(Event, type="placed"):
    n: int
    currency: str


class Payload(BaseModel):
    n: int
    currency: str


async def append(memory, count=20, *, wrong=(4,)):
    """Append events; those at `wrong` positions have no currency."""
    for n in range(1, count + 1):
        payload = {"n": n} if n in wrong else {"n": n, "currency": "VND"}
        await memory.events.append("orders", Event(type="placed", payload=payload))


@pytest.fixture(params=["class", "model"])
def typed(request, form):
    """Open a memory with the class, or subscribe with a model."""
    if request.param == "class":
        return form.memory(events=[Placed]), {}
    return form.memory(), {"model": Payload}


async def drain(events, limit=5):
    got = []
    while found := await events.receive(limit, timeout=0):
        got += [event.payload.n for event in found]
    return got


async def test_a_durable_subscription_skips_it_and_says_which(typed, caplog):
    opened, options = typed
    async with opened as memory:
        await append(memory)
        async with memory.events.subscribe("orders", durable="audit", **options) as events:
            assert await drain(events) == [n for n in range(1, 21) if n != 4]
        assert (await memory.subscriptions.get("audit")).position == 20
        async with memory.events.subscribe("orders", durable="audit", **options) as events:
            assert await events.receive(timeout=0) == []
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    for part in ("position 4", "'orders'", "'placed'", "currency"):
        assert part in record.getMessage()


async def test_events_of_which_none_fits_are_all_passed(both):
    await append(both, 5, wrong=(1, 2, 3, 4, 5))
    async with both.events.subscribe(durable="audit", model=Payload) as events:
        assert await events.receive(2, timeout=0) == []
        assert events.position == 5
    assert (await both.subscriptions.get("audit")).position == 5


async def test_an_iteration_skips_it(typed):
    opened, options = typed
    async with opened as memory:
        await append(memory, 6, wrong=(1, 2, 4))
        async with memory.events.subscribe(**options) as events:
            got = []
            async for event in events:
                got.append(event.payload.n)
                if event.position == 6:
                    break
    assert got == [3, 5, 6]


async def test_raise_raises_it_once_with_the_payload_and_goes_on(typed):
    opened, options = typed
    async with opened as memory:
        await append(memory, 6)
        async with memory.events.subscribe(
            durable="audit", on_invalid="raise", auto_commit=False, **options
        ) as events:
            assert [event.position for event in await events.receive()] == [1, 2, 3]
            with pytest.raises(InvalidEvent) as failure:
                await events.receive()
            error = failure.value
            assert (error.position, error.field) == (4, "currency")
            assert error.event.payload == {"n": 4}
            await events.commit(error.event)
            assert (await memory.subscriptions.get("audit")).position == 4
            assert [event.position for event in await events.receive()] == [5, 6]


async def test_raise_in_an_iteration_raises_it_once_and_goes_on(both):
    await append(both, 6)
    async with both.events.subscribe(model=Payload, on_invalid="raise") as events:
        got = await iterate(events, 6)
        assert got == [1, 2, 3, "raised", 5, 6]


async def iterate(events, last):
    """Return the positions of an iteration that begins again after each error."""
    got = []
    while got[-1:] != [last]:
        try:
            async for event in events:
                got.append(event.position)
                if event.position == last:
                    break
        except InvalidEvent:
            got.append("raised")
    return got


async def test_raise_does_not_store_that_it_is_handled_until_more_is_asked_for(both):
    await append(both, 6)
    for _ in range(2):  # It comes again, as any event whose handling failed.
        async with both.events.subscribe(
            durable="audit", model=Payload, on_invalid="raise"
        ) as events:
            with pytest.raises(InvalidEvent) as failure:
                await drain(events)
            assert failure.value.position == 4
        assert (await both.subscriptions.get("audit")).position == 3


async def test_a_validator_that_raises_anything_concerns_its_event(both):
    class Strange(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def fail(cls, n):
            if n == 2:
                raise KeyError(SECRET)
            return n

    await append(both, 3, wrong=())
    async with both.events.subscribe(model=Strange) as events:
        assert await drain(events) == [1, 3]
    with pytest.raises(InvalidEvent, match="KeyError") as failure:
        await both.events.get(2, model=Strange)
    assert SECRET not in str(failure.value)


async def test_watch_passes_a_value_that_does_not_fit(both):
    async with both.state.watch(model=Payload) as changes:
        for n, value in enumerate([{"n": 1, "currency": "EUR"}, {"n": SECRET}, None]):
            await both.state.put(f"key:{n}", value)
        await both.state.delete("key:1")
        got = []
        while len(got) < 2:
            got += [(change.key, change.deleted) for change in await changes.receive(timeout=20)]
    assert got == [("key:0", False), ("key:1", True)]
    async with both.state.watch(after=0, model=Payload, on_invalid="raise") as changes:
        assert len(await changes.receive(timeout=20)) == 1
        with pytest.raises(InvalidEvent) as failure:
            await changes.receive(timeout=20)
    assert failure.value.event.payload == {"n": SECRET}


@pytest.mark.parametrize("word", ["dead_letter", "ignore", None])
async def test_another_word_is_refused(both, word):
    with pytest.raises(InvalidInput, match="'skip' or 'raise'"):
        both.events.subscribe(on_invalid=word)
