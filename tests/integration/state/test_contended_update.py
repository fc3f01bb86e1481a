"""An update that has lost a race queues for the row lock, and so do the next ones of its key."""

from __future__ import annotations

import psycopg
import pytest

from pgmem.errors import CallbackFailed, OutcomeUnknown, PgmemError, VersionConflict
from pgmem.state.update import MOST_KEYS, QUEUED, ContendedKeys
from tests.support.cutting import CuttingRelay
from tests.support.database import sql

pytestmark = pytest.mark.both_forms

LOCK = "SELECT FROM pgmem.state WHERE key = 'k' FOR UPDATE NOWAIT"


def is_locked(url: str) -> bool:
    try:
        sql(url, LOCK)
    except psycopg.errors.LockNotAvailable:
        return True
    return False


class Adds:
    """Add one, and record whether the row was locked meanwhile. Lose the first race."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.locked: list[bool] = []

    def __call__(self, value):
        self.locked.append(is_locked(self.url))
        if len(self.locked) == 1:
            sql(self.url, "UPDATE pgmem.state SET value = '7', version = version + 1")
        return value + 1


@pytest.fixture
async def memory(form, database_url):
    async with form.memory() as opened:
        await opened.state.put("k", 0)
        yield opened


async def test_after_a_lost_race_the_row_is_locked(memory, database_url):
    adds = Adds(database_url)
    entry = await memory.state.update("k", adds, max_retries=1)
    assert (entry.value, entry.version, entry.position is not None) == (8, 3, True)
    assert adds.locked == [False, True]
    assert not is_locked(database_url)
    found = await memory.state.get("k")
    assert (found.value, found.version) == (8, 3)


async def test_the_next_updates_of_a_contended_key_queue_at_once(memory, database_url):
    adds = Adds(database_url)
    for _ in range(QUEUED + 2):
        await memory.state.update("k", adds)
    # The first race is lost. The last one tries without the lock again.
    assert adds.locked == [False] + [True] * (QUEUED + 1) + [False]
    await memory.state.put("other", 0)
    assert (await memory.state.update("other", lambda value: value + 1)).version == 2


async def test_a_function_that_raises_in_the_queue_leaves_no_lock(memory, database_url):
    await memory.state.update("k", Adds(database_url))

    def fail(value):
        assert is_locked(database_url)
        raise RuntimeError

    with pytest.raises(CallbackFailed):
        await memory.state.update("k", fail)
    assert not is_locked(database_url)
    assert (await memory.state.get("k")).value == 8


async def test_an_entry_that_was_deleted_meanwhile_is_written_anew(memory, database_url):
    await memory.state.update("k", Adds(database_url))
    await memory.state.delete("k")
    entry = await memory.state.update("k", lambda value: value)
    assert entry.value is None
    assert (await memory.state.get("k")).version == entry.version


async def test_a_write_that_the_server_refuses_in_the_queue_is_undone(memory, database_url):
    await memory.state.update("k", Adds(database_url))
    sql(database_url, "ALTER TABLE pgmem.state ADD CONSTRAINT small CHECK (value::text < '9')")
    with pytest.raises(PgmemError):
        await memory.state.update("k", lambda value: 9)
    assert not is_locked(database_url)
    assert (await memory.state.get("k")).value == 8
    assert (await memory.state.update("k", lambda value: 7)).value == 7


async def test_queued_update_takes_two_round_trips_and_a_lost_answer_is_unknown(
    form, make_database, tmp_path
):
    url = make_database(template=True)
    relay = CuttingRelay(url, tmp_path)
    async with form.memory(relay.url, pool=1) as memory:
        await memory.state.put("k", 0)
        await memory.state.update("k", Adds(url))
        await memory.state.update("k", lambda value: value + 1)  # all is prepared
        before = relay.sent
        await memory.state.update("k", lambda value: value + 1)
        assert relay.sent - before == 2
        relay.cut_once_after(b"COMMIT\0")
        with pytest.raises(OutcomeUnknown):
            await memory.state.update("k", lambda value: value + 1)
        assert (await memory.state.get("k")).value == 11
    relay.close()


async def test_without_an_entry_to_lock_the_rival_that_creates_it_is_found(memory, database_url):
    calls = []

    def create(value):
        calls.append(value)
        if len(calls) == 1:
            insert = "INSERT INTO pgmem.state (key, value, version, recording)"
            sql(database_url, f"{insert} VALUES ('new', '5', 1, 0)")
        return (value or 0) + 1

    with pytest.raises(VersionConflict):
        await memory.state.update("new", create, max_retries=0)
    assert (await memory.state.update("new", create)).value == 6


def test_contended_keys_are_bounded():
    contended = ContendedKeys()
    for number in range(MOST_KEYS + 1):
        contended.add(str(number))
    assert not contended.take("0")
    assert [contended.take(str(MOST_KEYS)) for _ in range(QUEUED + 1)] == [True] * QUEUED + [False]
