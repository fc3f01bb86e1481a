"""Appending to several streams in one statement: all of them or none."""

from __future__ import annotations

import asyncio

import pytest

from pgmem import Append, Appended, Event
from pgmem.errors import IdempotencyMismatch, InvalidInput, VersionConflict

pytestmark = pytest.mark.both_forms


def event(n: int = 0, **fields) -> Event:
    return Event(type="test", payload={"n": n}, **fields)


async def contents(memory):
    return [(e.stream, e.version, e.payload["n"]) for e in await memory.events.read(limit=1000)]


async def test_events_get_positions_in_the_order_given(both):
    receipts = await both.events.append_all(
        [
            Append("z", [event(1), event(2)], expected_version=0),
            Append("a", event(3)),
            Append("m", [event(4)], expected_version=0),
        ]
    )
    first = receipts[0].position
    assert receipts == [
        Appended(first, 1),
        Appended(first + 1, 2),
        Appended(first + 2, None),
        Appended(first + 3, 1),
    ]
    assert await contents(both) == [("z", 1, 1), ("z", 2, 2), ("a", None, 3), ("m", 1, 4)]


async def test_one_wrong_version_appends_nothing_and_draws_no_position(both):
    await both.events.append("b", event(1), expected_version=0)
    with pytest.raises(VersionConflict, match="'b' expected version 0, found 1") as caught:
        await both.events.append_all(
            [Append("a", event(2), expected_version=0), Append("b", event(3), expected_version=0)]
        )
    assert (caught.value.expected, caught.value.actual) == (0, 1)
    assert await contents(both) == [("b", 1, 1)]
    assert (await both.events.append("c", event())).position == 2


async def test_a_repeated_key_returns_the_first_receipts(both):
    appends = [Append("b", event(1), expected_version=0), Append("a", [event(2), event(3)])]
    first = await both.events.append_all(appends, idempotency_key="k")
    again = await both.events.append_all(appends, idempotency_key="k")
    assert again == [receipt._replace(duplicate=True) for receipt in first]
    assert len(await contents(both)) == 3
    with pytest.raises(IdempotencyMismatch, match="'k'"):
        await both.events.append_all([Append("b", event(9))], idempotency_key="k")


async def test_a_key_that_has_expired_may_be_used_again(both):
    await both.events.append_all([Append("a", event(1))], idempotency_key="k", ttl=0.001)
    await asyncio.sleep(0.01)
    (again,) = await both.events.append_all([Append("a", event(2))], idempotency_key="k")
    assert not again.duplicate
    assert [n for *_, n in await contents(both)] == [1, 2]


async def test_a_conflict_leaves_a_transaction_usable(both):
    await both.events.append("b", event(1), expected_version=0)
    async with both.transaction() as tx:
        with pytest.raises(VersionConflict):
            await tx.events.append_all([Append("b", event(2), expected_version=0)])
        await tx.events.append_all([Append("b", event(3), expected_version=1)])
    assert await contents(both) == [("b", 1, 1), ("b", 2, 3)]


async def test_opposite_orders_race_without_a_deadlock(form, database_url):
    """Both calls expect the same versions: one appends both events, the other conflicts."""
    rounds = 30
    async with form.memory(pool=4) as memory:
        parts = ["left", "right"]

        async def attempt(order, version):
            appends = [Append(stream, event(version), expected_version=version) for stream in order]
            call = memory.events.append_all
            try:
                if form.name == "async":
                    return await call(appends)
                return await asyncio.to_thread(memory.wrapped.events.append_all, appends)
            except VersionConflict as error:
                return error

        for version in range(rounds):
            results = await asyncio.gather(attempt(parts, version), attempt(parts[::-1], version))
            won = [result for result in results if isinstance(result, list)]
            assert len(won) == 1, results
        assert await memory.events.version("left") == rounds
        assert await memory.events.version("right") == rounds
        assert await memory.events.count() == 2 * rounds


async def test_one_call_of_a_key_takes_effect_if_several_race(form, database_url):
    async with form.memory(pool=4) as memory:
        for n in range(10):
            appends = [Append("a", event(n)), Append("b", event(n))]

            async def attempt(appends=appends, n=n):
                options = {"idempotency_key": f"k{n}"}
                if form.name == "async":
                    return await memory.events.append_all(appends, **options)
                return await asyncio.to_thread(memory.wrapped.events.append_all, appends, **options)

            results = await asyncio.gather(*(attempt() for _ in range(4)))
            assert sorted(result[0].duplicate for result in results) == [False, True, True, True]
            assert len({result[0].position for result in results}) == 1
        assert await memory.events.count("a") == await memory.events.count("b") == 10


@pytest.mark.parametrize(
    "appends",
    [
        [],
        [Append("a", [])],
        [Append("a", event()), Append("a", event())],
        [Append("state:a", event())],
        [Append("", event())],
        [Append("a", event(), expected_version=-1)],
        [Append("a", "text")],
        [("a", event())],
        [Append("a", [event()] * 10_001)],
    ],
)
async def test_what_cannot_be_appended_is_refused_before_anything_is_sent(both, appends):
    with pytest.raises(InvalidInput):
        await both.events.append_all(appends)
    assert await both.events.count() == 0
