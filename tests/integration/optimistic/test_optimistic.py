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
from pgmem.errors import InvalidInput, LeaseLost, NotOpen, StaleRead, TransactionConflict
from tests.support.both import Awaited


def ambient(memory, **values):
    return getattr(memory, "wrapped", memory).context(**values)


async def values(memory, *keys):
    entries = await memory.state.get_many(keys)
    return [entries[key].value if key in entries else None for key in keys]


class TestBlock:
    async def test_everything_is_written_at_the_end(self, both):
        await both.state.put("order", {"status": "new"})
        async with both.optimistic() as tx:
            entry = await tx.state.get("order")
            await tx.state.put("order", {"status": "planned"})
            await tx.state.put("other", 1)
            await tx.events.append("orders", Event(type="planned", payload=entry.value))
            assert await values(both, "order", "other") == [{"status": "new"}, None]
            assert await both.events.read("orders") == []
        assert await values(both, "order", "other") == [{"status": "planned"}, 1]
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
        assert await values(both, "k") == [3]
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
            with ambient(both, agent_id="a", run_id="r"):
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


class TestConflicts:
    async def test_a_changed_entry_is_reported_with_its_events_19(self, both):
        await both.state.put("k", "read")
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                await tx.state.get("k")
                with ambient(both, agent_id="rival", run_id="run-2", cause=1):
                    await both.state.put("k", "changed")
                await tx.state.put("k", "mine")
                await tx.state.put("unrelated", 1)
                await tx.events.append("s", Event(type="t"))
        (read,) = caught.value.reads
        assert (read.kind, read.name, read.expected, read.actual) == ("state", "k", 1, 2)
        assert (read.current.value, read.current.version) == ("changed", 2)
        (event,) = read.events
        assert (event.agent_id, event.metadata) == ("rival", {"run_id": "run-2", "cause": 1})
        assert caught.value.current == read.current
        assert await values(both, "k", "unrelated") == ["changed", None]
        assert await both.events.read("s") == []

    async def test_an_entry_that_was_only_read_is_guarded(self, both):
        await both.state.put("read", 1)
        with pytest.raises(StaleRead):
            async with both.optimistic() as tx:
                await tx.state.get("read")
                await both.state.put("read", 2)
                await tx.state.put("written", 1)
        assert await both.state.get("written") is None

    async def test_a_value_that_was_changed_and_changed_back_is_a_conflict(self, both):
        await both.state.put("k", "A")
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                await tx.state.get("k")
                await both.state.put("k", "B")
                await both.state.put("k", "A")
                await tx.state.put("other", 1)
        assert [event.payload for event in caught.value.reads[0].events] == ["B", "A"]

    async def test_an_absent_entry_is_guarded(self, both):
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                assert await tx.state.get("k") is None
                await both.state.put("k", 1)
                await tx.state.put("other", 1)
        (read,) = caught.value.reads
        assert (read.expected, read.actual, read.current.value) == (0, 1, 1)
        assert await both.state.get("other") is None

    async def test_only_the_events_since_an_entry_was_absent_are_reported(self, both):
        await both.state.put("k", "before")
        await both.state.delete("k")
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                assert await tx.state.get("k") is None
                await both.state.put("k", "after")
                await tx.state.put("k", 1)
        assert [event.payload for event in caught.value.reads[0].events] == ["after"]

    async def test_an_entry_that_was_deleted_meanwhile_is_a_conflict(self, both):
        await both.state.put("k", 1)
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                await tx.state.get("k")
                await both.state.delete("k")
                await tx.state.put("k", 2)
        assert (caught.value.expected, caught.value.actual) == (1, 0)
        assert caught.value.current is None
        assert await both.state.get("k") is None

    async def test_an_unchanged_read_and_changes_elsewhere_are_no_conflict(self, both):
        await both.state.put_many({"a": 1, "b": 1, "c": 1})
        async with both.optimistic() as tx:
            await tx.state.get("a")
            await tx.state.get_many(["b", "absent"])
            assert await tx.state.get("a") is not None
            await both.state.put("c", 2)
            await tx.state.put("d", 1)
        assert await values(both, "d") == [1]

    async def test_each_changed_read_is_reported(self, both):
        await both.state.put_many({"a": 1, "b": 1, "c": 1})
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                await tx.state.get_many(["a", "b", "c"])
                await both.state.put("c", 2)
                await both.state.put("a", 2)
        assert [read.name for read in caught.value.reads] == ["a", "c"]

    async def test_two_reads_of_one_key_that_differ_end_it_at_once(self, both):
        await both.state.put("k", 1)
        with pytest.raises(StaleRead, match="has 2"):
            async with both.optimistic() as tx:
                await tx.state.get("k")
                await both.state.put("k", 2)
                await tx.state.get("k")
                pytest.fail("the second read was returned")

    async def test_the_version_of_a_stream_is_guarded(self, both):
        await both.events.append("s", Event(type="t"), expected_version=0)
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                assert await tx.events.version("s") == 1
                await both.events.append("s", Event(type="rival"), expected_version=1)
                await tx.state.put("k", 1)
        (read,) = caught.value.reads
        assert (read.kind, read.name, read.expected, read.actual) == ("stream", "s", 1, 2)
        assert [event.type for event in read.events] == ["rival"]
        assert await both.state.get("k") is None

    async def test_an_expected_version_is_guarded(self, both):
        with pytest.raises(StaleRead):
            async with both.optimistic() as tx:
                await tx.events.append("s", Event(type="mine"), expected_version=0)
                await both.events.append("s", Event(type="rival"), expected_version=0)
        assert [event.type for event in await both.events.read("s")] == ["rival"]

    async def test_two_appends_to_one_versioned_stream_commit_together(self, both):
        async with both.optimistic() as tx:
            await tx.events.append("s", Event(type="a"), expected_version=0)
            await tx.events.append("s", [Event(type="b"), Event(type="c")], expected_version=1)
        assert [event.version for event in await both.events.read("s")] == [1, 2, 3]

    async def test_a_found_entry_is_guarded_and_a_new_key_is_not(self, both):
        await both.state.put("p:1", 1)
        async with both.optimistic() as tx:
            assert len(await tx.state.search("p:")) == 1
            await both.state.put("p:2", 1)
            await tx.state.put("sum", 1)
        with pytest.raises(StaleRead):
            async with both.optimistic() as tx:
                await tx.state.search("p:")
                await both.state.put("p:1", 2)
                await tx.state.put("sum", 2)


