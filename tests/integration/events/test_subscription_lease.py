"""Consumers: who holds a position in the log, who may move it, and in which history."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import psycopg
import pytest

from pgmem import Event, Memory
from pgmem.errors import (
    AlreadyExists,
    InvalidInput,
    InvalidValue,
    LeaseLost,
    NotFound,
    NotOpen,
)
from pgmem.events import durable_ops as ops
from tests.support.both import execute
from tests.support.database import sql
from tests.support.subscriptions import (
    SELECTION,
    Lease,
    awaited,
    end_leases,
    last_token,
    plain,
    sync_lease,
    waits_for_a_row,
)
from tests.support.waiting import until


class TestAcquiring:
    async def test_a_new_consumer_begins_at_its_start(self, both):
        lease = await Lease(both, start=7).acquired()
        assert (lease.position, lease.lost) == (7, None)
        assert lease.token > 0
        assert lease.created_at is not None
        await lease.release()

    async def test_a_known_consumer_goes_on_where_it_was(self, both):
        first = await Lease(both).acquired()
        await first.commit(5)
        await first.release()
        second = await Lease(both, start=99).acquired()
        assert (second.position, second.created_at) == (5, first.created_at)
        assert second.token > first.token
        await second.release()

    async def test_acquiring_twice_is_acquiring_once(self, both):
        lease = await Lease(both).acquired()
        token = lease.token
        assert await lease.try_acquire() is None
        assert lease.token == token
        await lease.release()

    async def test_a_second_one_waits_and_draws_no_token(self, both, database_url):
        holder = await Lease(both, lease=30).acquired()
        second = Lease(both)
        assert [await second.try_acquire() for _ in range(3)] == [1.0] * 3
        assert last_token(database_url) == holder.token
        sql(
            database_url,
            "UPDATE pgmem.subscriptions SET expires_at = clock_timestamp() + interval '0.5 s'",
        )
        wait = await second.try_acquire()
        assert 0 < wait <= 0.5
        await holder.release()

    async def test_a_try_to_acquire_does_not_wait_for_the_owners_transaction(self, both):
        holder = await Lease(both).acquired()
        async with both.transaction() as tx:
            await holder.commit(3, tx)
            assert await asyncio.wait_for(Lease(both).try_acquire(), 5) == 1.0
        await holder.release()

    async def test_release_hands_over_at_once(self, both, database_url):
        holder = await Lease(both).acquired()
        await holder.release()
        assert sql(database_url, "SELECT owner, expires_at FROM pgmem.subscriptions") == [
            (None, None)
        ]
        second = await Lease(both).acquired()
        assert second.token > holder.token
        await second.release()

    async def test_takeover_after_the_lease_fences_the_old_holder_off(self, both, database_url):
        old = await Lease(both).acquired()
        await old.commit(1)
        await old.stop_renewing()
        end_leases(database_url)
        new = await Lease(both).acquired()
        assert (new.position, new.token > old.token) == (1, True)
        with pytest.raises(LeaseLost, match=f"token {new.token}"):
            await old.commit(2)
        assert isinstance(old.lost, LeaseLost)
        assert old.losses == [old.lost]
        await old.release()  # must not end the new holder's lease, nor must a late one
        assert await awaited(plain(both)._executor.execute(ops.release(old._held)))
        assert await Lease(both).try_acquire() is not None
        await new.commit(1)
        await new.release()

    async def test_two_that_make_it_at_once_have_one_holder(self, form, database_url):
        async with form.memory(pool=8) as memory:
            for n in range(20):
                leases = [Lease(memory, f"c{n}") for _ in range(6)]
                if form.name == "async":
                    answers = await asyncio.gather(*(lease.try_acquire() for lease in leases))
                else:
                    answers = await asyncio.gather(
                        *(asyncio.to_thread(lease.raw.try_acquire) for lease in leases)
                    )
                assert answers.count(None) == 1
                for lease in leases:
                    await lease.release()

    async def test_an_acquisition_with_a_lost_answer_is_recognized(self, both):
        """Execute the same op twice, as after a lost connection."""
        run = plain(both)._executor.execute

        async def acquire(owner):
            return await awaited(run(ops.acquire("c", SELECTION, start=0, lease=30.0, owner=owner)))

        first = await acquire("one")
        assert isinstance(await acquire("one"), ops.Ownership)
        assert isinstance(await acquire("another"), ops.HeldByOther)
        assert isinstance(first, ops.Ownership)

    async def test_takeover_waits_for_the_holders_transaction_and_gets_its_position(
        self, both, database_url
    ):
        old = await Lease(both, lease=0.3).acquired()
        await old.commit(1)
        await old.stop_renewing()
        successor = []

        def take_over():
            with Memory(database_url) as memory:
                lease = sync_lease(memory, "billing")
                while (wait := lease.try_acquire()) is not None:
                    time.sleep(wait)
                successor.append(lease.position)
                lease.release()

        thread = threading.Thread(target=take_over)
        async with both.transaction() as tx:
            await old.commit(2, tx)
            await asyncio.sleep(0.6)  # now the lease in the open transaction has run out, too
            thread.start()
            await until(lambda: waits_for_a_row(database_url))
            assert successor == []
        await asyncio.to_thread(thread.join, 20)
        assert successor == [2]
        await old.release()


class TestCommitting:
    async def test_commit_is_read_back(self, both):
        lease = await Lease(both).acquired()
        for position in (1, 4, 4, 9):
            await lease.commit(position)
            assert (await both.subscriptions.get("billing")).position == position
        await lease.release()

    async def test_a_position_never_goes_back(self, both):
        lease = await Lease(both, start=5).acquired()
        await lease.commit(4)
        assert lease.lost is None
        assert (await both.subscriptions.get("billing")).position == 5
        await lease.release()

    async def test_a_late_commit_counts_unless_another_owner_took_over(self, both, database_url):
        lease = await Lease(both).acquired()
        await lease.stop_renewing()
        end_leases(database_url)
        await lease.commit(3)
        assert await Lease(both).try_acquire() is not None, "it extends the lease"
        await lease.release()

    async def test_commit_and_effects_are_one(self, both):
        lease = await Lease(both).acquired()

        async def fail():
            async with both.transaction() as tx:
                await tx.state.put("effect", 1)
                await lease.commit(1, tx)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert (await both.subscriptions.get("billing")).position == 0
        async with both.transaction() as tx:
            await tx.state.put("effect", 1)
            await lease.commit(1, tx)
        assert (await both.subscriptions.get("billing")).position == 1
        assert await both.state.get("effect") is not None
        await lease.release()

    async def test_commit_joins_a_connection_of_the_callers(self, both, database_url):
        lease = await Lease(both).acquired()
        with psycopg.connect(database_url) as connection:
            if both is plain(both):
                connection = await psycopg.AsyncConnection.connect(database_url)
            await execute(connection, "CREATE TEMPORARY TABLE effects (n int)")
            await lease.commit(4, plain(both).using(connection))
            assert (await both.subscriptions.get("billing")).position == 0
            await awaited(connection.commit())
            assert (await both.subscriptions.get("billing")).position == 4
            await awaited(connection.close())
        await lease.release()

    async def test_late_commit_in_a_transaction_takes_the_effects_with_it(self, both, database_url):
        old = await Lease(both).acquired()
        await old.stop_renewing()
        end_leases(database_url)
        new = await Lease(both).acquired()

        async def late():
            async with both.transaction() as tx:
                await tx.state.put("effect", 1)
                await old.commit(1, tx)

        with pytest.raises(LeaseLost):
            await late()
        assert await both.state.get("effect") is None
        assert (await both.subscriptions.get("billing")).position == 0
        await new.release()

    async def test_nothing_is_committed_before_or_after_holding(self, both):
        lease = Lease(both)
        with pytest.raises(NotOpen):
            await lease.commit(1)
        await lease.acquired()
        await lease.release()
        with pytest.raises(NotOpen):
            await lease.commit(1)
        with pytest.raises(NotOpen):
            await lease.try_acquire()


class TestSelections:
    async def test_another_selection_is_refused_and_the_consumer_left_alone(self, both):
        for free in (False, True):
            holder = await Lease(both).acquired()
            if free:
                await holder.release()
            for other in ({}, {"stream": "orders"}, {"stream": "payments", "type": "paid"}):
                with pytest.raises(AlreadyExists, match="billing"):
                    await Lease(both, selection=other).try_acquire()
            if not free:
                await holder.commit(1)
                await holder.release()
        assert (await both.subscriptions.get("billing")).expires_at is None

    async def test_the_order_of_its_keys_does_not_matter(self, both):
        await (await Lease(both, selection={"a": 1, "b": None}).acquired()).release()
        await (await Lease(both, selection={"b": None, "a": 1}).acquired()).release()


class TestVerbs:
    async def test_list_and_get(self, both):
        assert await both.subscriptions.list() == []
        assert await both.subscriptions.get("b") is None
        b = await Lease(both, "b", owner="host:1 agent").acquired()
        a = await Lease(both, "a").acquired()
        await both.events.append("payments", [Event(type="t")] * 5)
        await both.events.append("orders", Event(type="t"))  # It does not select this one.
        await b.commit(2)
        await a.commit(50)
        await a.release()
        found_a, found_b = await both.subscriptions.list()
        assert (found_a.name, found_a.position, found_a.lag) == ("a", 50, 0)
        assert (found_a.owner, found_a.expires_at) == (None, None)
        assert (found_b.name, found_b.position, found_b.lag) == ("b", 2, 3)
        assert found_b.owner.startswith("host:1 agent")
        assert found_b.created_at < found_b.updated_at < found_b.expires_at
        assert await both.subscriptions.get("b") == found_b
        await b.release()

    @pytest.mark.parametrize(
        ("selection", "lag"),
        [
            ({}, 6),
            ({"streams": ["a"]}, 2),
            ({"streams": ["a", "ab"]}, 4),
            ({"prefix": "a"}, 4),
            ({"types": ["t"]}, 5),
            ({"agents": ["x"]}, 1),
            ({"streams": ["a"], "types": ["u"]}, 0),
            ({"key_prefix": "k"}, 1),
        ],
    )
    async def test_lag_counts_the_events_that_it_selects(self, both, selection, lag):
        lease = await Lease(both, selection=selection).acquired()
        await both.events.append("a", [Event(type="t")] * 3)
        await both.events.append("ab", [Event(type="t"), Event(type="t", agent_id="x")])
        await both.events.append("b", Event(type="t"))
        await both.state.put("key", 1)
        await lease.commit(1)
        assert (await both.subscriptions.get("billing")).lag == lag
        await lease.release()

    async def test_an_owner_is_not_shown_after_its_lease_ran_out(self, both, database_url):
        lease = await Lease(both).acquired()
        await lease.stop_renewing()
        assert (await both.subscriptions.get("billing")).owner is not None
        end_leases(database_url)
        found = await both.subscriptions.get("billing")
        assert (found.owner, found.expires_at) == (None, None)
        (shown,) = (await both.stats()).subscriptions.furthest
        assert (shown.owner, shown.expires_at) == (None, None)
        await lease.release()

    async def test_lag_of_an_empty_log_is_nothing(self, both):
        await (await Lease(both).acquired()).release()
        assert (await both.subscriptions.get("billing")).lag == 0

    async def test_reset_above_the_log_is_refused_and_a_lost_end_is_not_kept(self, both):
        for _ in range(3):
            await both.events.append("payments", Event(type="t"))
        old = await Lease(both).acquired()
        await old.commit(9)  # Of a log whose end was lost.
        with pytest.raises(InvalidInput, match="last position of the log is 3"):
            await both.subscriptions.reset("billing", 4)
        assert (await both.subscriptions.get("billing")).position == 9
        await both.subscriptions.reset("billing")
        assert (await both.subscriptions.get("billing")).position == 3
        await old.release()

    async def test_reset_fences_the_holder_off_and_moves_back(self, both):
        for _ in range(10):
            await both.events.append("payments", Event(type="t"))
        old = await Lease(both).acquired()
        await old.commit(9)
        await both.subscriptions.reset("billing", 4)
        with pytest.raises(LeaseLost, match="reset"):
            await old.commit(10)
        new = await Lease(both).acquired()
        assert new.position == 4
        await new.release()
        await both.subscriptions.reset("billing", 0)
        assert (await both.subscriptions.get("billing")).position == 0
        await old.release()

    async def test_delete_forgets_and_fences_the_holder_off(self, both):
        old = await Lease(both).acquired()
        await old.commit(9)
        assert await both.subscriptions.delete("billing") is True
        assert await both.subscriptions.delete("billing") is False
        with pytest.raises(LeaseLost, match="deleted"):
            await old.commit(10)
        new = await Lease(both, selection={"stream": "orders"}, start=2).acquired()
        assert new.position == 2
        assert new.token > old.token
        with pytest.raises(LeaseLost):
            await old.commit(10)
        await new.release()

    async def test_reset_of_what_is_not_there(self, both):
        with pytest.raises(NotFound, match="unknown"):
            await both.subscriptions.reset("unknown")


class TestBadInput:
    """Refused before anything is sent: the memory is not even open."""

    @pytest.mark.parametrize("name", ["", "x" * 513, "nul\0", "\ud800", 5, None])
    def test_names(self, name):
        memory = Memory("postgresql://nowhere.invalid/db")
        for refused in (
            memory.subscriptions.get,
            memory.subscriptions.reset,
            memory.subscriptions.delete,
        ):
            with pytest.raises(InvalidInput, match="subscription name"):
                refused(name)
        with pytest.raises(InvalidInput, match="subscription name"):
            sync_lease(memory, name)

    @pytest.mark.parametrize(
        "lease", [0, -1, 86_400.5, timedelta(days=2), float("nan"), float("inf"), "1", None, True]
    )
    def test_leases(self, lease):
        memory = Memory("postgresql://nowhere.invalid/db")
        with pytest.raises(InvalidInput, match="lease"):
            sync_lease(memory, "c", lease=lease)

    def test_a_lease_may_be_a_day(self):
        sync_lease(Memory("postgresql://nowhere.invalid/db"), "c", lease=timedelta(days=1))

    @pytest.mark.parametrize("position", [-1, 2**63, 1.0, "1", True])
    async def test_positions(self, both, position):
        with pytest.raises(InvalidInput):
            Lease(both, start=position)
        with pytest.raises(InvalidInput):
            await both.subscriptions.reset("billing", position)
        lease = await Lease(both).acquired()
        with pytest.raises(InvalidInput):
            await lease.commit(position)
        assert (await both.subscriptions.get("billing")).position == 0
        await lease.release()

    @pytest.mark.parametrize("selection", [{"a": object()}, {"a": "\0"}, [], None])
    def test_selections(self, selection):
        with pytest.raises(InvalidValue, match="filter"):
            sync_lease(Memory("postgresql://nowhere.invalid/db"), "c", selection=selection)
