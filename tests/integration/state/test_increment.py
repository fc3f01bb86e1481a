"""state.increment: one statement, none lost, exact."""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import InvalidInput, InvalidValue, OutcomeUnknown
from tests.support.cutting import CuttingRelay


async def test_it_begins_at_zero_and_adds_up(both):
    assert (await both.state.increment("n")).value == 1
    assert (await both.state.increment("n", by=5)).value == 6
    entry = await both.state.increment("n", by=-10)
    assert (entry.value, entry.version) == (-4, 3)
    assert (await both.state.get("n")).value == -4


async def test_decimals_add_up_as_decimals(both):
    await both.state.put("n", 0.1)
    assert (await both.state.increment("n", by=0.2)).value == 0.3
    await both.state.put("large", 2**62)
    assert (await both.state.increment("large", by=1)).value == 2**62 + 1


async def test_each_is_an_event_unless_it_is_not_to_be(both):
    await both.state.increment("n")
    await both.state.increment("n", event=Event(type="visited", payload={"by": "a"}), stream="v")
    first, second = await both.state.history("n")
    assert (first.type, first.payload) == ("state.put", 1)
    assert (second.stream, second.payload, second.change.value) == ("v", {"by": "a"}, 2)
    entry = await both.state.increment("other", record=False)
    assert entry.position is None
    assert await both.state.history("other") == []


@pytest.mark.parametrize(
    ("before", "record", "told"),
    [(2, True, True), (0, True, True), (2, False, True), (1, False, False), (0, False, False)],
)
async def test_the_first_that_is_not_recorded_is_told_all_the_same(
    both, database_url, before, record, told
):
    """Whoever has a copy of the entry must learn that it is void: see test_recording.py."""
    await both.state.put("n", 1)
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute("UPDATE pgmem.state SET recording = %s", [before])
        entry = await both.state.increment("n", record=record)
        assert (entry.position is not None) == told
        after = server.execute("SELECT recording FROM pgmem.state").fetchone()
    assert after == (2 if record else 1 if told else 0,)


async def test_only_an_entry_that_begins_gets_an_end(both):
    entry = await both.state.increment("n", ttl=60)
    assert entry.expires_at is not None
    assert (await both.state.increment("n", ttl=1000)).expires_at == entry.expires_at
    await both.state.put("kept", 1)
    assert (await both.state.increment("kept", ttl=60)).expires_at is None


async def test_after_its_end_it_begins_anew_and_its_version_goes_on(both):
    await both.state.put("n", 40, ttl=0.01)
    while await both.state.get("n") is not None:
        pass
    entry = await both.state.increment("n", by=2)
    assert (entry.value, entry.version, entry.expires_at) == (2, 2, None)
    await both.state.delete("n")
    assert (await both.state.increment("n")).value == 1


async def test_what_has_ended_need_not_have_been_a_number(both):
    await both.state.put("n", "seven", ttl=0.01)
    while await both.state.get("n") is not None:
        pass
    assert (await both.state.increment("n", by=2)).value == 2


@pytest.mark.parametrize("value", ["7", None, True, [1], {"n": 1}])
async def test_what_is_no_number_is_left_as_it_is(both, value):
    await both.state.put("n", value)
    with pytest.raises(InvalidValue, match="not a number"):
        await both.state.increment("n")
    entry = await both.state.get("n")
    assert (entry.value, entry.version) == (value, 1)


@pytest.mark.parametrize(("value", "by"), [(2**63 - 1, 1), (-(2**63) + 1, -1), (1e300, 1)])
async def test_a_sum_out_of_range_is_refused(both, value, by):
    await both.state.put("n", value)
    with pytest.raises(InvalidValue, match="leave"):
        await both.state.increment("n", by=by)
    assert (await both.state.get("n")).version == 1


async def test_what_is_no_number_by_the_time_it_is_its_turn(both, database_url):
    """Its own snapshot does not show what it has waited for: it looks again."""
    with psycopg.connect(database_url) as first:
        first.execute("INSERT INTO pgmem.state (key, value, version) VALUES ('n', '\"7\"', 1)")
        committed = threading.Timer(0.2, first.commit)
        committed.start()
        with pytest.raises(InvalidValue, match="a JSON string, not a number"):
            await both.state.increment("n")
        committed.join()


async def test_whether_a_lost_one_was_added_is_not_known_and_it_is_not_added_twice(
    form, database_url, tmp_path
):
    relay = CuttingRelay(database_url, tmp_path)
    async with form.memory(relay.url, pool=1) as memory:
        relay.cut_once_after(b"INSERT INTO")
        with pytest.raises(OutcomeUnknown, match="increment state 'n'"):
            await memory.state.increment("n")
        assert relay.cuts == 1
        assert (await memory.state.get("n")).value == 1


@pytest.mark.parametrize("by", [True, "1", None, float("nan"), float("inf"), 2**63, -(2**63)])
async def test_what_cannot_be_added(both, by):
    with pytest.raises(InvalidInput, match="increment adds"):
        await both.state.increment("n", by=by)
    assert await both.state.get("n") is None


async def test_in_a_transaction_it_commits_with_it(both):
    with suppress(ZeroDivisionError):
        async with both.transaction() as tx:
            assert (await tx.state.increment("n")).value == 1
            raise ZeroDivisionError
    assert await both.state.get("n") is None


def test_a_cached_entry_shows_the_sum_at_once(database_url):
    with Memory(database_url, cache=100) as memory:
        memory.state.put("n", 1)
        assert memory.state.get("n").value == 1
        memory.state.increment("n")
        assert memory.state.get("n").value == 2


def test_of_many_at_once_none_is_lost(database_url):
    with Memory(database_url, pool=8) as memory:

        def add():
            for _ in range(50):
                memory.state.increment("n", record=False)

        threads = [threading.Thread(target=add) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entry = memory.state.get("n")
    assert (entry.value, entry.version) == (400, 400)
