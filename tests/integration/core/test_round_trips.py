"""Round trips of transactions, counted by a relay: a message of the client is one chunk."""

from __future__ import annotations

from contextlib import contextmanager, suppress

import pytest

from pgmem import Event
from tests.support.cutting import CuttingRelay

pytestmark = pytest.mark.both_forms


@pytest.fixture
async def counted(form, tmp_path):
    """A memory with one connection, and a function that counts the round trips of a block."""
    relay = CuttingRelay(form.url, tmp_path)

    @contextmanager
    def trips(wanted):
        before = relay.sent
        yield
        assert relay.sent - before == wanted

    async with form.memory(relay.url, pool=1) as memory:
        await memory.state.put("k", 0)
        yield memory, trips
    relay.close()


async def test_an_empty_transaction_sends_nothing(counted):
    memory, trips = counted
    with trips(0):
        async with memory.transaction() as tx:
            assert tx.connection is not None
    with trips(0), suppress(ZeroDivisionError):
        async with memory.transaction():
            raise ZeroDivisionError


async def test_begin_travels_with_the_first_statement(counted):
    memory, trips = counted
    for _ in range(3):  # unnamed, prepared in this round trip, prepared before
        with trips(3):
            async with memory.transaction() as tx:
                await tx.state.put("k", 1)
                await tx.events.append("s", Event(type="t"))


async def test_work_once_in_a_transaction_takes_three_round_trips(counted):
    # The record; the statement of the work; the result with the commit.
    memory, trips = counted

    async def once(key):
        async with memory.transaction() as tx:

            def work():
                done = getattr(tx, "wrapped", tx).state.put("k", key)
                return _finished(done, {"balance": 7})

            return await tx.dedupe.run_once(key, work)

    for n in range(3):
        with trips(3):
            outcome = await once(f"key:{n}")
        assert (outcome.status, outcome.result) == ("processed", {"balance": 7})
        with trips(2):
            outcome = await once(f"key:{n}")
        assert (outcome.status, outcome.result) == ("skipped", {"balance": 7})


def _finished(done, result):
    """Return a result after an awaitable, or at once in a sync memory."""
    if not hasattr(done, "__await__"):
        return result

    async def wait():
        await done
        return result

    return wait()


async def test_an_optimistic_commit_is_one_round_trip(counted):
    memory, trips = counted
    for n in range(3):
        async with memory.optimistic(idempotency_key=f"key:{n}") as tx:
            await tx.state.get("k")
            await tx.state.put("k", n)
            await tx.state.put(f"new:{n}", n)
            await tx.events.append("s", Event(type="t"))
            end = trips(1)
            end.__enter__()
        end.__exit__(None, None, None)


async def test_the_users_first_statement_is_in_the_transaction(counted):
    memory, _ = counted
    with suppress(ZeroDivisionError):
        async with memory.transaction() as tx:
            await _run(tx.connection.execute("DELETE FROM pgmem.state"))
            raise ZeroDivisionError
    assert (await memory.state.get("k")).value == 0


async def test_a_savepoint_of_the_user_outlives_an_earlier_one_of_pgmem(counted):
    memory, _ = counted
    async with memory.transaction() as tx:
        await tx.events.append("s", Event(type="t"), expected_version=0)  # in a savepoint
        await _run(tx.connection.execute("SAVEPOINT mine"))
        await tx.state.put("k", 1)
        await _run(tx.connection.execute("ROLLBACK TO SAVEPOINT mine"))
    assert (await memory.state.get("k")).value == 0
    assert await memory.events.count("s") == 1


async def _run(done):
    return await done if hasattr(done, "__await__") else done
