"""Consumer groups: what they follow and from where, who may join, what they tell, and resets."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgmem import Event
from pgmem.errors import (
    AlreadyExists,
    HistoryRewritten,
    InvalidInput,
    LeaseLost,
    NotFound,
    PositionTrimmed,
)
from tests.support.groups import batch_rows, fill, lapse, positions, waiting
from tests.support.subscriptions import sql
from tests.system.retention.test_trimmed import trim


class TestOpening:
    async def test_a_new_group_begins_with_the_oldest_event(self, both):
        await fill(both, 3)
        group = await both.groups.create("g")
        assert group.name == "g"
        assert positions(await group.read("a")) == [1, 2, 3]

    async def test_now_begins_with_the_next_event(self, both):
        await fill(both, 3)
        group = await both.groups.create("g", after="now")
        assert await group.read("a") == []
        await fill(both, 1)
        assert positions(await group.read("a")) == [4]

    async def test_behind_a_position(self, both):
        await fill(both, 5)
        group = await both.groups.create("g", after=3)
        assert positions(await group.read("a")) == [4, 5]
        last = await both.groups.create("h", after=5)
        assert await last.read("a") == []

    async def test_start_counts_only_when_it_is_made(self, both):
        await fill(both, 5)
        group = await both.groups.create("g")
        assert positions(await group.read("a", 2)) == [1, 2]
        joined = await both.groups.create("g", after="now", exist_ok=True)
        assert positions(await joined.read("b")) == [3, 4, 5]
        # Nor is it looked at: the group is there.
        assert (await both.groups.create("g", after=99, exist_ok=True)).name == "g"

    async def test_above_the_head_is_refused(self, both):
        await fill(both, 5)
        with pytest.raises(InvalidInput, match="after=6 is above the last position of the log, 5"):
            await both.groups.create("g", after=6)
        assert await both.groups.list() == []

    async def test_below_what_was_trimmed_is_refused(self, both, database_url):
        await fill(both, 5)
        trim(database_url, 3)
        with pytest.raises(PositionTrimmed) as error:
            await both.groups.create("g", after=2)
        assert (error.value.position, error.value.trimmed_to) == (2, 3)
        assert await both.groups.list() == []
        for name, start in (("zero", 0), ("edge", 3)):
            group = await both.groups.create(name, after=start)
            assert positions(await group.read("a")) == [4, 5]

    async def test_another_streams_trim_does_not_matter(self, both, database_url):
        await fill(both, 3, "other")
        await fill(both, 3, "work")
        trim(database_url, 3, "other")
        group = await both.groups.create("g", stream="work", after=2)
        assert positions(await group.read("a")) == [4, 5, 6]
        with pytest.raises(PositionTrimmed):
            await both.groups.create("h", stream=["work", "other"], after=2)

    @pytest.mark.parametrize(
        "other",
        [
            {"stream": "b"},
            {},
            {"stream": ["a", "b"]},
            {"prefix": "a"},
            {"stream": "a", "type": "t"},
            {"stream": "a", "agent_id": "x"},
            {"stream": "a", "ordered_by": "stream"},
            {"stream": "a", "max_attempts": 6},
        ],
        ids=str,
    )
    async def test_another_group_of_that_name_is_told(self, both, other):
        await both.groups.create("g", stream="a")
        with pytest.raises(AlreadyExists, match=r"memory\.groups\.delete\('g'\)"):
            await both.groups.create("g", **other, exist_ok=True)
        assert (await (await both.groups.get("g")).info()).selection == {"streams": ["a"]}

    async def test_an_existing_group_is_refused_unless_exist_ok(self, both):
        await fill(both, 2)
        group = await both.groups.create("g")
        assert positions(await group.read("a", 1)) == [1]
        with pytest.raises(AlreadyExists, match="exist_ok=True"):
            await both.groups.create("g")
        assert positions(await (await both.groups.create("g", exist_ok=True)).read("a")) == [2]

    async def test_streams_are_the_same_in_any_order(self, both):
        await both.groups.create("g", stream=["a", "b"])
        assert (await both.groups.create("g", stream=["b", "a"], exist_ok=True)).name == "g"

    async def test_many_that_open_it_at_once_have_one_group(self, form, database_url):
        async with form.memory(pool=8) as memory:
            for n in range(10):
                opened = await asyncio.gather(
                    *(memory.groups.create(f"g{n}", exist_ok=True) for _ in range(6))
                )
                assert {group.name for group in opened} == {f"g{n}"}
        assert sql(database_url, "SELECT count(*) FROM pgmem.groups") == [(10,)]


class TestLooking:
    async def test_list_and_get(self, both):
        assert await both.groups.list() == []
        assert await both.groups.list() == []
        await both.groups.create("h", prefix="x", ordered_by="stream", max_attempts=2)
        await both.groups.create("g", stream="work")
        listed = await both.groups.list()
        assert [info.name for info in listed] == ["g", "h"]
        found = await (await both.groups.get("h")).info()
        assert found == listed[1]
        assert (found.selection, found.ordered_by, found.max_attempts) == (
            {"prefix": "x"},
            "stream",
            2,
        )

    async def test_info_counts_what_is_open(self, both):
        await fill(both, 10)
        group = await both.groups.create("g")
        one, two, three, *_ = await group.read("a", 6)
        await one.ack()
        await two.nack(delay=60, error="later")
        await three.dead_letter("never")
        info = await group.info()
        assert (info.position, info.held, info.delayed, info.dead_letters) == (6, 3, 1, 1)
        assert info.updated_at >= info.created_at
        assert info == await (await both.groups.get("g")).info()

    async def test_pending_lists_the_member_of_each_event(self, both):
        await fill(both, 6)
        group = await both.groups.create("g")
        first = await group.read("a", 2)
        await first[1].nack(delay=60, error="later")
        second = await group.read("b", 2, lease=90)
        held, parked, *others = await group.pending()
        assert held[:4] == (1, "a", 1, first[0].expires_at)
        assert (held.error, held.delayed) == (None, False)
        assert (parked.position, parked.member, parked.attempts) == (2, None, 1)
        assert (parked.error, parked.delayed, parked.claimed_at) == ("later", True, None)
        assert [(one.position, one.member) for one in others] == [(3, "b"), (4, "b")]
        assert others[0].until == second[0].expires_at
        assert len(await group.pending(limit=3)) == 3

    async def test_lag_counts_what_is_final_and_not_handed_out(self, both):
        group = await both.groups.create("g", stream="work")
        assert await group.lag() == 0
        await fill(both, 7)
        await fill(both, 3, "other")
        await group.read("a", 2)
        assert await group.lag() == 5
        await group.read("a", 5)
        assert await group.lag() == 0

    async def test_lag_counts_what_the_feed_has_not_heard_of_yet(self, both):
        group = await both.groups.create("g", stream="work")
        await group.read("a", timeout=0.2)  # From now on the log is followed.
        for count in range(1, 31):
            await fill(both, 1)
            assert await group.lag() == count

    async def test_after_delete_it_is_not_found(self, both, database_url):
        await fill(both, 6)
        group = await both.groups.create("g")
        (one, two) = await group.read("a", 2)
        await one.nack(delay=60)
        (three,) = await group.read("a", 1)
        await three.dead_letter()
        assert await both.groups.delete("g") is True
        assert await both.groups.delete("g") is False
        for table in ("groups", "batches", "delayed", "dead_letters"):
            assert sql(database_url, f"SELECT count(*) FROM pgmem.{table}") == [(0,)], table
        for call in (
            lambda: group.read("a"),
            lambda: group.read("a", timeout=5),
            lambda: group.read("a", ack=[two]),
            lambda: two.ack(),
            lambda: two.nack(),
            lambda: two.extend(),
            lambda: two.dead_letter(),
            lambda: group.info(),
            lambda: group.lag(),
            lambda: group.requeue(),
            lambda: group.reset(0),
        ):
            with pytest.raises(NotFound, match=r"there is no group 'g'.*groups\.create"):
                await call()

    async def test_one_of_the_same_name_begins_anew(self, both):
        await fill(both, 3)
        group = await both.groups.create("g")
        (old,) = await group.read("a", 1)
        await both.groups.delete("g")
        again = await both.groups.create("g", stream="work")
        assert positions(await again.read("b")) == [1, 2, 3]
        with pytest.raises(LeaseLost):
            await old.ack()


class TestReset:
    async def test_moves_it_back_and_forth(self, both):
        await fill(both, 6)
        group = await both.groups.create("g")
        await group.ack(await group.read("a"))
        await group.reset(2)
        await group.ack(again := await group.read("a", 2))
        assert positions(again) == [3, 4]
        await group.reset(5)
        assert positions(await group.read("a")) == [6]
        await group.reset(0)
        assert positions(await group.read("a")) == [1, 2, 3, 4, 5, 6]

    async def test_above_the_head_is_refused(self, both):
        await fill(both, 5)
        group = await both.groups.create("g")
        held = await group.read("a", 2)
        with pytest.raises(InvalidInput, match="the last position of the log is 5"):
            await group.reset(6)
        await group.ack(held)
        assert (await group.info()).position == 2
        await group.reset(5)

    async def test_below_what_was_trimmed_is_refused(self, both, database_url):
        await fill(both, 6)
        group = await both.groups.create("g")
        held = await group.read("a")
        trim(database_url, 3)
        with pytest.raises(PositionTrimmed) as error:
            await group.reset(2)
        assert (error.value.position, error.value.trimmed_to) == (2, 3)
        await group.ack(held)
        await group.reset(3)
        assert positions(await group.read("a")) == [4, 5, 6]
        await group.reset(0)
        assert positions(await group.read("a")) == [4, 5, 6]

    async def test_reset_fences_off_members_and_forgets_delayed_events(self, both):
        await fill(both, 6)
        group = await both.groups.create("g")
        held, parked = await group.read("a", 2)
        await parked.nack(delay=60)
        (buried,) = await group.read("a", 1)
        await buried.dead_letter("kept")
        await group.reset(0)
        for late in (held.ack, held.nack, held.extend, held.dead_letter):
            with pytest.raises(LeaseLost):
                await late()
        assert [letter.position for letter in await group.dead_letters()] == [3]
        assert (await group.info())[8:] == (0, 0, 1)
        assert positions(await group.read("b")) == [1, 2, 3, 4, 5, 6]

    async def test_reset_fences_off_a_claim_under_way(self, both, database_url):
        """Reset waits for a claim that has handed out events and not committed."""
        await fill(both, 6)
        group = await both.groups.create("g")
        await group.ack(await group.read("a", 1))  # Leaves an empty batch row to fill.
        for _ in range(3):
            with psycopg.connect(database_url) as rival:
                rival.execute(
                    "UPDATE pgmem.groups SET position = position + 1, updated_at = now();"
                    "UPDATE pgmem.batches SET token = nextval('pgmem.batches_token_seq'),"
                    " positions = '{2}', member = 'rival', expires_at = now() + interval '1 h'"
                )
                reset = asyncio.ensure_future(asyncio.wait_for(group.reset(1), 20))
                await asyncio.sleep(0.2)
                assert not reset.done()
                rival.commit()
                await reset
            assert (await group.info()).held == 0

    async def test_accepts_another_history(self, both, database_url):
        await fill(both, 6)
        group = await both.groups.create("g")
        held = await group.read("a", 3)
        sql(database_url, "UPDATE pgmem.groups SET timeline = timeline + 1")
        with pytest.raises(HistoryRewritten, match=r"group\.reset\(position\)") as error:
            await group.read("a")
        assert error.value.position == 3
        assert error.value.expected.timeline == error.value.found.timeline + 1
        await group.reset(3)
        with pytest.raises(LeaseLost):
            await group.ack(held)
        assert positions(await group.read("a")) == [4, 5, 6]

    async def test_reset_wakes_waiting_members(self, both):
        await fill(both, 2)
        group = await both.groups.create("g")
        await group.ack(await group.read("a"))
        waiter = await waiting(group, timeout=20)
        await group.reset(1)
        assert positions(await asyncio.wait_for(waiter, 5)) == [2]


@pytest.mark.parametrize("rewrite", ["timeline = timeline + 1", "system_identifier = 1"])
async def test_nothing_is_handed_out_in_another_history(both, database_url, rewrite):
    """Neither new events, nor what was given back, nor what ran out."""
    await fill(both, 6)
    group = await both.groups.create("g")
    one, two = await group.read("a", 2)
    await one.nack()
    sql(database_url, f"UPDATE pgmem.groups SET {rewrite}")
    before = sql(database_url, "SELECT * FROM pgmem.batches"), batch_rows(database_url)
    for _ in range(2):
        with pytest.raises(HistoryRewritten):
            await group.read("b")
    sql(database_url, "DELETE FROM pgmem.delayed")
    assert before == (sql(database_url, "SELECT * FROM pgmem.batches"), batch_rows(database_url))
    lapse(database_url)
    before = sql(database_url, "SELECT * FROM pgmem.batches")
    with pytest.raises(HistoryRewritten):
        await group.read("b")
    assert sql(database_url, "SELECT * FROM pgmem.batches") == before
    assert two.attempts == 1


async def test_a_selection_and_a_model(both):
    from pydantic import BaseModel

    class Job(BaseModel):
        n: int

    await both.events.append("work", [Event(type="job", payload={"n": 1}), Event(type="other")])
    await both.events.append("work", Event(type="job", payload={"n": 2}, agent_id="other"))
    await both.events.append("elsewhere", Event(type="job", payload={"n": 3}))
    group = await both.groups.create("g", stream="work", type="job", agent_id="tester", model=Job)
    (only,) = await group.read("a")
    assert only.event.payload == Job(n=1)


async def test_a_group_of_an_earlier_timeline_keeps_what_is_open(both, database_url):
    """Claim after a promotion: what is held stays held, what is delayed is delivered again."""
    await fill(both, 6)
    group = await both.groups.create("g")
    one, two = await group.read("a", 2)
    await one.nack()
    sql(database_url, "UPDATE pgmem.groups SET timeline = timeline - 1")
    assert positions(await group.read("b", 2)) == [1]
    assert positions(await group.read("b", 9)) == [3, 4, 5, 6]
    await two.ack()
    present = sql(database_url, "SELECT timeline FROM pgmem.epochs")
    assert sql(database_url, "SELECT timeline FROM pgmem.groups") == present


async def test_a_group_of_an_earlier_timeline_is_refused_if_asked(both, database_url):
    await fill(both, 3)
    group = await both.groups.create("g", on_failover="refuse")
    sql(database_url, "UPDATE pgmem.groups SET timeline = timeline - 1")
    for _ in range(2):
        with pytest.raises(HistoryRewritten, match=r"group\.reset\(position\)"):
            await group.read("a")
    await group.reset(1)
    assert positions(await group.read("a")) == [2, 3]
    with pytest.raises(InvalidInput, match="on_failover"):
        await both.groups.get("g", on_failover="ask")


async def test_a_member_checks_a_later_timeline_before_it_claims(both):
    # A position that was stable before a promotion may not be so after it.
    await fill(both, 3)
    group = await both.groups.create("g")
    database = getattr(both, "wrapped", both)._database
    present = database.history
    database.history = present._replace(timeline=present.timeline - 1)
    assert positions(await group.read("a")) == [1, 2, 3]
    assert database.history == present
