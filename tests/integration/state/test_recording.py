"""`state.recording`: a process that has a copy of an entry learns from the log when it is old.

2: the last change is in the log, and the next will be. 1: the last is, the next may not be.
0: the last is not. A copy may be kept of a 2 only.
"""

from __future__ import annotations

import psycopg
import pytest

from pgmem import Event
from pgmem.errors import InvalidInput

PUT, TOUCHED, DELETED = "state.put", "state.touched", "state.deleted"


@pytest.fixture
def row(database_url):
    """Return a function that reads, or sets, `recording` of the entry "k"."""

    def recording(to=None):
        with psycopg.connect(database_url, autocommit=True) as connection:
            if to is not None:
                connection.execute("UPDATE pgmem.state SET recording = %s", [to])
            found = connection.execute("SELECT recording FROM pgmem.state WHERE key = 'k'")
            return found.fetchone()[0]

    return recording


async def events(memory):
    """Type, version and payload of all events about the entry "k"."""
    return [(e.type, e.change.version, e.payload) for e in await memory.events.read("state:k")]


async def write(memory, verb, record):
    """Change the entry "k" by one of the verbs."""
    version = (await memory.state.get("k")).version
    match verb:
        case "put":
            return await memory.state.put("k", "new", record=record)
        case "compare_and_set":
            return await memory.state.compare_and_set(
                "k", "new", expected_version=version, record=record
            )
        case "update":
            return await memory.state.update("k", lambda _: "new", record=record)
        case "transaction":
            async with memory.transaction() as tx:
                return await tx.state.update("k", lambda _: "new", record=record)
        case "delete":
            return await memory.state.delete("k", record=record)


@pytest.mark.parametrize("verb", ["put", "create", "compare_and_set", "update"])
@pytest.mark.parametrize("record", [True, False])
async def test_a_new_entry_is_recorded_or_not(both, row, verb, record):
    match verb:
        case "put":
            await both.state.put("k", 1, record=record)
        case "create":
            await both.state.create("k", 1, record=record)
        case "compare_and_set":
            await both.state.compare_and_set("k", 1, expected_version=0, record=record)
        case "update":
            await both.state.update("k", lambda _: 1, record=record)
    assert row() == (2 if record else 0)
    assert await events(both) == ([(PUT, 1, 1)] if record else [])


@pytest.mark.parametrize("verb", ["put", "compare_and_set", "update", "transaction", "delete"])
@pytest.mark.parametrize(
    ("before", "record", "after"),
    [(2, True, 2), (1, True, 2), (0, True, 2), (2, False, 1), (1, False, 0), (0, False, 0)],
)
async def test_each_change_of_an_entry(both, row, verb, before, record, after):
    await both.state.put("k", "old")
    row(to=before)
    written = await write(both, verb, record)
    assert row() == after
    change = (DELETED, 2, None) if verb == "delete" else (PUT, 2, "new")
    assert await events(both) == [(PUT, 1, "old")] + [change] * (after > 0)
    if verb != "delete":
        assert (written.position is not None) == (after > 0)


async def test_recording_continues_over_delete_and_create(both, row):
    await both.state.put("k", 1)
    assert await both.state.delete("k", record=False)
    assert row() == 1
    await both.state.create("k", 3, record=False)
    assert row() == 0
    await both.state.delete("k", record=False)
    await both.state.put("k", 5, record=False)
    assert row() == 0
    await both.state.delete("k")
    await both.state.create("k", 7, record=False)
    assert row() == 1
    await both.state.put("k", 8, record=False)
    assert await events(both) == [(PUT, 1, 1), (DELETED, 2, None), (DELETED, 6, None), (PUT, 7, 7)]
    assert [e.change.version for e in await both.state.history("k")] == [1, 2, 6, 7]


async def test_only_the_first_unrecorded_write_appends_an_event(both, row):
    await both.state.put("k", 1)
    for n in range(2, 6):
        await both.state.put("k", n, record=False)
    assert row() == 0
    await both.state.put("k", 6)
    assert row() == 2
    assert await events(both) == [(PUT, 1, 1), (PUT, 2, 2), (PUT, 6, 6)]


