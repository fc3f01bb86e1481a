"""Groups that order by a key: events of one key never with two members, and in the log's order."""

from __future__ import annotations

import asyncio

import pytest

from pgmem import Event
from pgmem.errors import LeaseLost
from tests.support.groups import fall_due, fill, lapse, positions, waiting


def turns(n):
    """Return the key of an event: x if its number is odd, else y."""
    return "x" if n % 2 else "y"


async def opened(memory, count=6, key=turns, **options):
    await fill(memory, count, key=key)
    return await memory.groups.create("g", ordered_by="key", **options)


async def test_a_batch_may_have_several_of_a_key_in_order(both):
    group = await opened(both)
    assert positions(await group.read("a", 4)) == [1, 2, 3, 4]


async def test_what_follows_waits_until_the_key_is_free(both):
    group = await opened(both)
    one, two = await group.read("a", 2)
    assert await group.read("b") == []
    assert (await group.info())[8:] == (2, 4, 0)
    await one.ack()
    assert positions(await group.read("b")) == [3, 5]
    assert await group.read("c") == []
    await two.ack()
    assert positions(await group.read("c", 1)) == [4]
    assert await group.read("d") == []


async def test_a_free_key_is_not_held_up(both):
    group = await opened(both, 6, key=lambda n: "z" if n == 5 else "x")
    await group.read("a", 1)
    assert positions(await group.read("b")) == [5]


async def test_by_stream(both):
    for n in range(6):
        await both.events.append("xy"[n % 2], Event(type="t"))
    group = await both.groups.create("g", ordered_by="stream")
    (one,) = await group.read("a", 1)
    assert positions(await group.read("b")) == [2, 4, 6]
    assert await group.read("c") == []
    await one.ack()
    assert positions(await group.read("c")) == [3, 5]


async def test_events_without_the_key_go_to_any_member(both):
    await both.events.append(
        "s", [Event(type="t", payload=p) for p in ({"key": "x"}, {}, {"key": None}, 7, [1], "key")]
    )
    await both.events.append("s", Event(type="t", payload={"key": "x"}))
    group = await both.groups.create("g", ordered_by="key")
    await group.read("a", 1)
    assert positions(await group.read("b", 2)) == [2, 3]
    batch = await group.read("c")
    assert positions(batch) == [4, 5, 6]
    await group.nack(batch)
    assert positions(await group.read("d")) == [4, 5, 6]
    assert (await group.info()).delayed == 1


async def test_numbers_and_texts_that_are_written_alike_are_one_key(both):
    await both.events.append("s", [Event(type="t", payload={"key": key}) for key in (7, "7", 8)])
    group = await both.groups.create("g", ordered_by="key")
    await group.read("a", 1)
    assert positions(await group.read("b")) == [3]


async def test_long_keys_that_begin_alike_are_one_key(both):
    """Coarser than asked for, never finer: the order holds."""
    long = "ü" * 512
    keys = [long + "1", long + "2", "x"]
    await both.events.append("s", [Event(type="t", payload={"key": key}) for key in keys])
    group = await both.groups.create("g", ordered_by="key")
    await group.read("a", 1)
    assert positions(await group.read("b")) == [3]


class TestGivingBack:
    async def test_the_later_ones_of_its_key_go_back_with_it(self, both):
        group = await opened(both)
        one, two, three, four, five, six = await group.read("a")
        await three.nack(error="not now")
        pending = {info.position: info for info in await group.pending()}
        assert {p for p in pending if pending[p].delayed} == {3, 5}
        assert [(pending[p].attempts, pending[p].error) for p in (3, 5)] == [
            (1, "not now"),
            (0, None),
        ]
        with pytest.raises(LeaseLost):
            await five.ack()
        assert await group.read("b") == []  # 1 is still with a.
        await group.ack([one, two, four, six])
        again = await group.read("b")
        assert [(one.event.position, one.attempts) for one in again] == [(3, 2), (5, 1)]

    async def test_a_delay_holds_up_its_key_only(self, both, database_url):
        group = await opened(both)
        first = await group.read("a", 2)
        await first[0].nack(delay=60)
        await first[1].ack()
        assert positions(await group.read("b")) == [4, 6]
        assert await group.read("c") == []
        fall_due(database_url)
        assert positions(await group.read("c")) == [1, 3, 5]

    async def test_a_delay_holds_up_its_key_also_while_another_is_due(self, both):
        group = await opened(both)
        first = await group.read("a", 2)
        assert await group.read("b") == []
        await first[0].nack(delay=60)
        await first[1].nack()
        assert positions(await group.read("c")) == [2, 4, 6]

    async def test_a_dead_letter_lets_the_rest_go_on(self, both):
        group = await opened(both, 6, key=lambda n: "x", max_attempts=1)
        one, two = await group.read("a", 2)
        await one.nack(error="hopeless")
        assert [letter.position for letter in await group.dead_letters()] == [1]
        (again,) = await group.read("b")
        assert (again.event.position, again.attempts) == (2, 1)
        with pytest.raises(LeaseLost):
            await two.ack()
        await again.ack()
        batch = await group.read("c")
        assert positions(batch) == [3, 4, 5, 6]
        await batch[0].dead_letter("this one too")
        await group.ack(batch[1:])  # Given up by name: the later ones stay where they are.

    async def test_a_requeued_one_comes_when_its_key_is_free(self, both):
        group = await opened(both, 4, key=lambda n: "x")
        one, two = await group.read("a", 2)
        await one.dead_letter()
        assert await group.requeue() == 1
        assert await group.read("b") == []
        await two.ack()
        assert positions(await group.read("b")) == [1, 3, 4]


