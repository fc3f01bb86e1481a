"""Redelivery and dead letters: expired leases, events given back, events trimmed."""

from __future__ import annotations

import pytest

from pgmem.errors import LeaseLost, PositionTrimmed
from tests.support.groups import fall_due, fill, lapse, opened, positions
from tests.support.subscriptions import sql
from tests.system.retention.test_trimmed import trim


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
        assert (positions(new), new[0].attempts) == ([1], 1)
        assert new[0].token > old[0].token
        for late in (old[0].ack, old[0].nack, old[0].extend, old[0].dead_letter):
            with pytest.raises(LeaseLost, match=str(old[0].token)):
                await late()
        with pytest.raises(LeaseLost):
            await group.ack([new[0], old[1]])
        await group.ack(new)

    async def test_lost_together_they_are_handed_out_alone_and_no_attempt_counts(
        self, both, database_url
    ):
        """Count none: one of them may have killed the member, and the server cannot see which."""
        group = await opened(both)
        await group.read("a")
        lapse(database_url, "a")
        got = [await group.read(f"b{n}", 9) for n in range(6)]
        assert list(map(positions, got)) == [[1], [2], [3], [4], [5], []]
        assert {one.attempts for batch in got for one in batch} == {1}

    async def test_lost_alone_an_attempt_counts(self, both, database_url):
        group = await opened(both, 3, max_attempts=2)
        batch = await group.read("a")
        await group.ack([batch[0], batch[2]])
        lapse(database_url)
        (again,) = await group.read("b")
        assert (again.event.position, again.attempts) == (2, 2)
        lapse(database_url)
        assert await group.read("c") == []
        (letter,) = await group.dead_letters()
        assert (letter.position, letter.attempts, letter.member) == (2, 2, "b")
        assert [failure.member for failure in letter.failures] == ["a", "b"]
        assert letter.failures[0].failed_at < letter.failures[1].failed_at <= letter.failed_at

    async def test_an_event_that_kills_its_members_takes_no_other_with_it(self, both, database_url):
        """Event 3 of 10 kills each member that handles it, and nothing else does."""
        group = await opened(both, 10)
        handled = []
        for _ in range(20):
            if not (batch := await group.read("m", 10)):
                break
            for one in batch:
                if one.event.position == 3:
                    lapse(database_url)
                    break
                handled.append(one.event.position)
                await one.ack()
        assert sorted(handled) == [1, 2, 4, 5, 6, 7, 8, 9, 10]
        (letter,) = await group.dead_letters()
        assert (letter.position, letter.attempts) == (3, 5)

    async def test_an_event_that_failed_without_killing_its_member_is_no_suspect(
        self, both, database_url
    ):
        group = await opened(both, 3)
        await group.read("a", 2)
        lapse(database_url)
        (one,) = await group.read("b")
        await one.nack()
        fall_due(database_url)
        assert positions(await group.read("b")) == [1]
        assert positions(await group.read("b")) == [2]

    async def test_no_takeover_before_the_lease_ends(self, both):
        group = await opened(both)
        await group.read("a", lease=60)
        assert await group.read("b", timeout=0.2) == []

    async def test_extend_holds_all_of_the_batch(self, both, database_url):
        group = await opened(both)
        one, *rest = await group.read("a", lease=1)
        before = one.expires_at
        until = await one.extend(60)
        assert until == one.expires_at > before
        sql(database_url, "SELECT pg_sleep(1.1)")
        assert await group.read("b") == []
        assert await group.extend(rest, 90) > until
        assert {info.until for info in await group.pending()} == {(await group.pending())[0].until}

    async def test_leases_that_ran_out_too_often_are_dead_letters(self, both, database_url):
        group = await opened(both, 2, max_attempts=3)
        for attempt in (1, 2, 3):
            batch = await group.read(f"m{attempt}", 1) + await group.read(f"m{attempt}", 1)
            assert [(one.event.position, one.attempts) for one in batch] == [
                (1, attempt),
                (2, attempt),
            ]
            lapse(database_url)
        await fill(both, 1)
        # What is new does not wait for another read.
        assert positions(await group.read("x")) == [3]
        one, two = await group.dead_letters()
        assert (one.position, one.attempts, one.member) == (1, 3, "m3")
        assert one.error.startswith("its lease expired while the member handled it")
        assert two.event.payload == {"n": 2}


@pytest.mark.parametrize("verb", ["ack", "nack", "dead_letter", "extend"])
async def test_a_batch_that_is_lost_keeps_another_one_as_it_was(both, verb):
    """Refuse all of them, also if the events are of two batches."""
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
        assert (found.position, found.delayed, found.attempts) == (1, True, 1)
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

    async def test_restore_is_all_or_nothing(self, both):
        group = await opened(both, 3)
        batch = await group.read("a")
        await batch[1].ack()
        with pytest.raises(LeaseLost):
            await group.nack(batch)
        assert (await group.info())[8:] == (2, 0, 0)
        await group.nack([batch[2], batch[0]])
        assert (await group.info())[8:] == (0, 2, 0)
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
    """Events that a forced trim removes while the group has them, or before it had them."""

    async def test_held_or_delayed_it_becomes_a_dead_letter(self, both, database_url):
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

    async def test_the_member_that_has_it_can_still_acknowledge(self, both, database_url):
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
        assert ((info := await group.info()).position, info.held, info.delayed) == (2, 0, 0)
        await group.reset(4)
        assert positions(await group.read("a")) == [5, 6]
