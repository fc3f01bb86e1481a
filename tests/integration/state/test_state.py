"""State: versions, compare-and-set, time to live, and the event of each write."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import psycopg
import pytest
from pydantic import BaseModel

from pgmem import KEEP, Event, Memory
from pgmem.core.validation import after_prefix
from pgmem.errors import CallbackFailed, InvalidInput, VersionConflict
from tests.support.database import sql


def expire(url, key):
    sql(
        url,
        "UPDATE pgmem.state SET expires_at = clock_timestamp() - interval '1 s' WHERE key = %s",
        key,
    )


async def test_put_and_get(both):
    written = await both.state.put("account:1", {"balance": 5})
    found = await both.state.get("account:1")
    assert (written.version, written.value, written.expires_at) == (1, {"balance": 5}, None)
    assert found == written._replace(position=None)
    assert (await both.state.put("account:1", None)).version == 2
    assert (await both.state.get("account:1")).value is None
    assert await both.state.get("nothing") is None


async def test_get_many_and_list_by_prefix(both):
    for key in ["a:1", "a:2", "a:10", "b:1", "a", "ä:1", "a;"]:
        await both.state.put(key, key)
    assert {k: e.value for k, e in (await both.state.get_many(["a:1", "b:1", "zz"])).items()} == {
        "a:1": "a:1",
        "b:1": "b:1",
    }
    assert await both.state.get_many([]) == {}
    assert [e.key for e in await both.state.list("a:")] == ["a:1", "a:10", "a:2"]
    assert [e.key for e in await both.state.list("a:", after="a:1", limit=1)] == ["a:10"]
    assert [e.key for e in await both.state.list()] == [
        "a", "a:1", "a:10", "a:2", "a;", "b:1", "ä:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("a", "b"), ("", None), ("a\U0010ffff", "b"), ("\U0010ffff", None), ("\ud7ff", "\ue000")],
)
def test_end_of_a_prefix(prefix, expected):
    assert after_prefix(prefix) == expected


async def test_create_only_where_nothing_is(both):
    created = await both.state.create("k", 1)
    with pytest.raises(VersionConflict) as conflict:
        await both.state.create("k", 2)
    assert (conflict.value.expected, conflict.value.actual) == (0, 1)
    assert conflict.value.current == created._replace(position=None)
    assert (await both.state.get("k")).value == 1


async def test_compare_and_set_only_over_the_expected_version(both):
    await both.state.put("k", 1)
    assert (await both.state.compare_and_set("k", 2, expected_version=1)).version == 2
    for stale in (1, 3):
        with pytest.raises(VersionConflict) as conflict:
            await both.state.compare_and_set("k", 9, expected_version=stale)
        assert (conflict.value.actual, conflict.value.current.value) == (2, 2)
    assert (await both.state.compare_and_set("new", 1, expected_version=0)).version == 1
    with pytest.raises(VersionConflict) as conflict:
        await both.state.compare_and_set("nothing", 1, expected_version=4)
    assert (conflict.value.actual, conflict.value.current) == (0, None)


async def test_a_failed_compare_and_set_changes_nothing_and_appends_nothing(both, database_url):
    await both.state.put("k", 1)
    before = sql(database_url, "SELECT * FROM pgmem.state"), await both.events.count()
    with pytest.raises(VersionConflict):
        await both.state.compare_and_set("k", 2, expected_version=7)
    with pytest.raises(VersionConflict):
        await both.state.delete("k", expected_version=7)
    with pytest.raises(VersionConflict):
        await both.state.create("k", 2)
    assert (sql(database_url, "SELECT * FROM pgmem.state"), await both.events.count()) == before


async def test_no_stale_version_matches_after_delete_and_create(both):
    await both.state.put("k", "first life")
    assert await both.state.delete("k")
    assert await both.state.get("k") is None
    reborn = await both.state.create("k", "second life")
    assert reborn.version == 3
    with pytest.raises(VersionConflict):
        await both.state.compare_and_set("k", "stale", expected_version=1)
    assert (await both.state.get("k")).value == "second life"


async def test_delete(both):
    await both.state.put("k", 1)
    with pytest.raises(VersionConflict):
        await both.state.delete("k", expected_version=2)
    assert await both.state.delete("k", expected_version=1)
    assert not await both.state.delete("k")
    with pytest.raises(VersionConflict):
        await both.state.delete("k", expected_version=2)
    assert [e.key for e in await both.state.list()] == []


async def test_expired_entries_are_gone_for_every_verb(both, database_url):
    await both.state.put("k", 1, ttl=timedelta(minutes=1))
    assert (await both.state.get("k")).expires_at is not None
    expire(database_url, "k")
    assert await both.state.get("k") is None
    assert await both.state.get("k", refresh=True) is None
    assert await both.state.get_many(["k"]) == {}
    assert await both.state.list() == []
    assert not await both.state.touch("k", ttl=60)
    assert not await both.state.delete("k")
    with pytest.raises(VersionConflict):
        await both.state.compare_and_set("k", 2, expected_version=1)
    assert (await both.state.create("k", 2)).version == 2


async def test_time_to_live_is_kept_changed_and_removed(both):
    async def ends():
        return (await both.state.get("k")).expires_at

    first = (await both.state.put("k", 1, ttl=60)).expires_at
    await both.state.compare_and_set("k", 2, expected_version=1)
    assert await ends() == first
    await both.state.update("k", lambda value: value + 1)
    assert await ends() == first
    await both.state.compare_and_set("k", 4, expected_version=3, ttl=600)
    assert await ends() > first
    assert await both.state.touch("k", ttl=30)
    assert await ends() < first
    assert await both.state.touch("k", ttl=None)
    assert await ends() is None
    await both.state.put("k", 1, ttl=60)
    await both.state.put("k", 1)
    assert await ends() is None


async def test_ttl_of_conditional_writes_keeps_sets_and_removes_the_end(both):
    first = await both.state.put("k", 1, ttl=60)
    kept = await both.state.compare_and_set("k", 2, expected_version=1, ttl=KEEP)
    assert (kept.expires_at, kept.ttl) == (first.expires_at, 60)
    longer = await both.state.update("k", lambda value: 3, ttl=timedelta(minutes=10))
    assert longer.expires_at > first.expires_at
    assert longer.ttl == 600
    assert (await both.state.update("k", lambda value: 4)).expires_at == longer.expires_at
    gone = await both.state.compare_and_set("k", 5, expected_version=4, ttl=None)
    assert (gone.expires_at, gone.ttl) == (None, None)
    assert await both.state.get("k") == gone._replace(position=None)
    for write in (both.state.put, both.state.create):
        with pytest.raises(InvalidInput, match="ttl"):
            await write("k", 1, ttl=KEEP)
    assert (await both.state.update("new", lambda value: 1)).ttl is None
    assert (await both.state.update("short", lambda value: 1, ttl=5)).ttl == 5


async def test_refresh_renews_by_the_entrys_own_lifetime(both):
    first = await both.state.put("k", 1, ttl=60)
    found = await both.state.get("k", refresh=True)
    assert first.expires_at < found.expires_at
    assert (found.ttl, found.version, found.value) == (60, 1, 1)
    assert await both.state.touch("k", ttl=600)
    later = await both.state.get("k", refresh=True)
    assert later.expires_at > found.expires_at
    assert later.ttl == 600
    forever = await both.state.put("k", 2)
    assert await both.state.get("k", refresh=True) == forever._replace(position=None)


async def test_refresh_while_another_writer_removes_the_end(both, database_url):
    # The statement waits for the row, then finds no lifetime.
    await both.state.put("k", 1, ttl=60)
    with psycopg.connect(database_url) as writer:
        writer.execute("UPDATE pgmem.state SET expires_at = NULL, ttl = NULL")
        reading = asyncio.ensure_future(asyncio.to_thread(_refresh, database_url))
        await asyncio.to_thread(_until_waiting, database_url)
        writer.commit()
        assert (await reading).value == 1
    assert (await both.state.get("k")).expires_at is None


def _refresh(url):
    with Memory(url) as memory:
        return memory.state.get("k", refresh=True)


def _until_waiting(url):
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    while not sql(url, query, name):
        time.sleep(0.01)


async def test_created_at_is_of_the_present_life(both, database_url):
    first = await both.state.put("k", 1)
    assert first.created_at <= first.updated_at
    for write in (
        both.state.put("k", 2),
        both.state.update("k", lambda value: 3),
        both.state.increment("k"),
        both.state.put_many({"k": 4}),
    ):
        written = await write
        entry = written[0] if isinstance(written, list) else written
        assert entry.created_at == first.created_at < entry.updated_at
    await both.state.delete("k")
    second = await both.state.create("k", 1)
    assert second.created_at > entry.updated_at
    await both.state.touch("k", ttl=60)
    expire(database_url, "k")
    assert (await both.state.increment("k")).created_at > second.created_at
    assert await both.state.get("k") == (await both.state.get_many(["k"]))["k"]


async def test_touch_keeps_the_version(both):
    await both.state.put("k", 1)
    await both.state.touch("k", ttl=60)
    assert (await both.state.get("k")).version == 1
    *_, touched = await both.events.read("state:k")
    assert (touched.type, touched.change.version) == ("state.touched", None)
    assert touched.change.expires_at == (await both.state.get("k")).expires_at


async def test_every_write_has_its_event(both):
    await both.state.create("k", 1)
    await both.state.put("k", 2)
    await both.state.compare_and_set("k", 3, expected_version=2)
    await both.state.update("k", lambda value: value + 1)
    await both.state.delete("k")
    events = await both.events.read("state:k")
    assert [(e.type, e.version, e.payload) for e in events] == [
        ("state.put", 1, 1),
        ("state.put", 2, 2),
        ("state.put", 3, 3),
        ("state.put", 4, 4),
        ("state.deleted", 5, None),
    ]
    assert {event.agent_id for event in events} == {"tester"}
    assert await both.state.history("k") == events
    assert [e.version for e in await both.state.history("k", after=3, limit=1)] == [4]


async def test_own_event_and_stream_replace_the_default_one(both):
    event = Event(type="validated", payload={"amount": 5}, agent_id="v", metadata={"m": 1})
    written = await both.state.put("v:last", {"n": 1}, event=event, stream="agent:events")
    (found,) = await both.events.read("agent:events")
    assert (found.position, found.type, found.payload) == (
        written.position,
        "validated",
        {"amount": 5},
    )
    assert (found.agent_id, found.metadata) == ("v", {"m": 1})
    assert found.change[:4] == ("v:last", 1, False, {"n": 1})
    assert await both.events.read("state:v:last") == []
    await both.state.put("v:last", {"amount": 5}, event=event, stream="agent:events")
    await both.state.put("v:last", None, event=event)
    await both.state.delete("v:last", event=event, stream="agent:events")
    assert [e.change.value for e in await both.state.history("v:last")] == [
        {"n": 1}, {"amount": 5}, None, None,
    ]  # fmt: skip
    assert [e.change.deleted for e in await both.state.history("v:last")] == [
        False, False, False, True,
    ]  # fmt: skip


async def test_unrecorded_writes_leave_no_event(both):
    written = await both.state.put("k", 1, record=False)
    assert written.position is None
    await both.state.compare_and_set("k", 2, expected_version=1, record=False)
    await both.state.update("k", lambda value: value, record=False)
    await both.state.touch("k", ttl=5, record=False)
    await both.state.delete("k", record=False)
    assert await both.events.count() == 0
    with pytest.raises(InvalidInput, match="record=False"):
        await both.state.put("k", 1, record=False, stream="s")


async def test_update_from_nothing_and_with_a_model(both):
    class Account(BaseModel):
        balance: int = 0

    def deposit(account):
        return Account(balance=(account.balance if account else 0) + 5)

    await both.state.update("a", deposit, model=Account)
    entry = await both.state.update("a", deposit, model=Account)
    assert entry.version == 2
    assert (await both.state.get("a")).value == {"balance": 10}
    assert (await both.state.get("a", model=Account)).value == Account(balance=10)


async def test_update_writes_nothing_if_its_function_raises(both):
    await both.state.put("k", 1)

    def fail(value):
        raise ValueError("no")

    with pytest.raises(CallbackFailed, match="ValueError") as error:
        await both.state.update("k", fail)
    assert isinstance(error.value.__cause__, ValueError)
    async with both.transaction() as tx:
        with pytest.raises(CallbackFailed):
            await tx.state.update("k", fail)
        await tx.state.put("other", 1)
    assert (await both.state.get("k")).version == 1
    assert await both.state.get("other") is not None


async def test_update_loses_a_race_then_queues(both, database_url):
    """Another writer comes between the read and the write; then the row is locked."""
    await both.state.put("k", 0)
    calls = 0
    with Memory(database_url) as rival:

        def interfere(value):
            nonlocal calls
            calls += 1
            if calls == 1:
                rival.state.update("k", lambda v: v + 100)
            return value + 1

        entry = await both.state.update("k", interfere)
    assert (calls, entry.value, entry.version) == (2, 101, 3)


async def test_update_gives_up_after_max_retries(both, database_url):
    await both.state.put("k", 0)
    with Memory(database_url) as rival:

        def interfere(value):
            rival.state.put("k", 5)
            return value + 1

        with pytest.raises(VersionConflict) as conflict:
            await both.state.update("k", interfere, max_retries=0)
    assert conflict.value.current.value == 5


async def test_conflict_holds_the_entry_that_won_while_the_writer_waited(both, database_url):
    # The winner commits after the statement began; the error must not show the old entry.
    await both.state.put("k", "old")
    with psycopg.connect(database_url) as winner:
        winner.execute("UPDATE pgmem.state SET value = '\"won\"', version = 2 WHERE key = 'k'")

        def lose():
            with Memory(database_url) as memory:
                memory.state.compare_and_set("k", "lost", expected_version=1)

        losing = asyncio.get_running_loop().run_in_executor(None, lose)
        await asyncio.sleep(0.2)
        winner.commit()
        with pytest.raises(VersionConflict) as conflict:
            await losing
    assert (conflict.value.actual, conflict.value.current.value) == (2, "won")


async def test_events_of_one_key_are_in_the_order_of_their_versions(both, database_url):
    # A put that waits for a row lock draws its position after it has the lock.
    await both.state.put("k", 0)
    with psycopg.connect(database_url) as first:
        bound = Memory(database_url)
        bound.open()
        bound.using(first).state.put("k", "first")
        waiting = asyncio.get_running_loop().run_in_executor(
            None, lambda: bound.state.put("k", "second")
        )
        await asyncio.sleep(0.2)
        bound.using(first).events.append("s", Event(type="t"))
        first.commit()
        await waiting
        bound.close()
    history = await both.state.history("k")
    positions = [event.position for event in history]
    assert [event.payload for event in history] == [0, "first", "second"]
    assert positions == sorted(positions)
