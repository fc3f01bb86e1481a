"""Waiting for a lease in both forms: woken by the doorbell, in turn, and gone without a trace."""

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
from tests.support.leases import QUIET, end_lease, heard, queue, raw, row, sql, until, waiting

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture
async def quiet(form):
    """A memory that is woken by the doorbell or not at all."""
    async with form.memory(safety_poll=QUIET) as memory:
        yield memory


@pytest.fixture
async def other(form):
    """Another process."""
    async with form.memory(safety_poll=QUIET) as memory:
        yield memory


def notifications(memory):
    return raw(memory)._renewer._notifications


def deafen(memory):
    """Lose every signal from now on, as if the notification did not arrive."""
    notifications(memory).deliver = lambda payload: None


class TestTurns:
    async def test_a_release_wakes_who_waits(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, ttl=90)
        assert (await other.leases.get("job")).waiters == 1
        await lease.release()
        new = await asyncio.wait_for(task, 5)
        assert new.fencing_token > lease.fencing_token
        info = await other.leases.get("job")
        assert (info.fencing_token, info.waiters) == (new.fencing_token, 0)
        assert info.expires_at == new.expires_at
        assert (info.expires_at - info.acquired_at).total_seconds() == pytest.approx(90, abs=0.01)
        await new.renew()
        await new.release()

    async def test_first_come_first_served(self, quiet, other, database_url):
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

    async def test_nobody_overtakes_the_queue(self, quiet, other, database_url):
        """A lease whose time is over goes to the first in its queue, whoever asks."""
        await quiet.leases.acquire("job", ttl=60)
        [task] = await queue(database_url, quiet)
        end_lease(database_url)
        with pytest.raises(LeaseHeld):
            await other.leases.acquire("job", timeout=0)
        await (await asyncio.wait_for(task, 5)).release()

    async def test_who_died_with_it_is_followed_at_the_end_of_its_time(self, quiet, database_url):
        with Memory(database_url) as dead:
            dead.leases.acquire("job", ttl=0.5)
        async with await quiet.leases.acquire("job", timeout=QUIET / 2):
            pass

    async def test_many_wait_for_many(self, quiet, other, database_url):
        held = [await other.leases.acquire(f"job{n}") for n in range(5)]
        tasks = [(await queue(database_url, quiet, name=f"job{n}"))[0] for n in range(5)]
        for lease, task in list(zip(held, tasks, strict=True))[::-1]:
            await lease.release()
            new = await asyncio.wait_for(task, 5)
            assert new.name == lease.name
            await new.release()

    async def test_a_forced_release_hands_it_on_too(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet)
        await other.leases.release("job", fencing_token=lease.fencing_token)
        await (await asyncio.wait_for(task, 5)).release()


