"""Writes and transactions that a lease fences."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgmem.core import statements as sql
from pgmem.errors import InvalidInput, LeaseHeld, LeaseLost, VersionConflict
from tests.support.both import execute
from tests.support.leases import end_lease, queue
from tests.support.leases import sql as select
from tests.support.waiting import until


async def free(memory, name="job"):
    """Return True if the lease can be acquired."""
    try:
        await (await memory.leases.acquire(name, timeout=0)).release()
    except LeaseHeld:
        return False
    return True


class TestFencing:
    async def test_holder_writes(self, both):
        async with both.leases.hold("job") as lease:
            made = await both.state.compare_and_set("k", 1, expected_version=0, fence=lease)
            entry = await both.state.compare_and_set(
                "k", {"n": 2}, expected_version=made.version, fence=lease
            )
            assert (await both.state.get("k"))[:3] == entry[:3] == ("k", {"n": 2}, 2)
            assert [e.version for e in await both.state.history("k")] == [1, 2]

    async def test_version_conflict_is_not_a_lost_lease(self, both):
        await both.state.put("k", 1)
        async with both.leases.hold("job") as lease:
            for expected in (0, 7):
                with pytest.raises(VersionConflict) as caught:
                    await both.state.compare_and_set("k", 2, expected_version=expected, fence=lease)
                assert caught.value.current.value == 1
            assert lease.lost is None

    @pytest.mark.parametrize("expected", [0, 1])
    @pytest.mark.parametrize("how", ["ran out", "taken", "released"])
    async def test_write_after_the_loss_changes_nothing(self, both, database_url, how, expected):
        if expected:
            await both.state.put("k", "old")
        lease = await both.leases.acquire("job", ttl=60)
        if how == "released":
            await lease.release()
        elif how == "ran out":
            end_lease(database_url)
        else:
            await both.leases.release("job", token=lease.token)
            await both.leases.acquire("job")
        options = {"expected_version": expected, "fence": lease}
        with pytest.raises(LeaseLost, match=r"'job'.*nothing was changed"):
            await both.state.compare_and_set("k", "new", **options)
        async with both.transaction() as tx:
            with pytest.raises(LeaseLost):
                await tx.state.compare_and_set("k", "new", **options)
        entry = await both.state.get("k")
        assert (entry and entry.value) == ("old" if expected else None)
        assert len(await both.state.history("k")) == expected

    async def test_lease_waits_for_the_commit_of_a_fenced_write(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=60)
        async with both.transaction() as tx:
            await tx.state.compare_and_set("k", 1, expected_version=0, fence=lease)
            end_lease(database_url)
            assert not await free(both)
            [task] = await queue(database_url, both, timeout=20)
            await asyncio.sleep(0.2)
            assert not task.done()
        new = await asyncio.wait_for(task, 20)
        assert (await both.state.get("k")).value == 1
        assert new.token > lease.token
        await new.release()

    async def test_fenced_write_blocks_neither_renewal_nor_queue(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=3)
        first = lease.expires_at
        async with both.transaction() as tx:
            await tx.state.compare_and_set("k", 1, expected_version=0, fence=lease)
            [task] = await queue(database_url, both, timeout=20)
            await until(lambda: lease.expires_at > first)
        await lease.release()
        await (await task).release()

    async def test_release_in_an_open_transaction_grants_it_at_its_end(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=60)
        [task] = await queue(database_url, both, timeout=20)
        async with both.transaction() as tx:
            await tx.state.compare_and_set("k", 1, expected_version=0, fence=lease)
            await asyncio.wait_for(lease.release(), 5)
            await asyncio.sleep(0.1)
            assert not task.done()
            assert not await free(both)
            with pytest.raises(LeaseLost):
                await both.state.compare_and_set("other", 1, expected_version=0, fence=lease)
        await (await asyncio.wait_for(task, 20)).release()

    async def test_own_rows_roll_back_with_a_refused_fence(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=60)
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute("CREATE TABLE mine (n int)")
        end_lease(database_url)

        async def work():
            async with both.transaction() as tx:
                await execute(tx.connection, "INSERT INTO mine VALUES (1)")
                await tx.state.compare_and_set("k", 1, expected_version=0, fence=lease)

        with pytest.raises(LeaseLost):
            await work()
        with psycopg.connect(database_url) as admin:
            assert admin.execute("SELECT count(*) FROM mine").fetchone() == (0,)

    async def test_required_lease_fences_the_transaction(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=60)
        async with both.transaction() as tx:
            await tx.leases.require(lease)
            assert (await tx.leases.get("job")).token == lease.token
            assert [info.name for info in await tx.leases.list()] == ["job"]
            await execute(tx.connection, "CREATE TABLE mine (n int)")
            end_lease(database_url)
            assert not await free(both)
        assert await free(both)
        assert select(database_url, "SELECT count(*) FROM mine") == [(0,)]

    async def test_required_lease_that_is_lost_rolls_back(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=60)
        end_lease(database_url)

        async def work():
            async with both.transaction() as tx:
                await execute(tx.connection, "CREATE TABLE mine (n int)")
                await tx.leases.require(lease)

        with pytest.raises(LeaseLost, match=r"'job'.*is not held"):
            await work()
        assert isinstance(lease.lost, LeaseLost)
        assert select(database_url, "SELECT to_regclass('mine')") == [(None,)]

    async def test_require_takes_a_lease_only(self, both):
        async with both.transaction() as tx:
            for wrong in (7, "job", None):
                with pytest.raises(InvalidInput, match="lease"):
                    await tx.leases.require(wrong)

    async def test_fence_takes_a_lease_only(self, both):
        for wrong in (7, "job", object()):
            with pytest.raises(InvalidInput, match="fence="):
                await both.state.compare_and_set("k", 1, expected_version=0, fence=wrong)

    def test_unfenced_statement_reads_no_lease(self):
        for name in ("state_compare_and_set", "state_create"):
            text = sql.statement(name, sql.Dialect("s", "c", "if_free")).decode()
            assert "lease" not in text
            assert "fence" not in text
