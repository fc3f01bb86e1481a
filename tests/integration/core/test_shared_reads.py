"""Concurrent reads of one process share a round trip, and each caller has its own result."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager

import psycopg
import pytest

from pgmem import AsyncMemory, Event
from pgmem.core.coalesce import ADMITTED
from pgmem.errors import DatabaseFault, VersionConflict
from tests.support.callers import callers
from tests.support.cutting import CuttingRelay
from tests.support.database import lock_waits
from tests.support.waiting import until

pytestmark = pytest.mark.both_forms

KEYS = [f"key:{n}" for n in range(20)]


def get(key: str):
    """Return a call that reads an entry."""
    return lambda memory: memory.state.get(key)


def event_at(position: int):
    """Return a call that reads an event."""
    return lambda memory: memory.events.get(position)


def put(key: str, value):
    """Return a call that writes an entry."""
    return lambda memory: memory.state.put(key, value)


def fill(url: str) -> None:
    """Write entries, of which `key:7` cannot be read."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """INSERT INTO pgmem.state (key, value, version, recording)
            SELECT 'key:' || n, to_json(n), 1, 0 FROM generate_series(0, 19) AS n;
            ALTER TABLE pgmem.state RENAME TO stored;
            CREATE FUNCTION readable(key text) RETURNS bool LANGUAGE plpgsql AS $$
            BEGIN
                IF key = 'key:7' THEN RAISE EXCEPTION 'refused' USING ERRCODE = 'P0001'; END IF;
                RETURN true;
            END $$;
            CREATE VIEW pgmem.state AS SELECT * FROM pgmem.stored WHERE readable(key);"""
        )


@contextmanager
def locked(url: str):
    """Lock the entries, so that reads wait until the block ends."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE pgmem.stored IN ACCESS EXCLUSIVE MODE")
        yield connection


async def start_reads(made, url: str):
    """Start 20 reads that queue behind some that wait for a lock, and return all their results."""
    with locked(url), psycopg.connect(url, autocommit=True) as watching:
        first = [made.start(get("key:0")) for _ in range(ADMITTED)]
        await until(lambda: _waiting(watching) == ADMITTED)
        futures = await made.start_queued([get(key) for key in KEYS])
    outcomes = await asyncio.gather(*first, *futures, return_exceptions=True)
    return outcomes[ADMITTED:]


def _waiting(connection) -> int:
    return len(lock_waits(connection))


async def test_each_caller_reads_its_own_entry_or_gets_its_own_error(form, make_database):
    url = make_database(template=True)
    fill(url)
    async with form.memory(url) as memory, callers(memory) as made:
        outcomes = await start_reads(made, url)
    assert isinstance(outcomes[7], DatabaseFault)
    assert [n if n == 7 else one.value for n, one in enumerate(outcomes)] == list(range(20))


async def test_queued_reads_share_a_round_trip(form, make_database, tmp_path):
    url = make_database(template=True)
    fill(url)
    readable = [key for key in KEYS if key != "key:7"]
    relay = CuttingRelay(url, tmp_path)
    async with form.memory(relay.url) as memory, callers(memory) as made:
        with locked(url), psycopg.connect(url, autocommit=True) as watching:
            first = [made.start(get("key:0")) for _ in range(ADMITTED)]
            await until(lambda: _waiting(watching) == ADMITTED)
            futures = await made.start_queued([get(key) for key in readable])
            before = relay.sent
        await asyncio.gather(*first, *futures)
        assert relay.sent - before == 1
    relay.close()


async def test_queued_reads_of_one_entry_and_of_none_get_their_own_answers(form, make_database):
    url = make_database(template=True)
    fill(url)
    async with form.memory(url) as memory, callers(memory) as made:
        with locked(url), psycopg.connect(url, autocommit=True) as watching:
            first = [made.start(get("key:0")) for _ in range(ADMITTED)]
            await until(lambda: _waiting(watching) == ADMITTED)
            wanted = ["key:1", "absent", "key:1", "key:2", "absent"]
            futures = await made.start_queued([get(key) for key in wanted])
        outcomes = await asyncio.gather(*futures, *first)
    assert [entry and entry.value for entry in outcomes[:5]] == [1, None, 1, 2, None]


async def test_queued_reads_of_events_get_their_own_answers(form, make_database, tmp_path):
    url = make_database(template=True)
    relay = CuttingRelay(url, tmp_path)
    async with form.memory(relay.url) as memory, callers(memory) as made:
        receipts = await made.all([_append] * 3)
        positions = [receipt.position for receipt in receipts]
        wanted = [*positions, positions[0], 1_000_000]
        with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as watching:
            holder.execute("LOCK TABLE pgmem.events IN ACCESS EXCLUSIVE MODE")
            first = [made.start(event_at(positions[0])) for _ in range(ADMITTED)]
            await until(lambda: _waiting(watching) == ADMITTED)
            futures = await made.start_queued([event_at(position) for position in wanted])
            before = relay.sent
        events = await asyncio.gather(*futures, *first)
        assert relay.sent - before == 1
    relay.close()
    assert [event and event.position for event in events[:5]] == [*wanted[:-1], None]


async def test_reads_with_lost_answers_are_made_again(form, make_database, tmp_path):
    url = make_database(template=True)
    fill(url)
    relay = CuttingRelay(url, tmp_path)
    async with form.memory(relay.url) as memory, callers(memory) as made:
        relay.cut_once_after(b"key:19")
        outcomes = await start_reads(made, url)
    relay.close()
    assert relay.cuts == 1
    assert isinstance(outcomes[7], DatabaseFault)
    assert [n if n == 7 else one.value for n, one in enumerate(outcomes)] == list(range(20))


