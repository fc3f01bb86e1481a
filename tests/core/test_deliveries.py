"""What members of a group do with events: take, acknowledge, give back, extend, bury, requeue."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgmem import Event
from pgmem.errors import HistoryRewritten, LeaseLost, PositionTrimmed
from tests.faults.test_trimmed import trim
from tests.support.consumers import sql
from tests.support.groups import fall_due, fill, lapse, positions, slots


async def opened(memory, count=5, **options):
    """A group with so many events before it."""
    await fill(memory, count)
    return await memory.groups.open("g", **options)


class TestReading:
    async def test_in_the_order_of_the_log_and_as_many_as_asked_for(self, both):
        group = await opened(both, 7)
        first = await group.read("a", 3)
        second = await group.read("b", count=3)
        assert (positions(first), positions(second)) == ([1, 2, 3], [4, 5, 6])
        assert positions(await group.read("a")) == [7]
        assert await group.read("a") == []

    async def test_a_delivery_tells_what_it_is(self, both, database_url):
        group = await opened(both, 2)
        one, two = await group.read("a", lease=90)
        assert (one.event.payload, one.attempts, one.consumer) == ({"n": 1}, 1, "a")
        assert one.token == two.token > 0
        (seconds,) = sql(
            database_url,
            f"SELECT extract(epoch FROM '{one.lease_until}'::timestamptz - now())::float8",
        )[0]
        assert 60 < seconds <= 90
        assert repr(getattr(one, "wrapped", one)).endswith(
            f"position=1 type='job' attempts=1 token={one.token}>"
        )

    async def test_no_two_members_get_the_same_event(self, form):
        async with form.memory(pool=8) as memory, form.memory(pool=8) as other:
            await opened(memory, 300)
            groups = [await one.groups.open("g") for one in (memory, other)]

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
        """An open transaction that has drawn a lower position holds back what is above it."""
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
        group = await both.groups.open("g", stream="work")
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
            with pytest.raises(LeaseLost, match="not ours any more"):
                await late()
        assert (await group.info())[7:] == (4, 0, 0)

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

    async def test_until_the_transaction_ends_nobody_takes_over_nor_is_held_up(
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


class TestLease:
    async def test_the_token_decides_not_the_clock(self, both, database_url):
        group = await opened(both)
        one, two, *rest = await group.read("a")
        lapse(database_url)
        await one.ack()
        await two.nack(delay=60)
        assert await rest[0].extend() > rest[0].event.recorded_at
        lapse(database_url)
        await group.ack(rest)

    async def test_after_a_takeover_the_old_one_is_refused(self, both, database_url):
        group = await opened(both)
        old = await group.read("a")
        lapse(database_url)
        new = await group.read("b")
        assert positions(new) == positions(old)
        assert {one.attempts for one in new} == {2}
        assert new[0].token > old[0].token
        for late in (old[0].ack, old[0].nack, old[0].extend, old[0].dead_letter):
            with pytest.raises(LeaseLost, match=str(old[0].token)):
                await late()
        with pytest.raises(LeaseLost):
            await group.ack([new[0], old[1]])
        await group.ack(new)

    async def test_a_batch_is_taken_over_in_parts(self, both, database_url):
        group = await opened(both)
        await group.read("a")
        lapse(database_url, "a")
        first = await group.read("b", 2)
        second = await group.read("c", 9)
        assert (positions(first), positions(second)) == ([1, 2], [3, 4, 5])
        assert {one.attempts for one in [*first, *second]} == {2}
        await group.ack([*first, *second])

    async def test_nobody_takes_over_before_its_end(self, both):
        group = await opened(both)
        await group.read("a", lease=60)
        assert await group.read("b", timeout=0.2) == []

    async def test_extend_holds_all_of_the_batch(self, both, database_url):
        group = await opened(both)
        one, *rest = await group.read("a", lease=1)
        before = one.lease_until
        until = await one.extend(60)
        assert until == one.lease_until > before
        sql(database_url, "SELECT pg_sleep(1.1)")
        assert await group.read("b") == []
        assert await group.extend(rest, 90) > until
        assert {info.until for info in await group.pending()} == {(await group.pending())[0].until}

    async def test_leases_that_ran_out_too_often_are_dead_letters(self, both, database_url):
        group = await opened(both, 2, max_attempts=3)
        for attempt in (1, 2, 3):
            batch = await group.read(f"m{attempt}")
            assert {one.attempts for one in batch} == {attempt}
            lapse(database_url)
        await fill(both, 1)
        # What is new does not wait for another read.
        assert positions(await group.read("x")) == [3]
        one, two = await group.dead_letters()
        assert (one.position, one.attempts, one.consumer) == (1, 3, "m3")
        assert one.error == "its lease ran out, and it had been handed out 3 times"
        assert two.event.payload == {"n": 2}


@pytest.mark.parametrize("verb", ["ack", "nack", "bury", "extend"])
async def test_a_batch_that_is_lost_keeps_another_one_as_it_was(both, verb):
    """All or nothing, also where the events are of two batches."""
    group = await opened(both, 4)
    kept, lost = await group.read("a", 2), await group.read("a", 2)
    await group.ack(lost)
    before = await group.pending()
    with pytest.raises(LeaseLost):
        await getattr(group, verb)([*kept, *lost])
    assert await group.pending() == before
    assert await group.dead_letters() == []
    await group.ack(kept)


class TestGivingBack:
    async def test_at_once(self, both):
        group = await opened(both)
        one, *_ = await group.read("a")
        await one.nack(error="not now")
        (found, *_) = await group.pending()
        assert (found.position, found.parked, found.attempts) == (1, True, 1)
        assert found.error == "not now"
        (again,) = await group.read("b")
        assert (again.event.position, again.attempts) == (1, 2)

    async def test_after_a_while(self, both, database_url):
        group = await opened(both, 1)
        (one,) = await group.read("a")
        await one.nack(delay=60)
        assert await group.read("b") == []
        assert await group.read("b", timeout=0.1) == []
        fall_due(database_url)
        assert positions(await group.read("b")) == [1]

    async def test_what_was_not_begun_does_not_count(self, both):
        group = await opened(both, 1, max_attempts=1)
        for _ in range(3):
            batch = await group.read("a")
            assert batch[0].attempts == 1
            await group.nack(batch, counted=False)
        (one,) = await group.read("a")
        await one.nack(error="enough")
        assert (await group.dead_letters())[0][2:5] == (1, "a", "enough")

    async def test_all_or_nothing(self, both):
        group = await opened(both, 3)
        batch = await group.read("a")
        await batch[1].ack()
        with pytest.raises(LeaseLost):
            await group.nack(batch)
        assert (await group.info())[7:] == (2, 0, 0)
        await group.nack([batch[2], batch[0]])
        assert (await group.info())[7:] == (0, 2, 0)
        await group.nack([])

    async def test_too_often_is_a_dead_letter(self, both):
        group = await opened(both, 2, max_attempts=2)
        for n in (1, 2):
            one, *_ = await group.read("a", 1)
            assert (one.event.position, one.attempts) == (1, n)
            await one.nack(error=f"error {n}")
        assert positions(await group.read("a")) == [2]
        (letter,) = await group.dead_letters()
        assert letter[2:5] == (2, "a", "error 2")

    async def test_an_error_is_shortened_and_made_storable(self, both):
        group = await opened(both, 1)
        (one,) = await group.read("a")
        await one.nack(error="nul \0 and \ud800 " + "x" * 5000)
        (found,) = await group.pending()
        assert found.error.startswith("nul \\0 and \\ud800 xxx")
        assert len(found.error) == 2000


class TestDeadLetters:
    async def test_given_up_listed_requeued(self, both):
        group = await opened(both, 5)
        for one in await group.read("a", 4):
            await one.dead_letter(f"because of {one.event.position}")
        letters = await group.dead_letters()
        assert [letter.position for letter in letters] == [1, 2, 3, 4]
        assert (letters[1].event.payload, letters[1].error) == ({"n": 2}, "because of 2")
        assert [one.position for one in await group.dead_letters(after=1, limit=2)] == [2, 3]
        assert await group.requeue([2, 4, 77]) == 2
        assert [(one.event.position, one.attempts) for one in await group.read("b", 2)] == [
            (2, 1),
            (4, 1),
        ]
        assert await group.requeue([]) == 0
        assert await group.requeue() == 2
        assert await group.requeue() == 0
        assert positions(await group.read("b")) == [1, 3]
        assert await group.dead_letters() == []

    async def test_requeued_its_last_error_can_be_seen(self, both):
        group = await opened(both, 1)
        await (await group.read("a"))[0].dead_letter("hopeless")
        await group.requeue()
        assert (await group.pending())[0].error == "hopeless"

    async def test_of_what_is_handed_out_anyway_nothing_is_requeued(self, both):
        """After a reset to before it: it would be with two members."""
        group = await opened(both, 3)
        await (await group.read("a", 1))[0].dead_letter("first")
        await group.reset(0)
        assert await group.requeue() == 0
        (one,) = await group.read("a", 1)
        assert await group.requeue() == 0
        await one.nack(delay=60)
        assert await group.requeue([1]) == 0
        assert [letter.error for letter in await group.dead_letters()] == ["first"]
        await group.reset(1)
        assert await group.requeue() == 1
        assert positions(await group.read("a", 1)) == [1]


class TestTrimmed:
    """What a forced trim removes while the group has it, or has not had it."""

    async def test_held_or_parked_it_becomes_a_dead_letter(self, both, database_url):
        group = await opened(both, 6)
        await group.read("a", 2)
        for one in await group.read("b", 2):
            await one.nack()
        trim(database_url, 3)
        lapse(database_url)
        assert positions(await group.read("c", 2)) == [4]
        assert positions(await group.read("c", 2)) == [5, 6]
        letters = await group.dead_letters()
        assert [letter.position for letter in letters] == [1, 2, 3]
        assert {letter.error for letter in letters} == {"retention has removed the event"}
        assert {letter.event for letter in letters} == {None}
        assert await group.requeue() == 0  # There is nothing to hand out.

    async def test_who_has_it_can_still_acknowledge(self, both, database_url):
        group = await opened(both, 3)
        held = await group.read("a")
        trim(database_url, 2)
        await group.ack(held)
        assert await group.read("a") == []

    @pytest.mark.parametrize("ordered_by", [None, "stream"])
    async def test_not_handed_out_it_is_told(self, both, database_url, ordered_by):
        group = await opened(both, 6, ordered_by=ordered_by)
        held = await group.read("a", 2)
        trim(database_url, 4)
        with pytest.raises(PositionTrimmed, match=r"reset\(4\)") as error:
            await group.read("a")
        assert (error.value.position, error.value.trimmed_to) == (2, 4)
        await group.ack(held)
        with pytest.raises(PositionTrimmed):
            await group.read("a")
        assert ((info := await group.info()).position, info.held, info.parked) == (2, 0, 0)
        await group.reset(4)
        assert positions(await group.read("a")) == [5, 6]


async def test_a_failover_while_it_is_held(both, database_url):
    group = await opened(both, 3)
    held = await group.read("a", 1)
    sql(database_url, "UPDATE pgmem.groups SET timeline = timeline + 1")
    with pytest.raises(HistoryRewritten):
        await group.read("a", timeout=5)
    await group.ack(held)  # It is ours, and done.


def test_an_emptied_slot_is_filled_again(memory, database_url):
    memory.events.append("s", [Event(type="t") for _ in range(100)])
    group = memory.groups.open("g")
    while batch := group.read("a", 5):
        group.ack(batch)
    assert slots(database_url) == 1
