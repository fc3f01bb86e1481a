"""A call that is given up (cancellation, scope, Ctrl-C): it ends, and nothing stays held."""

from __future__ import annotations

import asyncio
import signal
import threading

import anyio
import psycopg
import pytest

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import LeaseHeld, LeaseLost
from tests.support.database import lock_waits

ROW = "SELECT FROM pgmem.state WHERE key = 'k' FOR UPDATE"


@pytest.fixture
def locked(database_url):
    """Lock the row of the key `k` until the block ends."""
    with psycopg.connect(database_url) as connection:
        connection.execute(ROW)
        yield connection


@pytest.fixture
async def opened(database_url):
    async with AsyncMemory(database_url, pool=1) as memory:
        await memory.state.put("k", 1)
        yield memory


async def until(condition):
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


async def begun(task, connection):
    async def is_waiting():
        return lock_waits(connection)

    await until(is_waiting)
    return task


async def put_in_a_transaction(memory):
    async with memory.transaction() as tx:
        await tx.state.put("k", 2)


CALLS = [
    lambda memory: memory.state.put("k", 2),
    lambda memory: memory.state.update("k", lambda value: value + 1),
    put_in_a_transaction,
]


@pytest.mark.parametrize("call", CALLS, ids=["put", "update", "transaction"])
async def test_a_cancelled_call_takes_no_effect_and_frees_its_connection(
    opened, database_url, call
):
    with psycopg.connect(database_url) as connection:
        connection.execute(ROW)
        task = await begun(asyncio.ensure_future(call(opened)), connection)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The only connection of the pool is replaced: the next call works.
        assert (await opened.state.get("k")).value == 1
    assert (await opened.state.get("k")).value == 1


async def test_an_anyio_scope_ends_a_call_and_frees_its_connection(opened, database_url):
    with psycopg.connect(database_url) as connection:
        connection.execute(ROW)
        with anyio.move_on_after(0.3) as scope:
            await put_in_a_transaction(opened)
        assert scope.cancelled_caught
        assert (await opened.state.get("k")).value == 1


