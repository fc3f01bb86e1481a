"""Waiting for a lease: notified in turn, and gone without a trace."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import psycopg
import pytest

from pgmem import AsyncMemory, Memory
from pgmem._sync.leases.renewer import Waiter
from pgmem.errors import LeaseHeld, NotOpen, SchemaError
from tests.support.database import sql
from tests.support.leases import QUIET, end_lease, notifiable, queue, raw, row, waiting
from tests.support.waiting import until

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture
async def quiet(form):
    """A memory that does not poll while the test runs."""
    async with form.memory(safety_poll=QUIET) as memory:
        yield memory


@pytest.fixture
async def other(form):
    """A second memory, in place of another process."""
    async with form.memory(safety_poll=QUIET) as memory:
        yield memory


def notifications(memory):
    return raw(memory)._renewer._notifications


def drop_notifications(memory):
    """Lose every notification from now on."""
    notifications(memory).deliver = lambda payload: None


class TestOrder:
    async def test_release_wakes_the_waiter(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, ttl=90)
        assert (await other.leases.get("job")).waiters == 1
        await lease.release()
        new = await asyncio.wait_for(task, 5)
        assert new.token > lease.token
        info = await other.leases.get("job")
        assert (info.token, info.waiters) == (new.token, 0)
        assert info.expires_at == new.expires_at
        assert (info.expires_at - info.acquired_at).total_seconds() == pytest.approx(90, abs=0.01)
        await new.renew()
        await new.release()

    async def test_waiters_get_it_in_order(self, quiet, other, database_url):
        lease = await quiet.leases.acquire("job")
        tasks = []
        for n in range(8):
            tasks += await queue(database_url, (quiet, other)[n % 2])
        order = []
        for _ in range(8):
            await lease.release()
            done, _ = await asyncio.wait(
                [task for task in tasks if task not in order],
                timeout=5,
                return_when=asyncio.FIRST_COMPLETED,
            )
            [task] = done
            order.append(task)
            lease = task.result()
        await lease.release()
        assert order == tasks

    async def test_caller_does_not_overtake_the_queue(self, quiet, other, database_url):
        # A lease whose time is over goes to the first waiter, not to the caller.
        await quiet.leases.acquire("job", ttl=60)
        [task] = await queue(database_url, quiet)
        end_lease(database_url)
        with pytest.raises(LeaseHeld):
            await other.leases.acquire("job", timeout=0)
        await (await asyncio.wait_for(task, 5)).release()

    async def test_lease_of_a_dead_holder_is_granted_at_its_end(self, quiet, database_url):
        with Memory(database_url) as dead:
            dead.leases.acquire("job", ttl=0.5)
        async with quiet.leases.hold("job", timeout=QUIET / 2):
            pass

    async def test_waiters_of_several_leases(self, quiet, other, database_url):
        held = [await other.leases.acquire(f"job{n}") for n in range(5)]
        tasks = [(await queue(database_url, quiet, name=f"job{n}"))[0] for n in range(5)]
        for lease, task in list(zip(held, tasks, strict=True))[::-1]:
            await lease.release()
            new = await asyncio.wait_for(task, 5)
            assert new.name == lease.name
            await new.release()

    async def test_release_by_token_grants_it_to_the_waiter(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet)
        await other.leases.release("job", token=lease.token)
        await (await asyncio.wait_for(task, 5)).release()


class TestLeaving:
    async def test_timeout_leaves_the_queue(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        started = time.monotonic()
        with pytest.raises(LeaseHeld, match=r"waited 0\.2 s") as caught:
            await quiet.leases.acquire("job", timeout=0.2)
        assert 0.2 <= time.monotonic() - started < QUIET / 2
        assert caught.value.expires_at == lease.expires_at
        assert waiting(database_url) == 0
        await lease.release()
        assert row(database_url) is None

    async def test_lease_granted_at_the_timeout_is_returned(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, timeout=3)
        drop_notifications(quiet)
        await lease.release()
        new = await task
        assert new.token == row(database_url)[0]
        assert new.lost is None
        await new.release()

    async def test_cancelled_waiter_leaves_the_queue(self, database_url):
        async with AsyncMemory(database_url) as memory:
            lease = await memory.leases.acquire("job")
            first, second = await queue(database_url, memory, 2)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert waiting(database_url) == 1
            await lease.release()
            await (await asyncio.wait_for(second, 5)).release()

    async def test_cancelled_waiter_releases_a_lease_granted_in_this_moment(self, database_url):
        async with AsyncMemory(database_url) as memory, AsyncMemory(database_url) as deaf:
            lease = await memory.leases.acquire("job")
            [first] = await queue(database_url, deaf)
            [second] = await queue(database_url, memory)
            drop_notifications(deaf)
            await lease.release()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await (await asyncio.wait_for(second, 5)).release()
            assert row(database_url) is None

    async def test_waiter_cancelled_while_it_asks_leaves_nothing(self, database_url):
        async with AsyncMemory(database_url) as memory:
            lease = await memory.leases.acquire("job")
            with psycopg.connect(database_url) as other:
                other.execute("SELECT FROM pgmem.leases FOR UPDATE")
                task = asyncio.create_task(memory.leases.acquire("job"))
                await asyncio.sleep(0.1)
                task.cancel()
                await asyncio.sleep(0.1)
                other.rollback()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert waiting(database_url) == 0
            await lease.release()

    def test_interrupted_thread_leaves_the_queue(self, database_url, monkeypatch):
        with Memory(database_url) as memory, memory.leases.hold("job"):
            wait = Waiter

            class Interrupted(wait):
                def __init__(self, asker):
                    super().__init__(asker)
                    self.wakeup.wait = self.interrupt

                def interrupt(self, timeout):
                    assert waiting(database_url) == 1
                    raise KeyboardInterrupt

            monkeypatch.setattr("pgmem._sync.leases.verbs.Waiter", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                memory.leases.acquire("job")
            assert waiting(database_url) == 0

    async def test_closing_the_memory_ends_the_wait(self, form, database_url):
        async with form.memory() as holder:
            await holder.leases.acquire("job")
            async with form.memory() as memory:
                [task] = await queue(database_url, memory)
            with pytest.raises(NotOpen):
                await asyncio.wait_for(task, 5)


class TestLostNotifications:
    async def test_lost_notification_is_made_up_by_a_poll(self, form, other, database_url):
        async with form.memory(safety_poll=0.3) as memory:
            lease = await other.leases.acquire("job")
            [task] = await queue(database_url, memory)
            drop_notifications(memory)
            await lease.release()
            new = await asyncio.wait_for(task, 5)
            assert waiting(database_url) == 0
            await new.release()

    async def test_poll_finds_a_short_lease_while_it_lasts(self, quiet, other, database_url):
        # The ttl is shorter than the safety poll.
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, ttl=3)
        drop_notifications(quiet)
        await lease.release()
        new = await asyncio.wait_for(task, QUIET / 2)
        assert new.token == lease.token + 1
        await new.release()

    async def test_late_notification_is_checked(self, quiet, other, database_url):
        # The process stood still, and the lease ran out before it read the notification.
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, ttl=0.6)
        renewer, late = raw(quiet)._renewer, []
        renewer._poll = still(quiet)
        await asyncio.sleep(0.2)  # A poll that was under way would find the lease granted.
        tell, renewer._notifications.deliver = renewer._notifications.deliver, late.append
        await lease.release()
        await until(lambda: late)
        given = row(database_url)[0]
        await asyncio.sleep(0.7)
        new = await other.leases.acquire("job", timeout=0)
        assert new.token > given
        tell(late[0])
        await until(lambda: waiting(database_url) == 1)
        tell(late[0])
        await asyncio.sleep(0.1)
        assert not task.done()
        renewer._notifications.deliver = tell
        await new.release()
        assert (await asyncio.wait_for(task, 5)).token > new.token

    async def test_notification_with_an_old_token_is_checked(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet)
        [entry] = row(database_url)[3]
        for detail in (
            [lease.token, lease.expires_at.isoformat()],
            [lease.token + 5],
            "nonsense",
            None,
            [None, None],
            [10**9, "tomorrow"],
        ):
            notifications(quiet).deliver(json.dumps(["!", f"lease:{entry['id']}", detail]))
            await asyncio.sleep(0.03)
            assert not task.done()
        await lease.release()
        await (await asyncio.wait_for(task, 5)).release()

    async def test_entry_of_a_lost_session_is_renewed(self, quiet, other, database_url):
        # A lost listening connection takes its listener id with it. The entry gets the new one.
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet)
        listener_id = row(database_url)[3][0]["listener"]
        sql(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            "AND (classid::bigint << 32 | objid::bigint) = %s",
            listener_id,
        )
        await until(lambda: row(database_url)[3][0]["listener"] not in (listener_id, None))
        assert waiting(database_url) == notifiable(database_url) == 1
        await lease.release()
        await (await asyncio.wait_for(task, 5)).release()

    async def test_first_poll_comes_without_a_wakeup(self, form, other, database_url):
        async with form.memory(safety_poll=0.2) as memory:
            # The listener is ready before the renewer waits, so nothing wakes the renewer.
            notifications(memory).wake_all = lambda: None
            lease = await other.leases.acquire("job")
            [task] = await asyncio.wait_for(queue(database_url, memory), 5)
            await lease.release()
            await (await asyncio.wait_for(task, 5)).release()

    async def test_lost_entry_is_added_again(self, form, other, database_url):
        async with form.memory(safety_poll=0.2) as memory:
            lease = await other.leases.acquire("job")
            [task] = await queue(database_url, memory)
            sql(database_url, "UPDATE pgmem.leases SET waiters = '[]'")
            await until(lambda: notifiable(database_url) == 1)
            await lease.release()
            await (await asyncio.wait_for(task, 5)).release()

    async def test_entry_is_renewed_before_it_expires(self, form, other, database_url):
        async with form.memory(safety_poll=0.2) as memory:
            lease = await other.leases.acquire("job")
            [task] = await queue(database_url, memory)
            first = row(database_url)[3][0]["until"]
            sql(
                database_url,
                "UPDATE pgmem.leases SET waiters = jsonb_set(waiters, '{0,until}', to_jsonb("
                "extract(epoch FROM clock_timestamp()) + 5))",
            )
            await until(lambda: row(database_url)[3][0]["until"] >= first)
            await lease.release()
            await (await asyncio.wait_for(task, 5)).release()

    async def test_expired_entries_are_removed(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        sql(
            database_url,
            "UPDATE pgmem.leases SET waiters = (SELECT jsonb_agg(jsonb_build_object("
            "'id', n::text, 'ttl', 5, 'listener', NULL, 'until', 1, 'owner', 'x')) "
            "FROM generate_series(1, 100) n)",
        )
        [task] = await queue(database_url, quiet)
        assert waiting(database_url) == 1
        await lease.release()
        await (await asyncio.wait_for(task, 5)).release()

    async def test_waiter_that_cannot_listen_polls(self, form, other, database_url):
        # As through a pooler without `listen_url`, the entry has no listener id.
        async with form.memory(safety_poll=0.2) as memory:
            found = notifications(memory)
            type(found).listener_id = property(lambda self: None, lambda self, listener_id: None)
            try:
                lease = await other.leases.acquire("job")
                task = asyncio.create_task(memory.leases.acquire("job"))
                await until(lambda: waiting(database_url) == 1)
                await asyncio.sleep(1.0)  # Longer than an entry lasts that is not renewed.
                assert notifiable(database_url) == 0
                await lease.release()
                await (await asyncio.wait_for(task, 5)).release()
            finally:
                del type(found).listener_id


async def test_error_of_the_server_reaches_the_waiter(form, other, database_url, caplog):
    async with form.memory(safety_poll=0.2) as memory:
        await other.leases.acquire("job")
        [task] = await queue(database_url, memory)
        with caplog.at_level(logging.WARNING, "pgmem"):
            sql(database_url, "ALTER TABLE pgmem.leases RENAME TO gone")
            try:
                raw(memory)._renewer._queues["job"].first.ask()
                with pytest.raises(SchemaError, match="acquire the lease"):
                    await asyncio.wait_for(task, 5)
            finally:
                sql(database_url, "ALTER TABLE pgmem.gone RENAME TO leases")
        assert "the entry expires" in caplog.text


def form_of(memory):
    return "async" if isinstance(raw(memory), AsyncMemory) else "sync"


def still(memory):
    """Return a `_poll` that does nothing."""
    if form_of(memory) == "async":

        async def nothing():
            pass

        return nothing
    return lambda: None
