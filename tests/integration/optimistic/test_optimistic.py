"""Optimistic transactions: what was read by key is unchanged at the commit, or nothing is written.

`test_*_19` shows: an optimistic transaction commits only if everything that it read by key is
unchanged, all of it or nothing, also when the answer is lost.
"""

# ruff: noqa: PT012, SIM117  # the commit at the end of a block raises

from __future__ import annotations

import asyncio

import psycopg
import pytest

from pgmem import Event
from pgmem.errors import InvalidInput, LeaseLost, NotOpen, StaleRead
from tests.support.both import context, state_values


class TestBlock:
    async def test_everything_is_written_at_the_end(self, both):
        await both.state.put("order", {"status": "new"})
        async with both.optimistic() as tx:
            entry = await tx.state.get("order")
            await tx.state.put("order", {"status": "planned"})
            await tx.state.put("other", 1)
            await tx.events.append("orders", Event(type="planned", payload=entry.value))
            assert await state_values(both, "order", "other") == [{"status": "new"}, None]
            assert await both.events.read("orders") == []
        assert await state_values(both, "order", "other") == [{"status": "planned"}, 1]
        (event,) = await both.events.read("orders")
        assert event.payload == {"status": "new"}
        assert tx.committed == (event.position, {"order": 2, "other": 1}, False)

    async def test_a_block_that_raises_writes_nothing(self, both):
        with pytest.raises(ZeroDivisionError):
            async with both.optimistic() as tx:
                await tx.state.put("k", 1)
                _ = 1 / 0
        assert await both.state.get("k") is None
        with pytest.raises(NotOpen):
            _ = tx.committed

    async def test_its_own_writes_are_read(self, both):
        await both.state.put("k", 1)
        async with both.optimistic() as tx:
            value = {"n": 1}
            await tx.state.put("k", value)
            value["n"] = 2
            assert (await tx.state.get("k")).value == {"n": 1}
            await tx.state.delete("k")
            assert await tx.state.get("k") is None
            await tx.state.put("k", 3)
        assert await state_values(both, "k") == [3]
        assert tx.committed.versions == {"k": 4}

    async def test_after_the_block_it_is_over(self, both):
        async with both.optimistic() as tx:
            pass
        assert tx.committed == (None, {}, False)
        for call in (
            lambda: tx.state.get("k"),
            lambda: tx.state.put("k", 1),
            lambda: tx.events.append("s", Event(type="t")),
            lambda: tx.events.version("s"),
        ):
            with pytest.raises(NotOpen):
                await call()

    async def test_what_is_not_allowed_is_refused_at_the_call(self, both):
        async with both.optimistic() as tx:
            for call in (
                lambda: tx.state.put("", 1),
                lambda: tx.state.put("k", float("nan")),
                lambda: tx.events.append("state:k", Event(type="t")),
            ):
                with pytest.raises(InvalidInput):
                    await call()
        assert tx.committed.position is None

    async def test_the_context_of_each_call_is_kept(self, both):
        async with both.optimistic() as tx:
            with context(both, agent_id="a", run_id="r"):
                await tx.events.append("s", Event(type="t"))
            await tx.events.append("s", Event(type="t"))
        first, second = await both.events.read("s")
        assert (first.agent_id, first.metadata) == ("a", {"run_id": "r"})
        assert (second.agent_id, second.metadata) == ("tester", None)

    async def test_it_holds_no_transaction_open(self, both, database_url):
        await both.state.put("k", 1)
        async with both.optimistic() as tx:
            await tx.state.get("k")
            with psycopg.connect(database_url, autocommit=True) as connection:
                (open_ones,) = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND state LIKE 'idle in transaction%'"
                ).fetchone()
            assert open_ones == 0


