"""Optimistic transactions that lose: what has changed is found, told, and tried again.

`test_*_19` shows: an optimistic transaction commits only if everything that it read by key is
unchanged, all of it or nothing, also when the answer is lost.
"""

# ruff: noqa: PT012  # the commit at the end of a block raises

from __future__ import annotations

import asyncio

import pytest

from pgmem import Event
from pgmem.errors import InvalidInput, StaleRead, TransactionConflict
from tests.support.both import Awaited, context, state_values


class TestConflicts:
    async def test_a_changed_entry_is_reported_with_its_events_19(self, both):
        await both.state.put("k", "read")
        with pytest.raises(StaleRead) as caught:
            async with both.optimistic() as tx:
                await tx.state.get("k")
                with context(both, agent_id="rival", run_id="run-2", cause=1):
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
        assert await state_values(both, "k", "unrelated") == ["changed", None]
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
        assert await state_values(both, "d") == [1]

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
        assert sorted(map(str, await state_values(both, "alice", "bob"))) != ["off", "off"]

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


class TestRunTransaction:
    async def test_it_returns_the_result(self, both):
        async def step(tx):
            entry = await tx.state.get("k")
            assert entry is None
            await tx.state.put("k", 1)
            return "done"

        assert await both.run_transaction(step, optimistic=True) == "done"
        assert await state_values(both, "k") == [1]

    @pytest.mark.parametrize("tasks", [8])
    async def test_no_increment_is_lost(self, both, tasks):
        async def step(tx):
            entry = await tx.state.get("n")
            await tx.state.put("n", (entry.value if entry else 0) + 1)

        await asyncio.gather(
            *(both.run_transaction(step, optimistic=True, retries=100) for _ in range(tasks))
        )
        assert await state_values(both, "n") == [tasks]

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
        assert await state_values(both, "k") == [["rival 3"]]

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
        assert await state_values(both, "k") == [3]

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