class TestLeaving:
    async def test_who_waited_long_enough_is_told_and_gone(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        started = time.monotonic()
        with pytest.raises(LeaseHeld, match=r"waited 0\.2 s") as caught:
            await quiet.leases.acquire("job", timeout=0.2)
        assert 0.2 <= time.monotonic() - started < QUIET / 2
        assert caught.value.expires_at == lease.expires_at
        assert waiting(database_url) == 0
        await lease.release()
        assert row(database_url) is None

    async def test_what_was_given_in_the_last_moment_is_taken(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, timeout=3)
        deafen(quiet)
        await lease.release()
        new = await task
        assert new.fencing_token == row(database_url)[0]
        assert new.lost is None
        await new.release()

    async def test_who_is_cancelled_leaves_the_queue(self, database_url):
        async with AsyncMemory(database_url) as memory:
            lease = await memory.leases.acquire("job")
            first, second = await queue(database_url, memory, 2)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert waiting(database_url) == 1
            await lease.release()
            await (await asyncio.wait_for(second, 5)).release()

    async def test_who_is_cancelled_gives_back_what_was_given_in_this_moment(self, database_url):
        async with AsyncMemory(database_url) as memory, AsyncMemory(database_url) as deaf:
            lease = await memory.leases.acquire("job")
            [first] = await queue(database_url, deaf)
            [second] = await queue(database_url, memory)
            deafen(deaf)
            await lease.release()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await (await asyncio.wait_for(second, 5)).release()
            assert row(database_url) is None

    async def test_who_is_cancelled_while_it_asks_leaves_nothing(self, database_url):
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

    def test_a_thread_that_is_interrupted_leaves_the_queue(self, database_url, monkeypatch):
        with Memory(database_url) as memory, memory.leases.acquire("job"):
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

    async def test_waiting_ends_with_the_memory(self, form, database_url):
        async with form.memory() as holder:
            await holder.leases.acquire("job")
            async with form.memory() as memory:
                [task] = await queue(database_url, memory)
            with pytest.raises(NotOpen):
                await asyncio.wait_for(task, 5)


class TestDoubt:
    async def test_a_signal_that_was_lost_costs_a_poll(self, form, other, database_url):
        async with form.memory(safety_poll=0.3) as memory:
            lease = await other.leases.acquire("job")
            [task] = await queue(database_url, memory)
            deafen(memory)
            await lease.release()
            new = await asyncio.wait_for(task, 5)
            assert waiting(database_url) == 0
            await new.release()

    async def test_a_short_lease_is_learnt_of_while_it_lasts(self, quiet, other, database_url):
        """Its time is shorter than the safety poll."""
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, ttl=3)
        deafen(quiet)
        await lease.release()
        new = await asyncio.wait_for(task, QUIET / 2)
        assert new.fencing_token == lease.fencing_token + 1
        await new.release()

    async def test_a_signal_that_comes_too_late_is_not_believed(self, quiet, other, database_url):
        """It lay there while the process stood still, and the lease ran out meanwhile."""
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet, ttl=0.6)
        keeper, late = raw(quiet)._renewer, []
        keeper._look = still(quiet)
        await asyncio.sleep(0.2)  # A look that was under way would find the lease given to it.
        tell, keeper._notifications.deliver = keeper._notifications.deliver, late.append
        await lease.release()
        await until(lambda: late)
        given = row(database_url)[0]
        await asyncio.sleep(0.7)
        new = await other.leases.acquire("job", timeout=0)
        assert new.fencing_token > given
        tell(late[0])
        await until(lambda: waiting(database_url) == 1)
        tell(late[0])
        await asyncio.sleep(0.1)
        assert not task.done()
        keeper._notifications.deliver = tell
        await new.release()
        assert (await asyncio.wait_for(task, 5)).fencing_token > new.fencing_token

    async def test_a_signal_of_an_earlier_time_is_not_believed(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet)
        [entry] = row(database_url)[3]
        for detail in (
            [lease.fencing_token, lease.expires_at.isoformat()],
            [lease.fencing_token + 5],
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

    async def test_an_entry_of_a_session_that_is_gone_is_renewed(self, quiet, other, database_url):
        """The listening connection is lost: its mark with it, and a new one takes its place."""
        lease = await other.leases.acquire("job")
        [task] = await queue(database_url, quiet)
        mark = row(database_url)[3][0]["mark"]
        sql(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            "AND (classid::bigint << 32 | objid::bigint) = %s",
            mark,
        )
        await until(lambda: row(database_url)[3][0]["mark"] not in (mark, None))
        assert waiting(database_url) == heard(database_url) == 1
        await lease.release()
        await (await asyncio.wait_for(task, 5)).release()

    async def test_the_first_look_waits_for_nobody(self, form, other, database_url):
        async with form.memory(safety_poll=0.2) as memory:
            # The listener is ready before the keeper waits: nobody wakes it.
            notifications(memory).wake_all = lambda: None
            lease = await other.leases.acquire("job")
            [task] = await asyncio.wait_for(queue(database_url, memory), 5)
            await lease.release()
            await (await asyncio.wait_for(task, 5)).release()

    async def test_who_vanished_from_the_queue_comes_again(self, form, other, database_url):
        async with form.memory(safety_poll=0.2) as memory:
            lease = await other.leases.acquire("job")
            [task] = await queue(database_url, memory)
            sql(database_url, "UPDATE pgmem.leases SET waiters = '[]'")
            await until(lambda: heard(database_url) == 1)
            await lease.release()
            await (await asyncio.wait_for(task, 5)).release()

    async def test_an_entry_is_renewed_before_its_time_is_over(self, form, other, database_url):
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

    async def test_entries_whose_time_is_over_are_cleared_away(self, quiet, other, database_url):
        lease = await other.leases.acquire("job")
        sql(
            database_url,
            "UPDATE pgmem.leases SET waiters = (SELECT jsonb_agg(jsonb_build_object("
            "'id', n::text, 'ttl', 5, 'mark', NULL, 'until', 1, 'holder', 'x')) "
            "FROM generate_series(1, 100) n)",
        )
        [task] = await queue(database_url, quiet)
        assert waiting(database_url) == 1
        await lease.release()
        await (await asyncio.wait_for(task, 5)).release()

    async def test_who_does_not_listen_waits_by_polling(self, form, other, database_url):
        """As through a pooler without a way to listen: its entry has no mark."""
        async with form.memory(safety_poll=0.2) as memory:
            memory_signals = notifications(memory)
            type(memory_signals).listener_id = property(lambda self: None, lambda self, mark: None)
            try:
                lease = await other.leases.acquire("job")
                task = asyncio.create_task(memory.leases.acquire("job"))
                await until(lambda: waiting(database_url) == 1)
                await asyncio.sleep(1.0)  # Longer than an entry counts that is not renewed.
                assert heard(database_url) == 0
                await lease.release()
                await (await asyncio.wait_for(task, 5)).release()
            finally:
                del type(memory_signals).listener_id


async def test_an_error_of_the_server_reaches_who_waits(form, other, database_url, caplog):
    async with form.memory(safety_poll=0.2) as memory:
        await other.leases.acquire("job")
        [task] = await queue(database_url, memory)
        with caplog.at_level(logging.WARNING, "pgmem"):
            sql(database_url, "ALTER TABLE pgmem.leases RENAME TO gone")
            try:
                raw(memory)._renewer._lines["job"].first.ask()
                with pytest.raises(SchemaError, match="acquire the lease"):
                    await asyncio.wait_for(task, 5)
            finally:
                sql(database_url, "ALTER TABLE pgmem.gone RENAME TO leases")
        assert "runs out" in caplog.text


def form_of(memory):
    return "async" if isinstance(raw(memory), AsyncMemory) else "sync"


def still(memory):
    """For `_look`: nobody looks."""
    if form_of(memory) == "async":

        async def nothing():
            pass

        return nothing
    return lambda: None
