"""A consumer's lease while it is held, and its end: renewed, lost, given back, forgotten."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import psycopg
import pytest

from pgmem import AsyncMemory, Memory
from pgmem.errors import LeaseLost, NotOpen
from pgmem.events import durable_ops as ops
from tests.support.database import sql
from tests.support.subscriptions import Lease, awaited, plain, sync_lease, waits_for_a_row
from tests.support.waiting import until

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


class TestRenewal:
    async def test_renewal_keeps_a_slow_holder(self, both):
        lease = await Lease(both, lease=2).acquired()
        end = time.monotonic() + 2.5
        other = Lease(both)
        while time.monotonic() < end:
            assert await other.try_acquire() is not None
            await asyncio.sleep(0.1)
        await lease.commit(1)
        assert lease.lost is None
        await lease.release()

    async def test_renewal_does_not_wait_for_the_holders_own_transaction(self, both, database_url):
        lease = await Lease(both, lease=1).acquired()
        async with both.transaction() as tx:
            await lease.commit(1, tx)
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                assert not waits_for_a_row(database_url)
                await asyncio.sleep(0.005)
        await until(
            lambda: sql(
                database_url,
                "SELECT 1 FROM pgmem.subscriptions WHERE expires_at > clock_timestamp()",
            )
        )
        assert lease.lost is None
        await lease.release()

    async def test_renewal_finds_out_that_it_was_taken_over(self, both, database_url):
        old = await Lease(both, lease=0.3).acquired()
        await both.subscriptions.reset("billing")
        await until(lambda: old.losses)
        assert isinstance(old.lost, LeaseLost)
        assert old.losses == [old.lost]
        new = await Lease(both).acquired()
        await asyncio.sleep(0.4)
        held = sql(database_url, "SELECT token FROM pgmem.subscriptions")
        assert held == [(new.token,)]
        assert len(old.losses) == 1
        await old.release()
        await new.release()

    async def test_renewal_does_not_extend_what_others_hold(self, both, database_url):
        old = await Lease(both, lease=0.6).acquired()
        sql(database_url, "UPDATE pgmem.subscriptions SET token = token + 1000, owner = 'other'")
        until_then = sql(database_url, "SELECT expires_at FROM pgmem.subscriptions")
        await until(lambda: old.losses)
        assert sql(database_url, "SELECT expires_at FROM pgmem.subscriptions") == until_then

    async def test_renewal_goes_on_through_lost_connections(self, both, database_url):
        lease = await Lease(both, lease=0.4).acquired()
        for _ in range(6):
            sql(
                database_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'",
            )
            await asyncio.sleep(0.15)
        await until(
            lambda: sql(
                database_url,
                "SELECT 1 FROM pgmem.subscriptions WHERE expires_at > clock_timestamp()",
            )
        )
        assert (lease.lost, lease.losses) == (None, [])
        await lease.commit(1)
        await lease.release()


class TestReleasing:
    async def test_release_is_safe_to_repeat(self, both):
        lease = Lease(both)
        await lease.release()
        lease = await Lease(both).acquired()
        await lease.release()
        await lease.release()
        await (await Lease(both).acquired()).release()

    async def test_release_does_not_raise_without_a_server(self, form, caplog):
        async with form.memory() as memory:
            lease = await Lease(memory).acquired()
        await lease.release()
        assert "runs out" in caplog.text

    async def test_release_does_not_wait_for_a_transaction_that_waits_for_it(self, both):
        lease = await Lease(both).acquired()
        async with both.transaction() as tx:
            await lease.commit(1, tx)
            await asyncio.wait_for(lease.release(), 10)
        assert (await both.subscriptions.get("billing")).position == 1

    async def test_a_late_renewal_does_not_revive_what_was_released(self, both, database_url):
        lease = await Lease(both).acquired()
        held = lease._held
        await lease.release()
        assert not await awaited(plain(both)._executor.execute(ops.renew(held, lease=30.0)))
        assert sql(database_url, "SELECT expires_at FROM pgmem.subscriptions") == [(None,)]

    def test_a_lease_leaves_no_thread(self, database_url):
        before = threading.active_count()
        with Memory(database_url) as memory:
            pool = threading.active_count()
            lease = sync_lease(memory, "c")
            assert lease.try_acquire() is None
            assert threading.active_count() == pool + 1
            lease.release()
            assert threading.active_count() == pool
        assert threading.active_count() == before

    async def test_a_lease_leaves_no_task(self, database_url):
        async with AsyncMemory(database_url) as memory:
            before = len(asyncio.all_tasks())
            lease = await Lease(memory).acquired()
            assert len(asyncio.all_tasks()) == before + 1
            await lease.release()
            assert len(asyncio.all_tasks()) == before

    async def test_cancelled_waiting_leaves_the_connection_usable(self, database_url):
        async with AsyncMemory(database_url, pool=1) as memory:
            with psycopg.connect(database_url) as other:
                first = await Lease(memory, lease=0.1).acquired()
                await first.stop_renewing()
                other.execute("UPDATE pgmem.subscriptions SET position = 1")
                await asyncio.sleep(0.2)
                waiting = asyncio.create_task(Lease(memory).try_acquire())
                await until(lambda: waits_for_a_row(database_url))
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                other.rollback()
            assert (await memory.subscriptions.get("billing")).position == 0
            await (await Lease(memory).acquired()).release()

    async def test_released_while_it_waits_to_acquire(self, form, database_url):
        async with form.memory() as memory:
            first = await Lease(memory, lease=0.1).acquired()
            await first.stop_renewing()
            with psycopg.connect(database_url) as other:
                other.execute("UPDATE pgmem.subscriptions SET position = 1")
                await asyncio.sleep(0.2)
                lease = Lease(memory)
                if form.name == "async":
                    waiting = asyncio.create_task(lease.try_acquire())
                else:
                    waiting = asyncio.create_task(asyncio.to_thread(lease.raw.try_acquire))
                await until(lambda: waits_for_a_row(database_url))
                await lease.release()
            with pytest.raises(NotOpen):
                await waiting
            found = await memory.subscriptions.get("billing")
            assert (found.position, found.expires_at) == (1, None)

    def test_a_loop_that_closes_ends_the_renewal(self, database_url):
        async def forget():
            memory = await AsyncMemory(database_url).open()
            await Lease(memory, lease=0.1).acquired()
            await asyncio.sleep(0.2)
            await memory.close()

        asyncio.run(forget())
        gc.collect()