async def test_a_write_that_loses_changes_nothing(both, row):
    await both.state.put("k", 1)
    assert not await both.state.delete("other", record=False)
    for lose in (
        both.state.create("k", 2, record=False),
        both.state.compare_and_set("k", 2, expected_version=9, record=False),
        both.state.delete("k", expected_version=9, record=False),
    ):
        with pytest.raises(Exception, match="expected"):
            await lose
    assert row() == 2
    assert await events(both) == [(PUT, 1, 1)]


EXPIRY = [
    # had an end, gets one, before, after; an event tells of a 2 that becomes 1
    (False, True, 2, 1),
    (False, True, 1, 0),
    (False, True, 0, 0),
    (True, True, 2, 2),
    (True, True, 1, 0),
    (True, False, 2, 2),
    (False, False, 2, 2),
    (False, False, 1, 0),
]


@pytest.mark.parametrize(("had", "gets", "before", "after"), EXPIRY)
async def test_an_unrecorded_touch(both, row, had, gets, before, after):
    await both.state.put("k", "v", ttl=60 if had else None)
    row(to=before)
    assert await both.state.touch("k", ttl=600 if gets else None, record=False)
    assert row() == after
    found = await both.state.get("k")
    assert (found.version, found.expires_at is not None) == (1, gets)
    told = await both.events.read("state:k", after=1)
    assert [(e.type, e.change.expires_at) for e in told] == (
        [(TOUCHED, found.expires_at)] if (before, after) == (2, 1) else []
    )
    assert {e.agent_id for e in told} <= {"tester"}


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_a_recorded_touch_appends_an_event_and_keeps_recording(both, row, before):
    await both.state.put("k", "v")
    row(to=before)
    assert await both.state.touch("k", ttl=60)
    assert await both.state.touch("k", ttl=None)
    assert row() == before
    assert [kind for kind, *_ in await events(both)] == [PUT, TOUCHED, TOUCHED]


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_a_refreshing_read_appends_no_event_and_sends_no_notification(
    both, row, before, database_url
):
    # No process has a copy of an entry that expires.
    written = await both.state.put("k", "v", ttl=60)
    row(to=before)
    with psycopg.connect(database_url, autocommit=True) as listener:
        channel = listener.execute("SELECT channel FROM pgmem.meta").fetchone()[0]
        listener.execute(f'LISTEN "{channel}"')
        found = await both.state.get("k", refresh=True)
        assert found.expires_at > written.expires_at
        assert list(listener.notifies(timeout=0.1)) == []
    assert row() == before
    assert await events(both) == [(PUT, 1, "v")]


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_a_restored_entry_is_recorded(both, row, before):
    await both.state.put("k", "kept")
    taken = await both.state.snapshots.take()
    for change in (both.state.put("k", "other"), both.state.delete("k")):
        await change
        row(to=before)
        await both.state.snapshots.restore(taken.id)
        assert row() == 2
    await both.state.delete("k")
    empty = await both.state.snapshots.take()
    await both.state.put("k", "later")
    row(to=before)
    await both.state.snapshots.restore(empty.id)
    assert row() == 2
    assert (await events(both))[-1] == (DELETED, 8, None)


async def test_a_snapshot_restores_into_an_empty_table(both, row, database_url):
    await both.state.put("k", "kept")
    taken = await both.state.snapshots.take()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM pgmem.state")
    await both.state.snapshots.restore(taken.id)
    assert row() == 2


@pytest.mark.parametrize("record", [None, 1, "no", Event(type="t")])
async def test_record_is_true_or_false(both, record):
    for call in (
        both.state.put("k", 1, record=record),
        both.state.put_many({"k": 1}, record=record),
        both.state.create("k", 1, record=record),
        both.state.compare_and_set("k", 1, expected_version=1, record=record),
        both.state.update("k", lambda _: 1, record=record),
        both.state.increment("k", record=record),
        both.state.delete("k", record=record),
        both.state.touch("k", ttl=1, record=record),
    ):
        with pytest.raises(InvalidInput, match="record is True or False, got"):
            await call
