"""Named leases: acquire, renew, lose and release."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import threading
import time

import psycopg
import pytest

from pgmem import AsyncMemory, Memory
from pgmem.errors import InvalidInput, LeaseHeld, LeaseLost, NotOpen
from tests.support.leases import end_lease, notifiable, queue, raw, row
from tests.support.relay import Relay
from tests.support.waiting import until


async def free(memory, name="job"):
    """Return True if the lease can be acquired."""
    try:
        await (await memory.leases.acquire(name, timeout=0)).release()
    except LeaseHeld:
        return False
    return True


class TestHolding:
    async def test_lease_and_info_agree(self, both):
        before = datetime.datetime.now(datetime.UTC)
        async with both.leases.hold("job", ttl=60) as lease:
            assert (lease.name, lease.lost) == ("job", None)
            assert lease.token >= 1
            assert 55 < (lease.expires_at - before).total_seconds() < 65
            assert "job" in repr(lease)
            assert "held" in repr(lease)
            info = await both.leases.get("job")
            assert info.name == "job"
            assert f":{os.getpid()} tester" in info.owner == lease.owner
            assert (info.token, info.waiters) == (lease.token, 0)
            assert info.expires_at == lease.expires_at
            assert info.acquired_at < info.expires_at
            assert await both.leases.list() == [info]
        assert await both.leases.get("job") is None
        assert await both.leases.list() == []
        assert "released" in repr(lease)

    async def test_second_acquire_is_refused(self, both):
        async with both.leases.hold("job") as lease:
            with pytest.raises(LeaseHeld, match=str(os.getpid())) as caught:
                await both.leases.acquire("job", timeout=0)
            assert caught.value.expires_at == lease.expires_at
            assert not await free(both)
            assert await free(both, "another")
        assert await free(both)

    async def test_timeout_0_leaves_no_entry(self, both, database_url):
        async with both.leases.hold("job"):
            before = row(database_url)
            assert not await free(both)
            assert row(database_url) == before

    async def test_tokens_grow_after_the_row_is_gone(self, both, database_url):
        tokens = []
        for _ in range(3):
            async with both.leases.hold("job") as lease:
                tokens.append(lease.token)
            assert row(database_url) is None
        assert tokens == sorted(set(tokens))

    async def test_list_by_prefix_is_ordered(self, both):
        held = [await both.leases.acquire(name) for name in ("b:2", "b:1", "c", "b;")]
        found = [info.name for info in await both.leases.list("b:")]
        assert found == ["b:1", "b:2"]
        assert len(await both.leases.list()) == 4
        for lease in held:
            await lease.release()

    async def test_expired_lease_is_not_held(self, both, database_url):
        await both.leases.acquire("job")
        end_lease(database_url)
        assert await both.leases.get("job") is None
        assert await both.leases.list() == []
        assert await free(both)

    @pytest.mark.parametrize(
        ("arguments", "error", "says"),
        [
            ({"name": ""}, InvalidInput, "lease name"),
            ({"name": "n" * 513}, InvalidInput, "513 bytes"),
            ({"name": "a\0b"}, InvalidInput, "NUL"),
            ({"ttl": 0}, InvalidInput, "ttl"),
            ({"ttl": -1}, InvalidInput, "ttl"),
            ({"ttl": True}, InvalidInput, "ttl"),
            ({"ttl": float("nan")}, InvalidInput, "ttl"),
            ({"ttl": 86_401}, InvalidInput, "at most a day"),
            ({"timeout": -0.1}, InvalidInput, "timeout"),
            ({"timeout": "1"}, InvalidInput, "timeout"),
        ],
        ids=str,
    )
    async def test_bad_input_is_refused_before_a_statement(
        self, both, database_url, arguments, error, says
    ):
        with pytest.raises(error, match=says):
            await both.leases.acquire(**{"name": "job"} | arguments)
        assert row(database_url) is None

    async def test_get_and_release_check_their_arguments(self, both):
        for call in (both.leases.get(""), both.leases.release("", token=1)):
            with pytest.raises(InvalidInput):
                await call
        for token in (0, True, "1"):
            with pytest.raises(InvalidInput, match="token"):
                await both.leases.release("job", token=token)


class TestRenewal:
    async def test_lease_is_renewed_beyond_its_ttl(self, both):
        async with both.leases.hold("job", ttl=3) as lease:
            first = lease.expires_at
            while datetime.datetime.now(datetime.UTC) < first:
                assert not await free(both)
                await asyncio.sleep(0.1)
            assert lease.lost is None
            assert lease.expires_at > first

    async def test_leases_are_renewed_in_one_statement(self, form, database_url):
        with Relay(database_url) as relay:
            async with form.memory(relay.url) as memory:
                leases = [await memory.leases.acquire(f"job{n}", ttl=6) for n in range(20)]
                ends, before = {lease: lease.expires_at for lease in leases}, relay.statements
                await until(lambda: all(lease.expires_at > ends[lease] for lease in leases))
                # One by one they would be 20.
                assert relay.statements - before < 10
                assert [lease.lost for lease in leases] == [None] * 20
                assert len(await memory.leases.list()) == 20

    async def test_renew_extends_the_lease(self, both):
        lease = await both.leases.acquire("job", ttl=60)
        first = lease.expires_at
        await lease.renew()
        assert lease.expires_at > first
        assert (await both.leases.get("job")).expires_at == lease.expires_at
        await lease.release()
        with pytest.raises(NotOpen, match="released"):
            await lease.renew()

    async def test_renewal_does_not_wait_for_a_locked_row(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=3)
        first = lease.expires_at
        with psycopg.connect(database_url) as other:
            other.execute("SELECT FROM pgmem.leases FOR UPDATE")
            await asyncio.sleep(1.2)  # The first renewal is due after one second.
            assert lease.expires_at == first
        await until(lambda: lease.expires_at > first)
        assert lease.lost is None
        await lease.release()

    async def test_renewal_finds_a_lost_lease(self, both, caplog):
        lease = await both.leases.acquire("job", ttl=3)
        await both.leases.release("job", token=lease.token)
        new = await both.leases.acquire("job")
        with caplog.at_level(logging.WARNING, "pgmem"):
            await until(lambda: lease.lost)
        assert str(new.token) in str(lease.lost)
        assert "was lost" in caplog.text
        assert "lost" in repr(lease)
        with pytest.raises(LeaseLost):
            await lease.release()
        assert (await both.leases.get("job")).token == new.token
        await new.release()

    async def test_renewal_survives_lost_connections(self, both, database_url):
        # The pool waits for a second after a connection that was ended while it was made.
        lease = await both.leases.acquire("job", ttl=3)
        for _ in range(8):
            with psycopg.connect(database_url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "AND backend_type = 'client backend'"
                )
            await asyncio.sleep(0.4)
        assert lease.lost is None
        await lease.release()

    async def test_closed_memory_renews_nothing(self, form, database_url):
        async with form.memory() as memory:
            lease = await memory.leases.acquire("job", ttl=0.2)
        await asyncio.sleep(0.3)
        assert isinstance(lease.lost, LeaseLost)
        async with form.memory() as memory:
            assert await free(memory)

    def test_lease_leaves_no_thread(self, database_url):
        before = threading.active_count()
        with Memory(database_url) as memory, memory.leases.hold("job"):
            assert any(thread.name == "pgmem-leases" for thread in threading.enumerate())
        assert threading.active_count() == before

    async def test_lease_leaves_no_task(self, database_url):
        before = len(asyncio.all_tasks())
        async with AsyncMemory(database_url) as memory, memory.leases.hold("job"):
            assert len(asyncio.all_tasks()) > before
        assert len(asyncio.all_tasks()) == before


class TestLosing:
    async def test_expired_lease_is_refused_though_it_is_free(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=60)
        entry = await both.state.put("k", 1)
        end_lease(database_url)
        with pytest.raises(LeaseLost, match="token"):
            await both.state.compare_and_set("k", 2, expected_version=1, fence=lease)
        assert isinstance(lease.lost, LeaseLost)
        with pytest.raises(LeaseLost):
            await lease.renew()
        with pytest.raises(LeaseLost):
            await lease.release()
        assert (await both.state.get("k"))[:3] == entry[:3]
        assert row(database_url)[0] == lease.token

    async def test_renew_and_release_ask_the_server(self, both, database_url):
        for verb in ("renew", "release"):
            lease = await both.leases.acquire(verb, ttl=60)
            end_lease(database_url, verb)
            assert lease.lost is None
            with pytest.raises(LeaseLost, match="ran out at"):
                await getattr(lease, verb)()
            assert isinstance(lease.lost, LeaseLost)

    async def test_block_raises_if_the_lease_was_lost(self, both, database_url):
        with pytest.raises(LeaseLost):
            async with both.leases.hold("job", ttl=60):
                end_lease(database_url)

    async def test_error_of_the_block_wins_over_the_loss(self, both, database_url, caplog):
        async def work():
            async with both.leases.hold("job", ttl=60):
                end_lease(database_url)
                raise KeyError

        with pytest.raises(KeyError), caplog.at_level(logging.WARNING, "pgmem"):
            await work()
        assert "was lost" in caplog.text

    async def test_error_in_the_block_releases_the_lease(self, both):
        with pytest.raises(KeyError):
            async with both.leases.hold("job", ttl=60):
                raise KeyError
        assert await free(both)

    async def test_own_clock_tells_that_it_ran_out(self, both):
        lease = await both.leases.acquire("job", ttl=60)
        assert lease.lost is None
        raw(lease).over_at = time.monotonic() - 0.001  # as after standing still
        assert "ran out" in str(lease.lost)
        with pytest.raises(LeaseLost):
            await lease.release()

    async def test_release_is_safe_to_repeat(self, both):
        lease = await both.leases.acquire("job")
        await lease.release()
        other = await both.leases.acquire("job")
        await lease.release()
        assert not await free(both)
        await other.release()
        with pytest.raises(NotOpen, match="released"):
            await lease.renew()

    async def test_release_by_the_token(self, both, database_url):
        lease = await both.leases.acquire("job", ttl=60)
        token = lease.token
        for wrong in (token - 1 or token + 5, token + 1):
            with pytest.raises(LeaseLost, match="token"):
                await both.leases.release("job", token=wrong)
        assert not await free(both)
        await both.leases.release("job", token=token)
        assert row(database_url) is None
        with pytest.raises(LeaseLost, match="is not held"):
            await both.leases.release("job", token=token)
        with pytest.raises(LeaseLost):
            await lease.release()


async def test_waiter_of_a_dead_session_is_passed_over(both, database_url):
    # The first entry is of a dead process: no session holds the lock of its listener id.
    lease = await both.leases.acquire("job")
    tasks = await queue(database_url, both, 2, timeout=20)
    assert notifiable(database_url) == 2
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(
            "UPDATE pgmem.leases SET waiters = jsonb_set(waiters, '{0,listener}', '12345')"
        )
    await lease.release()
    second = await asyncio.wait_for(tasks[1], 10)
    assert not tasks[0].done()
    await second.release()
    # Its entry is gone, and it finds that out with its next poll.
    await (await asyncio.wait_for(tasks[0], 20)).release()
