"""Answers and failures of a handler of `group.run`, and what counts as an attempt."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext, suppress

import psycopg
import pytest

from pgmem import AsyncMemory, Discard, Event, Memory, RetryLater, RetryPolicy
from pgmem.errors import DatabaseFault, InvalidInput, TransactionConflict, Unavailable
from tests.support.group_run import GroupRun, fill, idle

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture(params=["sync", "async"])
def life(request, database_url):
    found = GroupRun(request.param, database_url)
    found.opening["retry"] = RetryPolicy(backoff=0.02)
    return found


def dead(memory) -> bool:
    return memory.groups.get("g").info().dead_letters == 1


def letters(url):
    with Memory(url) as memory:
        return memory.groups.get("g").dead_letters()


def sqlalchemy_error(cause):
    error = RuntimeError("(psycopg.errors.DeadlockDetected) …")
    error.orig = cause
    return error


CONFLICTS = [
    TransactionConflict("again"),
    Unavailable("the pool is full"),
    DatabaseFault("lock timeout", sqlstate="55P03"),
    DatabaseFault("cancelled", sqlstate="57014"),
    psycopg.errors.DeadlockDetected(),
    psycopg.errors.SerializationFailure(),
    psycopg.errors.LockNotAvailable(),
    psycopg.errors.QueryCanceled(),
    psycopg.OperationalError("the connection is lost"),
    sqlalchemy_error(psycopg.errors.DeadlockDetected()),
]


@pytest.mark.parametrize("error", CONFLICTS, ids=lambda error: type(error).__name__)
def test_a_conflict_in_the_database_is_no_attempt(life, database_url, error):
    life.opening["max_attempts"] = 1
    fill(database_url, 1)
    attempts = []

    def handle(delivery):
        attempts.append(delivery.attempts)
        if len(attempts) < 4:
            raise error

    assert life.run(handle, idle) == (1, 0, 0)
    assert attempts == [1, 1, 1, 1]


def test_conflicts_have_a_bound_that_the_dead_letter_tells(life, database_url):
    life.opening |= {"max_attempts": 1, "retry": RetryPolicy(conflicts=2)}
    fill(database_url, 1)
    calls = []

    def handle(delivery):
        calls.append(delivery.attempts)
        raise TransactionConflict("again")

    life.run(handle, dead)
    assert calls == [1, 1, 1]
    (letter,) = letters(database_url)
    assert letter.attempts == 1
    assert letter.error == (
        "TransactionConflict: again (after 2 more calls because of conflicts in the database)"
    )


def test_discard_makes_a_dead_letter_at_once(life, database_url):
    fill(database_url, 1)

    def handle(delivery):
        raise Discard("the order was cancelled")

    life.run(handle, dead)
    (letter,) = letters(database_url)
    assert (letter.attempts, letter.error) == (1, "Discard: the order was cancelled")


@pytest.mark.parametrize("once", [None, "claim"])
def test_retry_later_is_no_attempt(life, database_url, once):
    life.opening["max_attempts"] = 1
    fill(database_url, 1)
    attempts = []

    def handle(delivery):
        attempts.append(delivery.attempts)
        if len(attempts) < 4:
            raise RetryLater(0.01, "the bank is closed")

    assert life.run(handle, idle, once=once) == (1, 0, 0)
    assert attempts == [1, 1, 1, 1]


def test_a_delay_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match="delay"):
        RetryLater(-1)


def test_a_dead_letter_lists_its_failures(life, database_url):
    fill(database_url, 1)

    def handle(delivery):
        raise ValueError(f"attempt {delivery.attempts}")

    life.run(handle, dead, member="worker")
    (letter,) = letters(database_url)
    assert [(one.member, one.error) for one in letter.failures] == [
        ("worker", f"ValueError: attempt {number}") for number in (1, 2, 3)
    ]
    times = [one.failed_at for one in letter.failures]
    assert times == sorted(times)
    assert times[-1] <= letter.failed_at


def test_a_failure_is_logged_with_its_traceback(life, database_url, caplog):
    life.opening["max_attempts"] = 1
    fill(database_url, 1)

    def handle(delivery):
        raise ValueError("no luck")

    life.run(handle, dead)
    (record,) = [record for record in caplog.records if "failed at position" in record.message]
    assert "ValueError: no luck" in record.message
    assert record.exc_info[1].args == ("no luck",)


@pytest.mark.parametrize("end", ["commits", "raises", "rolls back"])
def test_acknowledged_in_the_handlers_transaction(life, database_url, end):
    """Count it as handled if the transaction was committed, and deliver it again if not."""
    fill(database_url, 4)
    handled = []

    def outcome(delivery):
        handled.append((delivery.event.position, delivery.attempts))
        if delivery.attempts == 1 and end != "commits":
            raise ZeroDivisionError

    kept = suppress(ZeroDivisionError) if end == "rolls back" else nullcontext()

    def handle(delivery):
        with kept, life.memory.transaction() as tx:
            tx.state.put(f"done:{delivery.event.position}", delivery.attempts)
            delivery.ack(tx)
            outcome(delivery)

    async def handle_async(delivery):
        with kept:
            async with life.memory.transaction() as tx:
                await tx.state.put(f"done:{delivery.event.position}", delivery.attempts)
                await delivery.ack(tx)
                outcome(delivery)

    ran = life.run(handle if life.name == "sync" else handle_async, idle)
    again = 0 if end == "commits" else 4
    assert ran == (4, again, 0)
    assert len(handled) == 4 + again
    with Memory(database_url) as memory:
        stored = [entry.value for entry in memory.state.list("done:")]
    assert stored == [1 if end == "commits" else 2] * 4


async def test_a_plain_function_runs_beside_the_loop(database_url):
    """Call it in a thread. The sync form has threads anyway."""
    fill(database_url, 1)
    called = []
    async with AsyncMemory(database_url) as memory:
        group = await memory.groups.create("g")
        loop, alive = asyncio.get_running_loop(), asyncio.Event()

        def handle(delivery):
            loop.call_soon_threadsafe(alive.set)
            asyncio.run_coroutine_threadsafe(alive.wait(), loop).result(20)
            called.append(threading.current_thread() is threading.main_thread())
            group.stop()

        assert await group.run(handle) == (1, 0, 0)
    assert called == [False]


@pytest.mark.parametrize(
    ("pool", "options", "needed"),
    [(1, {}, 2), (4, {"once": "transaction", "concurrency": 4}, 5)],
)
def test_a_pool_in_which_handlers_would_wait_for_each_other_is_refused(
    database_url, pool, options, needed
):
    with Memory(database_url, pool=pool) as memory:
        group = memory.groups.create("g")
        with pytest.raises(InvalidInput, match=f"at least {needed} connections"):
            group.run(lambda delivery, tx=None: None, **options)


@pytest.mark.parametrize("name", ["g" * 512, "組" * 170])
@pytest.mark.parametrize("once", [None, "transaction", "claim"])
def test_long_names_give_no_two_events_one_key(life, database_url, name, once):
    life.group = name
    with Memory(database_url) as memory:
        memory.events.append("s", [Event(type="t", payload=n) for n in range(12)])
    handled = []

    def handle(delivery, *_):
        handled.append(delivery.event.payload)

    async def ahandle(delivery, *_):
        handled.append(delivery.event.payload)

    ran = life.run(
        handle if life.name == "sync" else ahandle,
        lambda memory: idle(memory, name),
        once=once,
        member=name,
        concurrency=2,
    )
    assert ran == (12, 0, 0)
    assert sorted(handled) == list(range(12))