class TestLeases:
    async def free(self, opened, name):
        async def is_free():
            return await opened.leases.get(name) is None

        await until(is_free)

    async def test_a_cancelled_hold_releases(self, opened):
        entered = asyncio.Event()

        async def work():
            async with opened.leases.hold("job", ttl=3600):
                entered.set()
                await asyncio.sleep(3600)

        task = asyncio.ensure_future(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.free(opened, "job")

    async def test_an_anyio_scope_releases(self, opened):
        with anyio.move_on_after(0.2):
            async with opened.leases.hold("job", ttl=3600):
                await anyio.sleep(3600)
        await self.free(opened, "job")

    async def test_a_cancelled_waiter_leaves_the_queue(self, database_url):
        async with AsyncMemory(database_url) as opened:
            lease = await opened.leases.acquire("job", ttl=3600)
            with anyio.move_on_after(0.3):
                await opened.leases.acquire("job", ttl=3600)

            async def queue_is_empty():
                return (await opened.leases.get("job")).waiters == 0

            await until(queue_is_empty)
            await lease.release()
            assert await opened.leases.get("job") is None

    async def test_a_second_release_after_a_cancelled_one_is_fine(self, opened, database_url):
        lease = await opened.leases.acquire("job", ttl=3600)
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE pgmem.leases IN ACCESS EXCLUSIVE MODE")
            task = await begun(asyncio.ensure_future(lease.release()), connection)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await self.free(opened, "job")
        await lease.release()

    async def test_a_release_without_an_answer_is_repeated(self, opened, monkeypatch):
        lease = await opened.leases.acquire("job", ttl=3600)
        execute = opened._executor.execute

        async def lose(op, **options):
            await execute(op, **options)
            raise asyncio.CancelledError

        monkeypatch.setattr(opened._executor, "execute", lose)
        with pytest.raises(asyncio.CancelledError):
            await lease.release()
        monkeypatch.undo()
        await lease.release()

    async def test_a_lease_that_was_lost_before_still_says_so(self, opened):
        lease = await opened.leases.acquire("job", ttl=3600)
        await opened.leases.release("job", token=lease.token)
        with pytest.raises(LeaseLost):
            await lease.release()


async def test_a_scope_around_a_durable_subscription_releases_it(opened):
    with anyio.move_on_after(0.3):
        async with opened.events.subscribe("s", durable="d") as events:
            await events.receive()
    await opened.events.append("s", Event(type="t"))
    # The lease lasts 30 s, so it was released.
    async with opened.events.subscribe("s", durable="d") as events:
        assert len(await events.receive(timeout=20)) == 1


class TestDedupe:
    async def free(self, opened, key):
        async def is_free():
            try:
                await opened.dedupe.release(await opened.dedupe.claim(key))
            except LeaseHeld:
                return False
            return True

        await until(is_free)

    async def test_a_scope_around_run_once_releases_the_claim(self, opened):
        with anyio.move_on_after(0.2):
            await opened.dedupe.run_once("key", lambda: asyncio.sleep(3600))
        outcome = await opened.dedupe.run_once("key", lambda: 5)
        assert outcome.result == 5

    async def test_a_cancelled_claim_is_released(self, opened, database_url):
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE pgmem.dedupe IN ACCESS EXCLUSIVE MODE")
            task = await begun(asyncio.ensure_future(opened.dedupe.claim("key")), connection)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await self.free(opened, "key")


def interrupted(call):
    """Send this process SIGINT while the main thread is in a call; return what it raised."""
    timer = threading.Timer(
        0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        call()
    except BaseException as error:  # A KeyboardInterrupt is what callers expect.
        return error
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    return None


class TestInterrupt:
    @pytest.fixture
    def memory(self, database_url):
        with Memory(database_url, pool=1) as memory:
            memory.state.put("k", 1)
            yield memory

    def check(self, memory):
        """Use the only connection of the pool: no answer is under way on it, and none is lost."""
        assert memory.state.get("k").value == 1
        assert memory.state.put("other", "value").value == "value"
        with memory.transaction() as tx:
            assert tx.state.get("other").value == "value"

    def test_in_a_statement(self, memory, locked):
        assert isinstance(interrupted(lambda: memory.state.put("k", 2)), KeyboardInterrupt)
        self.check(memory)
        locked.rollback()
        assert memory.state.get("k").value == 1

    def test_in_a_transaction(self, memory, locked):
        def work():
            with memory.transaction() as tx:
                tx.state.put("other", 2)
                tx.state.put("k", 2)

        assert isinstance(interrupted(work), KeyboardInterrupt)
        self.check(memory)

    def test_in_the_callers_own_statement(self, memory):
        def work():
            with memory.transaction() as tx:
                tx.connection.execute("SELECT pg_sleep(60)")

        assert isinstance(interrupted(work), KeyboardInterrupt)
        self.check(memory)

    def test_in_the_wait_for_a_connection(self, memory):
        def work():
            with memory.transaction():
                memory.state.get("k")

        assert isinstance(interrupted(work), KeyboardInterrupt)
        self.check(memory)

    def test_in_the_wait_for_an_event(self, memory):
        def work():
            with memory.events.subscribe("s") as events:
                events.receive()

        assert isinstance(interrupted(work), KeyboardInterrupt)
        self.check(memory)
        memory.events.append("s", Event(type="t"))
        with memory.events.subscribe("s") as events:
            assert len(events.receive(timeout=20)) == 1

    def test_in_the_wait_for_a_lease(self, memory, database_url):
        with Memory(database_url) as other:
            lease = other.leases.acquire("job", ttl=3600)
            assert isinstance(interrupted(lambda: memory.leases.acquire("job")), KeyboardInterrupt)
            lease.release()
            assert other.leases.get("job") is None
        self.check(memory)
