"""`position_of` finds the position of an id of Redis, which pgmem itself refuses."""

from __future__ import annotations

import random

import pytest

from pgmem import Event
from pgmem.errors import InvalidInput
from pgmem.redis import position_of
from pgmem.redis.importing import positions
from pgmem.redis.importing.positions import ids_of, positions_of
from tests.support.processes import seed
from tests.system.redis.importing.support import fill


def test_an_old_id_is_found_among_others(source, importing, memory):
    rng = random.Random(seed())
    for _ in range(3):
        memory.events.append("agent:events", Event(type="before", payload={"n": 0}))
    ids = sorted(rng.sample(range(1, 10_000), 700))
    for n in ids[:400]:
        fill(source, 1, first=n)
    importing.run()
    for _ in range(20):  # other streams, and events of pgmem in this one
        memory.events.append("agent:events", Event(type="between", payload={"n": 0}))
        memory.events.append("other", Event(type="t"))
    for n in ids[400:]:
        fill(source, 1, first=n)
    importing.run()
    for _ in range(50):
        memory.events.append("agent:events", Event(type="after", payload={"n": 0}))
    events = memory.events.read("agent:events", limit=10_000)
    imported = {event.payload["n"]: event.position for event in events if event.payload["n"]}
    for wanted in [0, *rng.sample(range(1, 10_000), 60), *rng.sample(ids, 40), 20_000]:
        last = max((n for n in ids if n <= wanted), default=None)
        expected = imported[last] if last else 0
        assert position_of(memory, "agent:events", f"{wanted}-0") == expected, wanted
    assert position_of(memory, "agent:events", b"5") == position_of(memory, "agent:events", "5-0")
    assert position_of(memory, "nowhere", "5-0") == 0


def test_a_reader_with_an_id_continues_after_it(source, importing, memory):
    fill(source, 20)
    importing.run()
    after = position_of(memory, "agent:events", "15-0")
    assert [e.payload["n"] for e in memory.events.read("agent:events", after=after)] == [
        16,
        17,
        18,
        19,
        20,
    ]


@pytest.mark.parametrize("identity", ["", "x", "1-x", "-1", "1-2-3", b"\xff"])
def test_an_invalid_id_is_refused(memory, identity):
    with pytest.raises(InvalidInput, match="is not the id of an entry"):
        position_of(memory, "s", identity)


@pytest.mark.parametrize("identity", ["1795366235650-0", b"1795366235650-0"])
def test_an_old_id_asked_from_pgmem_is_refused_with_what_to_do(memory, identity):
    for ask in (
        lambda: memory.events.read("s", after=identity),
        lambda: memory.events.read("s", until=identity),
        lambda: memory.events.subscribe("s", after=identity),
        lambda: memory.events.count("s", after=identity),
    ):
        with pytest.raises(InvalidInput, match=r"id of a Redis stream.*position_of"):
            ask()


def test_many_old_ids_are_found_at_once(source, importing, memory, monkeypatch):
    rng = random.Random(seed())
    monkeypatch.setattr(positions, "PAGE", 9)
    for n in range(2, 302, 2):
        fill(source, 1, first=n)
        if rng.random() < 0.2:
            importing.run()
            memory.events.append("agent:events", Event(type="between", payload={"n": 0}))
    importing.run()
    events = memory.events.read("agent:events", limit=1_000)
    expected = {(event.payload["n"], 0): event.position for event in events if event.payload["n"]}
    for count in (0, 1, 3, 40, 300):
        wanted = [f"{n}-0" for n in rng.sample(range(400), count)]
        found = positions_of(memory, "agent:events", wanted)
        numbers = [(int(one.split("-")[0]), 0) for one in wanted]
        assert found == {one: expected[one] for one in numbers if one in expected}
        # And back.
        assert ids_of(memory, "agent:events", found.values()) == {
            place: one for one, place in found.items()
        }
    between = {event.position: None for event in events if not event.payload["n"]}
    assert ids_of(memory, "agent:events", [*between, 10**9]) == between