class TestTakingOver:
    async def test_keeps_its_keys(self, both, database_url):
        group = await opened(both)
        old = await group.read("a", 2)
        assert await group.read("b") == []
        lapse(database_url)
        (new,) = await group.read("b")
        assert new.event.position == 1
        assert positions(await group.read("c")) == [2]
        assert await group.read("c") == []
        with pytest.raises(LeaseLost):
            await group.ack(old)
        await new.ack()
        assert positions(await group.read("c")) == [3, 5]

    async def test_one_by_one_keeps_the_order(self, both, database_url):
        group = await opened(both, 5, key=lambda n: "x")
        await group.read("a", 4)
        lapse(database_url)
        for position in range(1, 6):
            (one,) = await group.read("b")
            assert one.event.position == position
            assert await group.read("c") == []
            await one.ack()

    async def test_what_ran_out_too_often_lets_the_rest_go_on(self, both, database_url):
        group = await opened(both, 2, key=lambda n: "x", max_attempts=1)
        await group.read("a", 1)
        assert await group.read("b") == []
        lapse(database_url)
        assert positions(await group.read("b")) == [2]
        assert [letter.position for letter in await group.dead_letters()] == [1]


async def test_an_ack_wakes_the_member_that_waits_for_its_key(both):
    group = await opened(both, 2, key=lambda n: "x")
    (one,) = await group.read("a", 1)
    waiter = await waiting(group, timeout=20)
    await one.ack()
    assert positions(await asyncio.wait_for(waiter, 5)) == [2]


async def test_an_acknowledgement_with_a_read_frees_its_keys_first(both):
    group = await opened(both, 4, key=lambda n: "x")
    first = await group.read("a", 1)
    assert await group.read("b") == []
    assert positions(await group.read("a", 1, ack=first)) == [2]


async def test_many_members_keep_the_order_of_each_key(form):
    """Record what each member handles, between its claim and its ack, in one list for each key."""
    done, busy = {}, set()
    async with form.memory(pool=8) as memory, form.memory(pool=8) as other:
        await fill(memory, 200, key=lambda n: f"k{n % 7}")
        groups = [
            await one.groups.create("g", ordered_by="key", exist_ok=True) for one in (memory, other)
        ]

        async def work(number):
            group = groups[number % 2]
            while sum(map(len, done.values())) < 200:
                batch = await group.read(f"m{number}", 5, timeout=0.2)
                mine = {one.event.payload["key"] for one in batch}
                assert not mine & busy
                busy.update(mine)
                await asyncio.sleep(0.002)
                for one in batch:
                    done.setdefault(one.event.payload["key"], []).append(one.event.position)
                busy.difference_update(mine)
                await group.ack(batch)

        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(6))), 60)
    assert sum(map(len, done.values())) == 200
    assert all(got == sorted(got) for got in done.values())


async def test_many_delayed_events_hold_up_only_their_key(both):
    """Put many events behind a held key. Other keys are found once the window has passed them."""
    await fill(both, 300, key=lambda n: "x" if n <= 299 else "z")
    group = await both.groups.create("g", ordered_by="key")
    (held,) = await group.read("a", 1)
    found = []
    for _ in range(8):
        found += positions(await group.read("b", 5))
    assert found == [300]
    await held.ack()
    assert positions(await group.read("b", 5)) == [2, 3, 4, 5, 6]
