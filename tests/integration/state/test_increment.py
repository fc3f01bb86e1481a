"""Counters: `state.increment` is one statement, loses none and is exact."""

from __future__ import annotations

import threading
from contextlib import suppress

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import InvalidInput, InvalidValue, OutcomeUnknown
from tests.support.cutting import CuttingRelay


async def test_it_starts_at_zero_and_adds(both):
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


async def test_each_appends_an_event_unless_it_is_unrecorded(both):
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
async def test_the_first_unrecorded_one_after_a_recorded_one_appends_an_event(
    both, database_url, before, record, told
):
    # A process with a copy must learn that it is old; see test_recording.py.
    await both.state.put("n", 1)
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute("UPDATE pgmem.state SET recording = %s", [before])
        entry = await both.state.increment("n", record=record)
        assert (entry.position is not None) == told
        after = server.execute("SELECT recording FROM pgmem.state").fetchone()
    assert after == (2 if record else 1 if told else 0,)


async def test_only_a_new_entry_gets_an_end(both):
    entry = await both.state.increment("n", ttl=60)
    assert entry.expires_at is not None
    assert (await both.state.increment("n", ttl=1000)).expires_at == entry.expires_at
    await both.state.put("kept", 1)
    assert (await both.state.increment("kept", ttl=60)).expires_at is None


async def test_an_expired_counter_starts_again_and_its_version_continues(both):
    await both.state.put("n", 40, ttl=0.01)
    while await both.state.get("n") is not None:
        pass
    entry = await both.state.increment("n", by=2)
    assert (entry.value, entry.version, entry.expires_at) == (2, 2, None)
    await both.state.delete("n")
    assert (await both.state.increment("n")).value == 1


async def test_an_expired_value_need_not_be_a_number(both):
    await both.state.put("n", "seven", ttl=0.01)
    while await both.state.get("n") is not None:
        pass
    assert (await both.state.increment("n", by=2)).value == 2


@pytest.mark.parametrize("value", ["7", None, True, [1], {"n": 1}])
async def test_a_value_that_is_not_a_number_stays(both, value):
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


async def test_a_value_that_stops_being_a_number_while_it_waits_stays(both, database_url):
    # Its snapshot does not show the row that it waited for, so it executes again.
    with psycopg.connect(database_url) as first:
        first.execute("INSERT INTO pgmem.state (key, value, version) VALUES ('n', '\"7\"', 1)")
        committed = threading.Timer(0.2, first.commit)
        committed.start()
        with pytest.raises(InvalidValue, match="a JSON string, not a number"):
            await both.state.increment("n")
        committed.join()


async def test_a_lost_answer_is_an_unknown_outcome_and_is_not_repeated(
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
async def test_only_numbers_can_be_added(both, by):
    with pytest.raises(InvalidInput, match="increment adds"):
        await both.state.increment("n", by=by)
    assert await both.state.get("n") is None


async def test_it_commits_with_its_transaction(both):
    with suppress(ZeroDivisionError):
        async with both.transaction() as tx:
            assert (await tx.state.increment("n")).value == 1
            raise ZeroDivisionError
    assert await both.state.get("n") is None


def test_the_cache_shows_the_sum_at_once(database_url):
    with Memory(database_url, cache=100) as memory:
        memory.state.put("n", 1)
        assert memory.state.get("n").value == 1
        memory.state.increment("n")
        assert memory.state.get("n").value == 2


def test_concurrent_increments_lose_none(database_url):
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
