"""`Imports.fill_group` gives a group the state of another store until members use it."""

import pytest

from pgmem import Event
from pgmem.core.validation import MAX_POSITION
from pgmem.errors import InvalidInput, LeaseLost
from pgmem.redis import ImportedDelivery, KnownDelivery
from pgmem.redis.errors import ImportConflict

SOURCE = "old store"


async def logged(memory, count=9, stream="s"):
    """Append some events to a stream. Return their positions."""
    payloads = [Event(type="t", payload={"n": n, "k": n % 2}) for n in range(count)]
    await memory.events.append(stream, payloads)
    return [event.position for event in await memory.events.read(stream)]


async def filled(imports, part, position, *open_, after=0, until=MAX_POSITION):
    deliveries = [ImportedDelivery(place, attempts, "there") for place, attempts in open_]
    return await imports.fill_group(
        part, "g", stream="s", position=position, open=deliveries, after=after, until=until
    )


async def opened(imports):
    return await imports.open(SOURCE, "group g")


async def test_open_events_are_delivered_before_new_ones(both, imports):
    places = await logged(both)
    part, ok = await filled(
        imports, await opened(imports), places[4], (places[1], 1), (places[3], 4)
    )
    assert (ok, part.step, part.detail) == (True, 1, {"position": places[4]})
    assert await imports.known_deliveries("g") == [
        KnownDelivery(places[1], 1, True),
        KnownDelivery(places[3], 4, True),
    ]
    assert [one.position for one in await imports.known_deliveries("g", after=places[1])] == [
        places[3]
    ]
    group = await both.groups.get("g")
    assert [one.error for one in await group.pending()] == ["there", "there"]
    handed = [(one.event.position, one.attempts) for one in await group.read("m", limit=9)]
    handed += [(one.event.position, one.attempts) for one in await group.read("m", limit=9)]
    assert sorted(handed) == [(places[1], 2), (places[3], 5), *((place, 1) for place in places[5:])]
    assert [one.delayed for one in await imports.known_deliveries("g")] == [False] * 6


async def test_filling_again_replaces_the_open_events(both, imports):
    places = await logged(both)
    part, _ = await filled(
        imports, await opened(imports), places[4], (places[1], 1), (places[3], 1)
    )
    part, ok = await filled(imports, part, places[2], (places[2], 7), (places[1], 2))
    assert ok
    assert (await (await both.groups.get("g")).info()).position == places[2]
    assert [one[:2] for one in await imports.known_deliveries("g")] == [
        (places[1], 2),
        (places[2], 7),
    ]
    # A step may be about a range: outside of it all stays.
    await filled(imports, part, places[2], after=places[0], until=places[1])
    assert [one.position for one in await imports.known_deliveries("g")] == [places[2]]


async def test_a_group_that_members_have_read_from_is_left(both, imports):
    places = await logged(both)
    part = await opened(imports)
    part, _ = await filled(imports, part, places[4], (places[1], 1))
    group = await both.groups.get("g")
    (one,) = await group.read("m", limit=1)
    part, ok = await filled(imports, part, places[4], (places[1], 1), (places[2], 1))
    assert not ok
    await one.ack()
    part, ok = await filled(imports, part, places[4], (places[1], 1))
    assert not ok
    assert await imports.known_deliveries("g") == []
    # A reset makes it free again, and revokes the deliveries.
    (held,) = await group.read("m", limit=1)
    await group.reset(places[4])
    part, ok = await filled(imports, part, places[5], (places[1], 1))
    assert ok
    with pytest.raises(LeaseLost):
        await held.ack()
    # A reset to another position is a choice of the user, and stays.
    await group.reset(places[0])
    assert not (await filled(imports, part, places[5]))[1]


async def test_dead_letters_are_work(both, imports):
    places = await logged(both)
    part = await opened(imports)
    part, _ = await filled(imports, part, places[-1], (places[1], 1))
    group = await both.groups.get("g")
    (one,) = await group.read("m", limit=1)
    await one.dead_letter("no")
    assert not (await filled(imports, part, places[-1]))[1]


async def test_a_group_that_was_opened_before_is_taken_if_nothing_is_open_in_it(both, imports):
    places = await logged(both)
    group = await both.groups.create("g", stream="s", ordered_by="k", max_attempts=2)
    part, ok = await filled(
        imports, await opened(imports), places[3], (places[0], 1), (places[2], 1)
    )
    assert ok
    first = await group.read("m", limit=1)
    assert [one.event.payload["k"] for one in first] == [0]
    # No other member gets an event of the same key, whether open or new.
    others = await group.read("other", limit=9)
    assert {one.event.payload["k"] for one in others} == {1}
    assert not (await filled(imports, part, places[3]))[1]


@pytest.mark.parametrize("made", [{"stream": "other"}, {"prefix": "s"}, {}])
async def test_a_group_that_follows_something_else_is_left(both, imports, made):
    places = await logged(both)
    await both.groups.create("g", **made)
    assert not (await filled(imports, await opened(imports), places[3], (places[0], 1)))[1]
    assert (await (await both.groups.get("g")).info()).position == 0
    assert await imports.known_deliveries("g") == []


async def test_positions_not_in_the_log_are_ignored(both, imports):
    places = await logged(both)
    await filled(imports, await opened(imports), places[3], (places[0], 1), (10**9, 1))
    assert [one.position for one in await imports.known_deliveries("g")] == [places[0]]


async def test_an_older_opener_of_the_part_fills_nothing(both, imports):
    places = await logged(both)
    old = await opened(imports)
    new = await opened(imports)
    with pytest.raises(ImportConflict):
        await filled(imports, old, places[3])
    assert await both.groups.list() == []
    await filled(imports, new, places[3])
    with pytest.raises(ImportConflict):
        await filled(imports, old, places[5])
    assert (await (await both.groups.get("g")).info()).position == places[3]


async def test_sent_again_after_a_lost_answer_it_is_filled_once(both, imports):
    places = await logged(both)
    part = await opened(imports)
    assert (await filled(imports, part, places[3], (places[0], 1)))[1]
    again, ok = await filled(imports, part, places[3], (places[0], 1))
    assert (ok, again.step) == (True, 1)
    assert len(await imports.known_deliveries("g")) == 1


@pytest.mark.parametrize(
    ("position", "open_"),
    [(-1, ()), (1, ((0, 1),)), (1, ((1, -1),)), (1, ((1, 2**31),)), ("1", ())],
)
async def test_bad_numbers_are_refused(both, imports, position, open_):
    part = await opened(imports)
    with pytest.raises(InvalidInput):
        await filled(imports, part, position, *open_)
    assert await both.groups.list() == []