@pytest.mark.both_forms
class TestWriteSkew:
    """Two transactions each read what the other one writes: one of them must fail."""

    async def race(self, both, first, second):
        """Run two blocks whose reads both happen before either commits."""
        ready = [asyncio.Event(), asyncio.Event()]

        async def one(place, steps):
            async with both.optimistic() as tx:
                await steps(tx, "read")
                ready[place].set()
                await ready[1 - place].wait()
                await steps(tx, "write")

        done = await asyncio.gather(one(0, first), one(1, second), return_exceptions=True)
        failed = [error for error in done if error is not None]
        assert all(isinstance(error, StaleRead) for error in failed), failed
        return len(failed)

    @pytest.mark.parametrize("exist", [True, False])
    async def test_of_two_that_read_each_others_entries_one_fails_19(self, both, exist):
        if exist:
            await both.state.put_many({"alice": "on call", "bob": "on call"})

        def steps(own, other):
            async def run(tx, phase):
                if phase == "read":
                    await tx.state.get(other)
                    await tx.state.get(own)
                else:
                    await tx.state.put(own, "off")

            return run

        assert await self.race(both, steps("alice", "bob"), steps("bob", "alice")) == 1
        assert sorted(map(str, await values(both, "alice", "bob"))) != ["off", "off"]

    async def test_of_two_that_only_read_the_others_absent_entry_one_fails(self, both):
        def steps(own, other):
            async def run(tx, phase):
                if phase == "read":
                    assert await tx.state.get(other) is None
                else:
                    await tx.state.put(own, 1)

            return run

        assert await self.race(both, steps("a", "b"), steps("b", "a")) == 1

    async def test_of_two_that_read_each_others_streams_one_fails(self, both):
        def steps(own, other):
            async def run(tx, phase):
                if phase == "read":
                    await tx.events.version(other)
                else:
                    await tx.events.append(own, Event(type="t"), expected_version=0)

            return run

        assert await self.race(both, steps("a", "b"), steps("b", "a")) == 1

    async def test_two_without_a_common_name_both_commit(self, both):
        def steps(key):
            async def run(tx, phase):
                if phase == "read":
                    await tx.state.get(key)
                else:
                    await tx.state.put(key, 1)

            return run

        assert await self.race(both, steps("a"), steps("b")) == 0


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
        assert await values(both, "k") == [1]
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
        assert await values(both, "k") == [1]

    async def test_a_lease_that_is_lost_lets_nothing_commit(self, both):
        lease = await both.leases.acquire("job")
        await lease.release()
        with pytest.raises(LeaseLost):
            async with both.optimistic(fence=getattr(lease, "wrapped", lease)) as tx:
                await tx.state.put("k", 1)
        assert await both.state.get("k") is None