class TestIdempotencyKey:
    async def test_a_repeated_block_gets_the_first_receipt(self, both):
        async with both.optimistic(idempotency_key="order:1") as tx:
            await tx.state.put("k", 1)
            await tx.events.append("s", Event(type="t"))
        first = tx.committed
        async with both.optimistic(idempotency_key="order:1") as tx:
            await tx.state.put("k", 2)
            await tx.events.append("s", Event(type="t"))
        assert tx.committed == first._replace(duplicate=True)
        assert await state_values(both, "k") == [1]
        assert await both.events.count("s") == 1

    async def test_a_block_that_failed_did_not_use_the_key(self, both):
        await both.state.put("k", 1)
        with pytest.raises(StaleRead):
            async with both.optimistic(idempotency_key="key") as tx:
                await tx.state.get("k")
                await both.state.put("k", 2)
        async with both.optimistic(idempotency_key="key") as tx:
            await tx.state.put("k", 3)
        assert tx.committed.versions == {"k": 3}

    async def test_a_repetition_wins_over_a_stale_read(self, both):
        async with both.optimistic(idempotency_key="key") as tx:
            await tx.state.get("k")
            await tx.state.put("k", 1)
        first = tx.committed
        async with both.optimistic(idempotency_key="key") as tx:
            await tx.state.get("k")
            await both.state.put("k", 5)
            await tx.state.put("k", 1)
        assert tx.committed.versions == first.versions

    async def test_of_many_at_once_one_takes_effect(self, both):
        async def one(n):
            async with both.optimistic(idempotency_key="key") as tx:
                await tx.state.put("k", n)
                await tx.events.append("s", Event(type="t", payload=n))
            return tx.committed

        done = await asyncio.gather(*(one(n) for n in range(6)))
        assert len({receipt.position for receipt in done}) == 1
        assert [receipt.duplicate for receipt in done].count(False) == 1
        assert await both.events.count("s") == 1

    async def test_it_is_no_key_of_run_once(self, both):
        await both.dedupe.run_once("key", lambda: 1)
        async with both.optimistic(idempotency_key="key") as tx:
            await tx.state.put("k", 1)
        assert not tx.committed.duplicate
        for key in ("optimistic:key", "k" * 512):
            async with both.optimistic(idempotency_key=key) as tx:
                await tx.state.put("k", 1)
            assert (await both.dedupe.run_once(key, lambda: 1)).status == "processed"
        assert (await both.dedupe.run_once("optimistic:other", lambda: 1)).status == "processed"
        async with both.optimistic(idempotency_key="other") as tx:
            await tx.state.put("k", 1)
        assert not tx.committed.duplicate

    @pytest.mark.parametrize("key", ["", "x" * 513, 5])
    async def test_a_key_that_is_not_allowed_is_refused(self, both, key):
        with pytest.raises(InvalidInput):
            async with both.optimistic(idempotency_key=key):
                pytest.fail("the block was entered")


class TestDeliveriesSubscriptionsAndLeases:
    async def test_deliveries_are_acknowledged_with_the_writes(self, both):
        group = await both.groups.create("g", stream="s")
        await both.events.append("s", [Event(type="t"), Event(type="t")])
        deliveries = await group.read(member="m")
        plain = [getattr(delivery, "wrapped", delivery) for delivery in deliveries]
        async with both.optimistic() as tx:
            await tx.ack(plain[0])
            await tx.ack(plain[1:])
            await tx.state.put("done", 2)
        assert await group.pending() == []

    async def test_a_failed_block_acknowledges_nothing(self, both):
        group = await both.groups.create("g", stream="s")
        await both.events.append("s", Event(type="t"))
        await both.state.put("k", 1)
        (delivery,) = await group.read(member="m")
        with pytest.raises(StaleRead):
            async with both.optimistic() as tx:
                await tx.state.get("k")
                await tx.ack(getattr(delivery, "wrapped", delivery))
                await both.state.put("k", 2)
        assert len(await group.pending()) == 1

    async def test_a_lease_that_is_held_lets_it_commit(self, both):
        async with both.leases.hold("job") as lease:
            async with both.optimistic(fence=getattr(lease, "wrapped", lease)) as tx:
                await tx.state.put("k", 1)
        assert await state_values(both, "k") == [1]

    async def test_a_lease_that_is_lost_lets_nothing_commit(self, both):
        lease = await both.leases.acquire("job")
        await lease.release()
        with pytest.raises(LeaseLost):
            async with both.optimistic(fence=getattr(lease, "wrapped", lease)) as tx:
                await tx.state.put("k", 1)
        assert await both.state.get("k") is None


@pytest.mark.both_forms
async def test_a_cached_entry_shows_what_was_committed(form):
    async with form.memory(cache=10) as memory:
        await memory.state.put("k", 1)
        await memory.state.get("k")
        async with memory.optimistic() as tx:
            await tx.state.get("k")
            await tx.state.put("k", 2)
        assert (await memory.state.get("k")).value == 2


async def test_one_connection_is_enough(form):
    async with form.memory(pool=1) as memory:
        await memory.state.put("k", 1)
        with pytest.raises(StaleRead):
            async with memory.optimistic() as tx:
                await tx.state.get("k")
                await memory.state.put("k", 2)
                await tx.state.put("k", 3)
