"""Members of a group claim events in order and acknowledge them, all or none."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgmem import Event
from pgmem.errors import HistoryRewritten, LeaseLost
from tests.support.groups import batch_rows, fill, lapse, opened, positions
from tests.support.subscriptions import sql


class TestReading:
    async def test_in_the_order_of_the_log_and_as_many_as_asked_for(self, both):
        group = await opened(both, 7)
        first = await group.read("a", 3)
        second = await group.read("b", limit=3)
        assert (positions(first), positions(second)) == ([1, 2, 3], [4, 5, 6])
        assert positions(await group.read("a")) == [7]
        assert await group.read("a") == []

    async def test_a_delivery_tells_what_it_is(self, both, database_url):
        group = await opened(both, 2)
        one, two = await group.read("a", lease=90)
        assert (one.event.payload, one.attempts, one.member) == ({"n": 1}, 1, "a")
        assert one.token == two.token > 0
        (seconds,) = sql(
            database_url,
            f"SELECT extract(epoch FROM '{one.expires_at}'::timestamptz - now())::float8",
        )[0]
        assert 60 < seconds <= 90
        assert repr(getattr(one, "wrapped", one)).endswith(
            f"position=1 type='job' attempts=1 token={one.token}>"
        )

    async def test_no_two_members_get_the_same_event(self, form):
        async with form.memory(pool=8) as memory, form.memory(pool=8) as other:
            await opened(memory, 300)
            groups = [await one.groups.get("g") for one in (memory, other)]

            async def work(number):
                got = []
                while batch := await groups[number % 2].read(f"m{number}", 7):
                    got += positions(batch)
                    if number < 4:
                        await groups[number % 2].ack(batch)
                return got

            found = await asyncio.gather(*(work(number) for number in range(8)))
        assert sorted(position for got in found for position in got) == list(range(1, 301))
        assert all(got == sorted(got) for got in found)

    @pytest.mark.parametrize("ordered_by", [None, "stream"])
    async def test_only_final_events(self, both, database_url, ordered_by):
        """Hold back the events above a position that an open transaction has drawn."""
        group = await opened(both, 2, ordered_by=ordered_by)
        with psycopg.connect(database_url) as writer:
            writer.execute(
                "INSERT INTO pgmem.events (stream, type, payload) VALUES ('work', 'late', '3')"
            )
            await fill(both, 2)
            first = await group.read("a")
            assert positions(first) == [1, 2]
            assert await group.read("a", ack=first) == []
            assert await group.lag() == 0
            writer.commit()
        assert positions(await group.read("a")) == [3, 4, 5]

    async def test_with_an_ack_in_the_same_commit(self, both, database_url):
        group = await opened(both, 6)
        first = await group.read("a", 2)
        second = await group.read("a", 2, ack=first)
        assert positions(second) == [3, 4]
        assert [one.position for one in await group.pending()] == [3, 4]
        with pytest.raises(LeaseLost):
            await group.read("a", 2, ack=first)
        with pytest.raises(LeaseLost):  # One that is lost stops all: neither ack nor claim.
            await group.read("a", 2, ack=[second[0], first[0]])
        assert [one.position for one in await group.pending()] == [3, 4]
        last = await group.read("a", 9, ack=second)
        assert await group.read("a", 9, ack=last) == []
        assert (await group.info()).held == 0

    async def test_part_of_a_batch_is_acknowledged_with_the_next_read(self, both):
        group = await opened(both, 6)
        first = await group.read("a", 3)
        await group.read("a", 1, ack=first[:2])
        assert [one.position for one in await group.pending()] == [3, 4]

    async def test_a_filtered_group_moves_over_what_is_not_for_it(self, both):
        await fill(both, 1)
        group = await both.groups.create("g", stream="work")
        await group.ack(await group.read("a"))
        await fill(both, 2_500, "other")
        assert await group.read("a") == []
        assert (await group.info()).position == 2_501
        await fill(both, 10, "other")
        assert await group.read("a") == []
        assert (await group.info()).position == 2_501  # A few are not worth a write.
        await fill(both, 1)
        assert positions(await group.read("a")) == [2_512]

    async def test_what_was_given_back_comes_before_what_is_new(self, both, database_url):
        group = await opened(both, 6)
        await group.ack((held := await group.read("a", 2))[:1])
        (parked,) = await group.read("b", 1)
        await parked.nack()
        lapse(database_url)
        order = [await group.read("c", 1) for _ in range(3)]
        assert [(one.event.position, one.attempts) for (one,) in order] == [(2, 2), (3, 2), (4, 1)]
        assert positions(held) == [1, 2]


class TestAcknowledging:
    async def test_it_is_gone(self, both):
        group = await opened(both)
        one, two, *rest = await group.read("a")
        await one.ack()
        await group.ack([rest[0], two])
        assert [one.position for one in await group.pending()] == [4, 5]
        await group.ack(rest[1:])
        assert await group.pending() == []
        await group.ack([])

    async def test_of_many_all_or_nothing(self, both):
        group = await opened(both, 6)
        first, second = await group.read("a", 3), await group.read("a", 3)
        await first[1].ack()
        with pytest.raises(LeaseLost, match="Nothing was changed"):
            await group.ack([*second, *first])
        assert [one.position for one in await group.pending()] == [1, 3, 4, 5, 6]
        await group.ack([*second, first[0], first[2]])
        assert await group.pending() == []

    async def test_twice_is_refused(self, both):
        group = await opened(both)
        one, *_ = await group.read("a")
        await one.ack()
        for late in (one.ack, one.nack, one.extend, one.dead_letter):
            with pytest.raises(LeaseLost, match="are lost"):
                await late()
        assert (await group.info())[8:] == (4, 0, 0)

    async def test_the_same_one_twice_in_a_list_is_once(self, both):
        group = await opened(both)
        one, *_ = await group.read("a", 2)
        await group.ack([one, one])
        assert [one.position for one in await group.pending()] == [2]

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_in_a_transaction(self, both, end):
        group = await opened(both)
        one, two, *_ = await group.read("a")

        async def work():
            async with both.transaction() as tx:
                await tx.state.put("effect", 1)
                await one.ack(tx)
                await group.ack([two], tx)
                if end == "rollback":
                    raise ZeroDivisionError

        if end == "commit":
            await work()
            assert (await both.state.get("effect")).value == 1
            assert (await group.info()).held == 3
        else:
            with pytest.raises(ZeroDivisionError):
                await work()
            assert await both.state.get("effect") is None
            assert (await group.info()).held == 5
            await group.ack([one, two])

    async def test_a_lost_one_undoes_its_transaction(self, both, database_url):
        group = await opened(both, 1)
        (old,) = await group.read("a")
        lapse(database_url)
        (new,) = await group.read("b")

        async def work():
            async with both.transaction() as tx:
                await tx.state.put("effect", 1)
                await old.ack(tx)

        with pytest.raises(LeaseLost):
            await work()
        assert await both.state.get("effect") is None
        await new.ack()

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_in_the_callers_own_transaction(self, both, database_url, end):
        group = await opened(both, 2)
        held = await group.read("a")
        if hasattr(both, "wrapped"):
            with psycopg.connect(database_url) as connection:
                await group.ack(held, both.using(connection))
                getattr(connection, end)()
        else:
            async with await psycopg.AsyncConnection.connect(database_url) as connection:
                await group.ack(held, both.using(connection))
                await getattr(connection, end)()
        assert (await group.info()).held == (0 if end == "commit" else 2)

    async def test_until_the_transaction_ends_no_member_takes_over_or_waits(
        self, both, database_url
    ):
        """Also not beyond the lease: the effects are there, and must not be made twice."""
        group = await opened(both, 4)
        held = await group.read("a", 2)
        async with both.transaction() as tx:
            lapse(database_url)
            await group.ack(held, tx)
            assert positions(await group.read("b", 1)) == [3]
            assert positions(await group.read("b", 1, timeout=5)) == [4]
            assert await group.read("b", timeout=0.3) == []
        assert await group.read("b") == []
        assert [one.position for one in await group.pending()] == [3, 4]


async def test_a_failover_while_it_is_held(both, database_url):
    group = await opened(both, 3)
    held = await group.read("a", 1)
    sql(database_url, "UPDATE pgmem.groups SET timeline = timeline + 1")
    with pytest.raises(HistoryRewritten):
        await group.read("a", timeout=5)
    await group.ack(held)  # It is ours, and done.


def test_an_emptied_slot_is_filled_again(memory, database_url):
    memory.events.append("s", [Event(type="t") for _ in range(100)])
    group = memory.groups.create("g")
    while batch := group.read("a", 5):
        group.ack(batch)
    assert batch_rows(database_url) == 1


async def test_a_transactions_groups_end_deliveries_with_it(both):
    group = await opened(both, 4)
    done, later, hopeless, kept = await group.read("a")
    async with both.transaction() as tx:
        bound = await tx.groups.get("g")
        assert bound.name == "g"
        await bound.ack([done])
        await bound.nack([later], delay=60, error="not now")
        await bound.dead_letter([hopeless], error="no")
        assert (await bound.info())[8:] == (1, 1, 1)
        assert (await group.info())[8:] == (4, 0, 0)
    assert [one.position for one in await group.pending()] == [2, 4]
    assert [one.error for one in await group.dead_letters()] == ["no"]

    async def rolled_back():
        async with both.transaction() as tx:
            await (await tx.groups.get("g")).ack([kept])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await rolled_back()
    await kept.ack()


async def test_read_without_a_timeout_does_not_wait_and_none_waits(both):
    group = await opened(both, 1)
    assert positions(await group.read(member="a", limit=5)) == [1]
    assert await group.read(member="a") == []
    waiter = asyncio.ensure_future(group.read(member="a", timeout=None))
    await asyncio.sleep(0.1)
    assert not waiter.done()
    await fill(both, 1)
    assert positions(await asyncio.wait_for(waiter, 20)) == [2]
