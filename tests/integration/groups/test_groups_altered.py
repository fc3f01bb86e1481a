"""Change a group's options, and events that do not fit its model."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from pgmem import Event, EventFilter, RetryPolicy
from pgmem.errors import InvalidEvent, InvalidInput, NotFound
from tests.support.groups import fall_due, fill, lapse, opened, positions


class Job(BaseModel):
    """A payload with a number."""

    n: int


async def test_alter_keeps_position_open_events_and_dead_letters(both):
    group = await opened(both, 4)
    dead, open_, *_ = await group.read("a", 2)
    await group.dead_letter([dead], error="broken")
    await group.alter(max_attempts=1)
    assert [letter.event.position for letter in await group.dead_letters()] == [1]
    await group.ack([open_])
    assert positions(await group.read("a", 10)) == [3, 4]
    info = await group.info()
    assert (info.name, info.max_attempts) == ("g", 1)


async def test_altered_attempts_hold_for_members_that_had_the_group_open(both, database_url):
    group = await opened(both, 1, max_attempts=5)
    other = await both.groups.get("g")
    await other.alter(max_attempts=1)
    [delivery] = await group.read("a")
    await group.nack([delivery])
    fall_due(database_url)
    assert await group.read("a") == []
    assert [letter.attempts for letter in await group.dead_letters()] == [1]


async def test_an_altered_filter_selects_from_the_position_on(both):
    group = await opened(both, 2)
    assert positions(await group.read("a", 1)) == [1]
    await group.alter(filter=EventFilter(streams=("other",)))
    await fill(both, 1)
    await both.events.append("other", Event(type="job"))
    assert positions(await group.read("b", 10)) == [4]


async def test_alter_refuses_what_is_not_allowed(both):
    group = await opened(both, 1)
    with pytest.raises(InvalidInput, match="max_attempts"):
        await group.alter(max_attempts=0)
    with pytest.raises(InvalidInput, match="retry is a RetryPolicy, got int"):
        await group.alter(retry=3)
    await both.groups.delete("g")
    with pytest.raises(NotFound):
        await group.alter(retry=RetryPolicy())


async def mixed(memory):
    """Append an event that fits between two that do not, and one more that does."""
    payloads = [{"n": "no number"}, {"n": 2}, {}, {"n": 4}]
    await memory.events.append("work", [Event(type="job", payload=p) for p in payloads])


async def test_an_event_that_does_not_fit_becomes_a_dead_letter_unseen(both):
    await mixed(both)
    group = await both.groups.create("g", model=Job)
    assert [d.event.payload.n for d in await group.read("a", 10)] == [2, 4]
    letters = await group.dead_letters()
    assert [(letter.event.position, letter.attempts) for letter in letters] == [(1, 0), (3, 0)]
    assert "stream 'work'" in letters[0].error
    assert "position 1" in letters[0].error
    assert "n" in letters[0].error


async def test_an_event_that_does_not_fit_may_be_skipped(both):
    await mixed(both)
    group = await both.groups.create("g", model=Job, on_invalid="skip")
    found = await group.read("a", 10)
    assert [d.event.payload.n for d in found] == [2, 4]
    await group.ack(found)
    assert await group.dead_letters() == []
    assert await group.pending() == []


async def test_an_event_that_does_not_fit_may_raise_and_loses_no_attempt(both, database_url):
    await mixed(both)
    group = await both.groups.create("g", model=Job, on_invalid="raise")
    for _ in range(2):
        with pytest.raises(InvalidEvent, match="position 1") as raised:
            await group.read("a", 10)
        assert raised.value.event.payload == {"n": "no number"}
        lapse(database_url)
        fall_due(database_url)
    as_stored = await both.groups.get("g")
    found = await as_stored.read("a", 10)
    assert [d.attempts for d in found] == [1] * 4
    assert sorted(positions(found)) == [1, 2, 3, 4]
