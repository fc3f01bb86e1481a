"""Concurrent appends of one process share a transaction, and each caller has its own outcome."""

from __future__ import annotations

import asyncio
import os

import orjson
import psycopg
import pytest

from pgmem import AsyncMemory, Event, Memory
from pgmem.core.coalesce import ADMITTED
from pgmem.errors import DatabaseFault, NotOpen, OutcomeUnknown, Unavailable
from tests.support.callers import (
    callers,
    held_appends,
    hold,
    release,
    until_waiting,
)
from tests.support.cutting import CuttingRelay

pytestmark = pytest.mark.both_forms

FIRST = 1
"""The lock of the appends that are executed at once, and keep the others in the queue."""
SECOND = 2
HELD_BACK = range(1, ADMITTED + 1)


def append(number: int, type: str = "plain"):
    """Return a call that appends an event."""
    return lambda memory: memory.events.append("s", Event(type=type, payload={"n": number}))


def log_of(url: str):
    """Return position, number and transaction of each event."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT position, (payload->>'n')::int, xmin::text FROM pgmem.events ORDER BY position"
        ).fetchall()


def numbers(url: str) -> list[int]:
    return [number for _, number, _ in log_of(url)]


@pytest.fixture
async def queueing(form, make_database):
    """Callers of a memory whose first appends are held, so that the next ones queue."""
    form.url = make_database(template=True)
    with held_appends(form.url) as connection:
        hold(connection, FIRST)
        async with form.memory() as memory, callers(memory) as made:
            first = [made.start(append(-n, f"held:{FIRST}")) for n in HELD_BACK]
            await until_waiting(connection, FIRST, ADMITTED)
            made.url, made.connection, made.first = form.url, connection, first
            yield made


async def test_queued_appends_share_one_transaction(queueing):
    futures = await queueing.start_queued([append(n) for n in range(40)])
    release(queueing.connection, FIRST)
    receipts = await asyncio.gather(*futures)
    rows = [row for row in log_of(queueing.url) if row[1] >= 0]
    assert [row[:2] for row in rows] == [(r.position, n) for n, r in enumerate(receipts)]
    assert len({transaction for _, _, transaction in rows}) == 1
    await asyncio.gather(*queueing.first)


async def test_a_refused_append_is_refused_to_its_caller_only(queueing):
    calls = [append(n, "refused" if n == 7 else "plain") for n in range(20)]
    futures = await queueing.start_queued(calls)
    release(queueing.connection, FIRST)
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(outcomes.pop(7), DatabaseFault)
    positions = {outcome.position for outcome in outcomes}
    rows = [row for row in log_of(queueing.url) if row[1] >= 0]
    assert {row[0] for row in rows} == positions
    assert sorted(row[1] for row in rows) == [n for n in range(20) if n != 7]


async def test_a_lost_connection_leaves_each_outcome_unknown_and_no_event_twice(queueing):
    hold(queueing.connection, SECOND)
    calls = [append(n, f"held:{SECOND}" if n == 9 else "plain") for n in range(20)]
    futures = await queueing.start_queued(calls)
    release(queueing.connection, FIRST)
    [server] = await until_waiting(queueing.connection, SECOND, 1)
    await asyncio.gather(*queueing.first)
    queueing.connection.execute("SELECT pg_terminate_backend(%s)", (server,))
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}
    assert all("append to 's'" in str(outcome) for outcome in outcomes)
    release(queueing.connection, SECOND)
    [receipt] = await queueing.all([append(100)])
    assert numbers(queueing.url)[ADMITTED:] == [100]
    assert receipt.position


async def test_a_lost_answer_leaves_each_outcome_unknown_and_no_event_twice(
    form, make_database, tmp_path
):
    url = make_database(template=True)
    relay = CuttingRelay(url, tmp_path)
    with held_appends(url) as connection:
        hold(connection, FIRST)
        async with form.memory(relay.url) as memory, callers(memory) as made:
            first = [made.start(append(-n, f"held:{FIRST}")) for n in HELD_BACK]
            await until_waiting(connection, FIRST, ADMITTED)
            relay.cut_once_after(b'{"n":19}')
            futures = await made.start_queued([append(n) for n in range(20)])
            release(connection, FIRST)
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            await asyncio.gather(*first)
    relay.close()
    assert relay.cuts == 1
    assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}
    assert [n for n in numbers(url) if n >= 0] == list(range(20))


async def test_the_order_of_each_callers_calls_is_kept(form, database_url):
    async with form.memory() as memory, callers(memory) as made:
        receipts = await made.all([_appends_in_turn(memory, caller) for caller in range(30)])
    got = {}
    for position, number, _ in log_of(database_url):
        got.setdefault(number // 1000, []).append((position, number % 1000))
    assert got == {
        caller: [(receipt.position, n) for n, receipt in enumerate(own)]
        for caller, own in enumerate(receipts)
    }


def _appends_in_turn(memory, caller: int):
    """Return a call that appends ten events one after another."""
    given = [caller * 1000 + n for n in range(10)]
    if isinstance(memory, AsyncMemory):

        async def appending(memory):
            return [await append(number)(memory) for number in given]

        return appending
    return lambda memory: [append(number)(memory) for number in given]


async def test_each_shared_append_is_announced(form, make_database):
    """Compare the notifications on the channel with the receipts."""
    url = make_database(template=True)
    with held_appends(url) as connection:
        channel = connection.execute("SELECT channel FROM pgmem.meta").fetchone()[0]
        connection.execute(f'LISTEN "{channel}"')
        hold(connection, FIRST)
        hold(connection, SECOND)
        async with form.memory(url) as memory, callers(memory) as made:
            held = [FIRST] * (ADMITTED - 1) + [SECOND]
            first = [made.start(append(-1, f"held:{number}")) for number in held]
            await until_waiting(connection, FIRST, ADMITTED - 1)
            await until_waiting(connection, SECOND, 1)
            futures = await made.start_queued([append(n) for n in range(10)])
            # The other one has not come to the notification lock yet, so it is free.
            release(connection, FIRST)
            positions = [receipt.position for receipt in await asyncio.gather(*futures)]
            release(connection, SECOND)
            await asyncio.gather(*first)
        announced = [
            orjson.loads(notification.payload)[1][0]
            for notification in _notified(connection)
            if notification.payload != "+"
        ]
    assert [position for position in announced if position in positions] == positions


def _notified(connection):
    connection.execute("SELECT")
    return connection.notifies(timeout=0)


async def test_calls_that_get_no_answer_in_time_know_if_they_were_sent(form, make_database):
    url = make_database(template=True)
    with held_appends(url) as connection:
        hold(connection, FIRST)
        async with form.memory(url, timeout=0.5) as memory, callers(memory) as made:
            sent = [made.start(append(-n, f"held:{FIRST}")) for n in HELD_BACK]
            await until_waiting(connection, FIRST, ADMITTED)
            queued = await made.start_queued([append(1)])
            outcomes = await asyncio.gather(*sent, *queued, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes[:-1]] == [OutcomeUnknown] * ADMITTED
            release(connection, FIRST)
            assert (await made.all([append(3)]))[0].position
    appended = sorted(numbers(url))
    if isinstance(outcomes[-1], Unavailable):
        assert appended == [3]
    elif isinstance(outcomes[-1], OutcomeUnknown):
        assert appended in ([3], [1, 3])
    else:
        assert appended == [1, 3]


async def test_cancelling_one_caller_leaves_the_others(make_database):
    url = make_database(template=True)
    with held_appends(url) as connection:
        hold(connection, FIRST)
        hold(connection, SECOND)
        async with AsyncMemory(url) as memory, callers(memory) as made:
            first = [made.start(append(-n, f"held:{FIRST}")) for n in HELD_BACK]
            await until_waiting(connection, FIRST, ADMITTED)
            calls = [append(n, f"held:{SECOND}" if n == 0 else "plain") for n in range(6)]
            futures = await made.start_queued(calls)
            futures[3].cancel()  # in the queue: it is never sent
            release(connection, FIRST)
            await until_waiting(connection, SECOND, 1)
            futures[4].cancel()  # sent: it takes effect, and the cancellation waits for that
            await asyncio.sleep(0)
            assert futures[3].cancelled()
            assert not futures[4].done()
            release(connection, SECOND)
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            await asyncio.gather(*first)
    assert [type(outcomes[n]) for n in (3, 4)] == [asyncio.CancelledError] * 2
    others = [outcomes[n].position for n in (0, 1, 2, 5)]
    rows = [row for row in log_of(url) if row[1] >= 0]
    assert [row[1] for row in rows] == [0, 1, 2, 4, 5]
    assert others == [row[0] for row in rows if row[1] != 4]


async def test_cancelling_a_first_call_lets_the_queue_go_on(make_database):
    url = make_database(template=True)
    with held_appends(url) as connection:
        hold(connection, FIRST)
        async with AsyncMemory(url) as memory, callers(memory) as made:
            first = [made.start(append(-n, f"held:{FIRST}")) for n in HELD_BACK]
            await until_waiting(connection, FIRST, ADMITTED)
            futures = await made.start_queued([append(n) for n in range(5)])
            for future in first:
                future.cancel()
            receipts = await asyncio.gather(*futures)
    assert [receipt.position for receipt in receipts] == [row[0] for row in log_of(url)]


async def test_a_closed_memory_refuses_a_call_that_would_queue(queueing):
    [queued] = await queueing.start_queued([append(1)])
    release(queueing.connection, FIRST)
    await asyncio.gather(queued, *queueing.first)
    memory = queueing._wrapped or queueing._memory
    closing = memory.close()
    if closing is not None:
        await closing
    [outcome] = await queueing.all([append(2)])
    assert isinstance(outcome, NotOpen)


def test_a_forked_child_is_refused_while_the_parents_calls_are_under_way(make_database):
    url = make_database(template=True)
    with held_appends(url) as connection:
        hold(connection, FIRST)
        asyncio.run(_forks_under_way(url, connection))


async def _forks_under_way(url, connection):
    with Memory(url) as memory:
        threads = [asyncio.to_thread(append(-n, f"held:{FIRST}"), memory) for n in HELD_BACK]
        first = [asyncio.ensure_future(thread) for thread in threads]
        await until_waiting(connection, FIRST, ADMITTED)
        child = os.fork()
        if not child:
            try:
                memory.events.append("s", Event(type="plain"))
            except NotOpen:
                os._exit(0)
            os._exit(1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        release(connection, FIRST)
        await asyncio.gather(*first)
    assert os.waitstatus_to_exitcode(status) == 0
