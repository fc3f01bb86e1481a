"""Reads of one event, of the head, of a stream by version; filters by several names."""

from __future__ import annotations

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import Event, EventFilter
from pgmem.errors import InvalidInput, InvalidValue


class Amount(BaseModel):
    amount: int


async def fill(memory):
    """Append events at positions 1 to 6."""
    for stream, type_, agent in [
        ("a:1", "t", "x"), ("b", "u", "y"), ("a:2", "v", "x"),
        ("b", "t", "z"), ("a:1", "u", "y"), ("c", "v", "x"),
    ]:  # fmt: skip
        await memory.events.append(stream, Event(type=type_, payload={"amount": 1}, agent_id=agent))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"stream": "b"}, [2, 4]),
        ({"stream": ["b", "c", "c"]}, [2, 4, 6]),
        ({"prefix": "a:"}, [1, 3, 5]),
        ({"type": "t"}, [1, 4]),
        ({"type": ["t", "v"]}, [1, 3, 4, 6]),
        ({"agent_id": ["y", "z"]}, [2, 4, 5]),
        ({"prefix": "a:", "type": ["u", "v"], "agent_id": "x"}, [3]),
        ({"stream": ["nothing", "none"]}, []),
    ],
)
async def test_every_verb_selects_the_same_events(both, selection, expected):
    await fill(both)

    def positions(events):
        return [event.position for event in events]

    assert positions(await both.events.read(**selection)) == expected
    assert positions(await both.events.read(reverse=True, **selection)) == expected[::-1]
    assert await both.events.count(**selection) == len(expected)
    assert await both.events.head(**selection) == (expected[-1] if expected else 0)
    async with both.events.subscribe(**selection) as events:
        assert positions(await events.receive(timeout=0)) == expected
    async with both.transaction() as tx:
        assert positions(await tx.events.read(**selection)) == expected


def test_equal_selections_make_equal_filters():
    assert EventFilter.of("a") == EventFilter.of(["a", "a"]) == EventFilter(streams=["a"])
    assert EventFilter.of(type=["b", "a"]) == EventFilter(types=("a", "b"))
    assert EventFilter.of().selects_all
    assert not EventFilter(prefix="").selects_all


@pytest.mark.parametrize(
    "given",
    [
        {}, {"prefix": ""}, {"streams": ["b", "a"]}, {"types": ["t"], "agents": ["x", "y"]},
        {"key_prefix": "k:"},
    ],
)  # fmt: skip
def test_a_filter_comes_back_from_json(given):
    made = EventFilter(**given)
    assert EventFilter.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "given",
    [
        {"streams": []}, {"streams": "a"}, {"streams": [""]}, {"types": [1]}, {"agents": 5},
        {"streams": ["a"], "prefix": "a"}, {"prefix": "\0"}, {"types": ["t"] * 1_001},
    ],
)  # fmt: skip
def test_a_filter_that_selects_nothing_sensible_is_refused(given):
    with pytest.raises(InvalidInput):
        EventFilter(**given)


async def test_get_returns_the_event_at_a_position(both):
    await fill(both)
    found = await both.events.get(3)
    assert (found.position, found.stream, found.type) == (3, "a:2", "v")
    assert (await both.events.get(3, model=Amount)).payload == Amount(amount=1)
    assert await both.events.get(7) is None
    with pytest.raises(InvalidInput):
        await both.events.get(-1)
    async with both.transaction() as tx:
        receipt = await tx.events.append("own", Event(type="t"))
        assert (await tx.events.get(receipt.position)).stream == "own"
        assert await both.events.get(receipt.position) is None


async def test_a_stream_is_read_by_version(both):
    for n in range(5):
        await both.events.append("s", Event(type="t", payload={"amount": n}), expected_version=n)
        await both.events.append("s", Event(type="plain"))

    async def versions(**options):
        return [event.version for event in await both.events.read_stream("s", **options)]

    assert await versions() == [1, 2, 3, 4, 5]
    assert await versions(after_version=2) == [3, 4, 5]
    assert await versions(after_version=1, until_version=3) == [2, 3]
    assert await versions(reverse=True, limit=2) == [5, 4]
    assert await versions(limit=2) == [1, 2]
    assert await versions(after_version=5) == []
    found = await both.events.read_stream("s", model=Amount)
    assert [event.payload.amount for event in found] == list(range(5))
    await both.events.append("s", Event(type="t", payload="poison"), expected_version=5)
    with pytest.raises(InvalidValue):
        await both.events.read_stream("s", model=Amount)
    for wrong in ({"after_version": -1}, {"until_version": "x"}, {"limit": 0}):
        with pytest.raises(InvalidInput):
            await both.events.read_stream("s", **wrong)


async def test_a_stream_shows_its_events_behind_an_older_open_transaction(both, database_url):
    with psycopg.connect(database_url) as other:
        other.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('o', 't', '1')")
        await both.events.append("s", Event(type="t"), expected_version=0)
        assert await both.events.read("s") == []
        assert [event.version for event in await both.events.read_stream("s")] == [1]
        assert (await both.events.get(2)).stream == "s"
        assert await both.events.head("s") == 2
