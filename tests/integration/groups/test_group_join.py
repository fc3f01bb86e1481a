"""Groups that are opened by name keep the filter that they were created with."""

from __future__ import annotations

import orjson
import pytest
from pydantic import BaseModel

from pgmem import Event
from pgmem.errors import AlreadyExists, InvalidInput, NotFound
from pgmem.events.filter import EventFilter
from tests.support.subscriptions import sql

SELECTIONS = [
    {},
    {"stream": "a"},
    {"stream": ["b", "a"]},
    {"prefix": "a"},
    {"prefix": ""},
    {"type": "t", "agent_id": "x"},
    {"stream": ["a"], "type": "t"},
]


class Payload(BaseModel):
    n: int


@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_was_described_is_the_same_again(selection):
    given = {"stream": None} | selection
    made = EventFilter.of(given.pop("stream"), **given)
    stored = orjson.loads(orjson.dumps(made.to_json()))
    assert EventFilter.from_json(stored) == made


def test_the_changes_of_a_key_prefix_are_described_too():
    made = EventFilter(key_prefix="account:")
    assert EventFilter.from_json(made.to_json()) == made


async def fill(memory):
    for stream in ("a", "b", "ab"):
        await memory.events.append(
            stream,
            [Event(type=t, payload={"n": n}) for n, t in enumerate(("t", "u"))],
        )


@pytest.mark.parametrize(
    ("selection", "positions"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"stream": "b"}, [3, 4]),
        ({"stream": ["a", "b"]}, [1, 2, 3, 4]),
        ({"prefix": "a"}, [1, 2, 5, 6]),
        ({"stream": "a", "type": "u"}, [2]),
        ({"agent_id": "tester", "type": "t"}, [1, 3, 5]),
    ],
)
async def test_a_group_by_name_delivers_only_its_selection(both, selection, positions):
    await fill(both)
    await both.groups.create("g", **selection)
    group = await both.groups.get("g")
    assert group.name == "g"
    assert await group.lag() == len(positions)
    assert [d.event.position for d in await group.read("a", 100)] == positions
    assert await group.lag() == 0


async def test_a_group_by_name_shares_with_the_other_members(both):
    await fill(both)
    first = await both.groups.create("g", stream="a")
    taken = (await first.read("one", 1))[0]
    second = await both.groups.get("g")
    assert [d.event.position for d in await second.read("two")] == [2]
    await taken.ack()
    assert [p.position for p in await second.pending()] == [2]


async def test_order_and_attempts_are_those_of_the_group(both):
    for n in (1, 1, 2):
        await both.events.append("s", Event(type="t", payload={"key": n}))
    await both.groups.create("g", stream="s", ordered_by="key", max_attempts=1)
    group = await both.groups.get("g")
    first = await group.read("a", 1)
    assert [d.event.position for d in await group.read("b")] == [3]
    await first[0].nack(error="no")
    assert [(d.position, d.error) for d in await group.dead_letters()] == [(1, "no")]


async def test_payloads_are_validated_with_the_model(both):
    await fill(both)
    await both.groups.create("g", stream="a")
    group = await both.groups.get("g", model=Payload)
    assert [d.event.payload for d in await group.read("a")] == [Payload(n=0), Payload(n=1)]


async def test_none_is_made(both):
    with pytest.raises(NotFound, match="there is no group 'g'"):
        await both.groups.get("g")
    with pytest.raises(InvalidInput, match="group name is empty"):
        await both.groups.get("")
    assert await both.groups.list() == []


async def test_what_a_newer_version_selects_is_not_widened(both, database_url):
    await both.groups.create("g", stream="a")
    sql(
        database_url,
        """UPDATE pgmem.groups SET filter = '{"streams": ["a"], "weekday": "Monday"}'""",
    )
    with pytest.raises(AlreadyExists, match="filter by weekday is not known"):
        await both.groups.get("g")