@pytest.mark.both_forms
class TestRunTransaction:
    async def test_it_returns_the_result(self, both):
        async def step(tx):
            entry = await tx.state.get("k")
            assert entry is None
            await tx.state.put("k", 1)
            return "done"

        assert await both.run_transaction(step, optimistic=True) == "done"
        assert await values(both, "k") == [1]

    @pytest.mark.parametrize("tasks", [8])
    async def test_no_increment_is_lost(self, both, tasks):
        async def step(tx):
            entry = await tx.state.get("n")
            await tx.state.put("n", (entry.value if entry else 0) + 1)

        await asyncio.gather(
            *(both.run_transaction(step, optimistic=True, retries=100) for _ in range(tasks))
        )
        assert await values(both, "n") == [tasks]

    async def test_after_three_lost_races_it_locks_first(self, both):
        """Lose to a rival three times; then its write would wait for the lock."""
        await both.state.put("k", 0)
        rival = both.wrapped if isinstance(both, Awaited) else both
        calls = []

        async def step(tx):
            calls.append(len(calls))
            entry = await tx.state.get("k")
            if len(calls) <= 3:
                written = rival.state.put("k", f"rival {len(calls)}")
                if not isinstance(both, Awaited):
                    await written
            await tx.state.put("k", [entry.value])

        await both.run_transaction(step, optimistic=True)
        assert calls == [0, 1, 2, 3]
        assert await values(both, "k") == [["rival 3"]]

    async def test_it_gives_up_after_the_retries(self, both):
        await both.state.put("k", 0)
        rival = both.wrapped if isinstance(both, Awaited) else both
        calls = []

        async def step(tx):
            calls.append(1)
            await tx.state.get("k")
            written = rival.state.put("k", len(calls))
            if not isinstance(both, Awaited):
                await written
            await tx.state.put("k", -1)

        with pytest.raises(StaleRead):
            await both.run_transaction(step, optimistic=True, retries=1)
        assert len(calls) == 2

    async def test_another_error_is_not_repeated(self, both):
        calls = []

        async def step(tx):
            calls.append(1)
            raise ValueError("no")

        for optimistic in (True, False):
            with pytest.raises(ValueError, match="no"):
                await both.run_transaction(step, optimistic=optimistic)
        assert len(calls) == 2

    async def test_a_plain_transaction_is_repeated_when_the_server_undid_it(self, both):
        calls = []

        async def step(tx):
            calls.append(1)
            await tx.state.put("k", len(calls))
            if len(calls) < 3:
                raise TransactionConflict("as the server would say")
            return "done"

        assert await both.run_transaction(step) == "done"
        assert await values(both, "k") == [3]

    async def test_options_that_do_not_fit_are_refused(self, both):
        async def step(tx):
            pytest.fail("it was called")

        for options in (
            {"idempotency_key": "k"},
            {"retries": -1},
            {"optimistic": True, "retries": -1},
        ):
            with pytest.raises(InvalidInput):
                await both.run_transaction(step, **options)


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