async def test_a_killed_connection_is_replaced_for_all_readers(form, make_database):
    url = make_database(template=True)
    fill(url)
    async with form.memory(url) as memory, callers(memory) as made:
        with psycopg.connect(url, autocommit=True) as watching:
            with locked(url):
                first = [made.start(get("key:0")) for _ in range(ADMITTED)]
                await until(lambda: _waiting(watching) == ADMITTED)
                futures = await made.start_queued([get(key) for key in KEYS[:5]])
                [_, *killed] = lock_waits(watching)
                for pid in killed:
                    watching.execute("SELECT pg_terminate_backend(%s)", (pid,))
                # The queue goes on, on a connection of its own, and waits for the lock.
                await until(lambda: made.queued() == 0 and _waiting(watching) >= ADMITTED)
                for pid in lock_waits(watching):
                    watching.execute("SELECT pg_terminate_backend(%s)", (pid,))
            outcomes = await asyncio.gather(*first, *futures)
    assert [entry.value for entry in outcomes] == [0] * ADMITTED + [0, 1, 2, 3, 4]


async def test_a_call_that_waits_for_a_lock_holds_up_no_other(form, database_url):
    async with form.memory() as memory, callers(memory) as made:
        await made.all([put("hot", 0), put("cold", 0)])
        with psycopg.connect(database_url) as holder:
            holder.execute("SELECT FROM pgmem.state WHERE key = 'hot' FOR UPDATE")
            blocked = [made.start(put("hot", n)) for n in (1, 2)]
            calls = [get("hot"), get("cold"), _append] * 20
            outcomes = await made.all(calls)
            assert [entry.value for entry in outcomes[:2]] == [0, 0]
            assert all(outcome is not None for outcome in outcomes)
            assert not any(future.done() for future in blocked)
        written = await asyncio.gather(*blocked)
    assert sorted(entry.version for entry in written) == [2, 3]


def _append(memory):
    return memory.events.append("s", Event(type="t"))


async def test_cancelling_one_reader_leaves_the_others(make_database):
    url = make_database(template=True)
    fill(url)
    async with AsyncMemory(url) as memory, callers(memory) as made:
        with locked(url), psycopg.connect(url, autocommit=True) as watching:
            first = [made.start(get("key:0")) for _ in range(ADMITTED)]
            await until(lambda: _waiting(watching) == ADMITTED)
            futures = await made.start_queued([get(key) for key in KEYS[:4]])
            for reader in first[1:]:
                reader.cancel()
            await until(lambda: made.queued() == 0 and _waiting(watching) == 2)
            futures[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await futures[1]
        outcomes = await asyncio.gather(*futures, first[0], return_exceptions=True)
    del outcomes[1]
    assert [entry.value for entry in outcomes] == [0, 2, 3, 0]


@pytest.mark.parametrize("seed", range(3))
async def test_random_calls_of_many_callers_agree_with_a_model(form, database_url, seed):
    """Give each caller an entry and a stream of its own, so its results are known."""
    async with form.memory() as memory, callers(memory) as made:
        model = _steps_async if isinstance(memory, AsyncMemory) else _steps
        results = await made.all([_caller(model, caller, seed) for caller in range(30)])
    assert results == [None] * 30


def _caller(steps, caller: int, seed: int):
    return lambda memory: steps(memory, caller, random.Random(seed * 1000 + caller))


class _Model:
    """Keep what one caller has written, and compare results with it."""

    def __init__(self, caller: int) -> None:
        self.key, self.stream = f"own:{caller}", f"stream:{caller}"
        self.version, self.value, self.positions = 0, None, []

    def step(self, rng: random.Random):
        """Return a random call and a function that checks its result."""
        value = rng.randrange(10**6)
        kind = rng.choice(["get", "get", "append", "append", "put", "cas", "conflict", "read"])
        if kind == "get":
            return get(self.key), self.check_entry
        if kind == "append":
            event = Event(type="t", payload=value)
            return lambda memory: memory.events.append(self.stream, event), self.appended
        if kind == "put":
            return put(self.key, value), lambda entry: self.written(entry, value)
        if kind == "read":
            return (
                lambda memory: memory.events.read(self.stream, reverse=True, limit=1000),
                lambda events: self.check_stream([event.position for event in events]),
            )
        expected = self.version if kind == "cas" else self.version + 1

        def call(memory):
            return memory.state.compare_and_set(self.key, value, expected_version=expected)

        return call, self.conflicted if kind == "conflict" else lambda e: self.written(e, value)

    def check_entry(self, entry) -> None:
        found = (0, None) if entry is None else (entry.version, entry.value)
        assert found == (self.version, self.value)

    def appended(self, receipt) -> None:
        assert not self.positions or receipt.position > self.positions[-1]
        self.positions.append(receipt.position)

    def written(self, entry, value) -> None:
        self.version, self.value = self.version + 1, value
        self.check_entry(entry)

    def check_stream(self, positions) -> None:
        assert positions == self.positions[::-1]

    def conflicted(self, error) -> None:
        assert isinstance(error, VersionConflict)
        assert error.actual == self.version


def _steps(memory, caller: int, rng: random.Random) -> None:
    model = _Model(caller)
    for _ in range(25):
        call, check = model.step(rng)
        try:
            result = call(memory)
        except VersionConflict as error:
            result = error
        check(result)


async def _steps_async(memory, caller: int, rng: random.Random) -> None:
    model = _Model(caller)
    for _ in range(25):
        call, check = model.step(rng)
        try:
            result = await call(memory)
        except VersionConflict as error:
            result = error
        check(result)
