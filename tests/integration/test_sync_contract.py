"""The contract of the sync form: one short test for each verb, in threads.

The sync form is generated from the async one, which the other tests of this folder run. What waits
runs in both forms there (`both_forms`). These tests show that the generated verbs work, and the
first ones that none is missing.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest

import pgmem
from pgmem import KEEP, Append, AsyncMemory, Event, Fold, LeaseLost, Memory, VersionConflict

GROUPS = (
    "events", "state", "dedupe", "groups", "leases", "limits", "retention", "folds",
    "subscriptions",
)  # fmt: skip
ASYNC_CLASSES = sorted(name for name in pgmem.__all__ if name.startswith("Async"))


def event(n: int = 1, type: str = "t") -> Event:
    return Event(type=type, payload={"n": n})


def numbers(events) -> list[int]:
    return [found.payload["n"] for found in events]


def verbs(cls: type) -> dict[str, list[str]]:
    """Return the public methods of a class with the names of their parameters."""
    found = inspect.getmembers(cls, lambda member: callable(member) or isinstance(member, property))
    return {
        name: [] if isinstance(member, property) else list(inspect.signature(member).parameters)
        for name, member in found
        if not name.startswith("_")
    }


class TestTwins:
    @pytest.mark.parametrize("name", ASYNC_CLASSES)
    def test_each_async_class_has_a_twin_with_the_same_verbs(self, name):
        twin = getattr(pgmem, name.removeprefix("Async"))
        assert verbs(twin) == verbs(getattr(pgmem, name))

    @pytest.mark.parametrize("group", GROUPS)
    def test_each_verb_group_has_the_same_verbs(self, group, database_url):
        sync, tasks = Memory(database_url), AsyncMemory(database_url)
        assert verbs(type(getattr(sync, group))) == verbs(type(getattr(tasks, group)))

    def test_no_verb_gives_an_awaitable(self, database_url):
        memory = Memory(database_url)
        for group in GROUPS:
            for name, verb in inspect.getmembers(getattr(memory, group), callable):
                assert not inspect.iscoroutinefunction(verb), f"{group}.{name}"


class TestEvents:
    def test_append_gives_a_receipt(self, memory):
        assert memory.events.append("s", event()).position == 1

    def test_append_of_a_list_gives_receipts_in_order(self, memory):
        receipts = memory.events.append("s", [event(1), event(2)])
        assert [receipt.position for receipt in receipts] == [1, 2]

    def test_append_with_a_key_takes_effect_once(self, memory):
        first = memory.events.append("s", event(), idempotency_key="k")
        again = memory.events.append("s", event(), idempotency_key="k")
        assert (first.position, again.position, again.duplicate) == (1, 1, True)

    def test_append_checks_the_expected_version(self, memory):
        memory.events.append("s", event(), expected_version=0)
        with pytest.raises(VersionConflict):
            memory.events.append("s", event(), expected_version=0)
        assert memory.events.version("s") == 1

    def test_append_all_writes_several_streams_at_once(self, memory):
        memory.events.append_all([Append("a", [event(1)]), Append("b", [event(2), event(3)])])
        assert numbers(memory.events.read()) == [1, 2, 3]

    def test_read_filters(self, memory):
        memory.events.append("a", [event(1, "x"), event(2, "y")])
        memory.events.append("b", event(3, "x"))
        assert numbers(memory.events.read("a")) == [1, 2]
        assert numbers(memory.events.read(type="x")) == [1, 3]
        assert numbers(memory.events.read(prefix="b")) == [3]
        assert numbers(memory.events.read(reverse=True, limit=1)) == [3]

    def test_read_waits_in_a_thread_for_the_first_event(self, memory):
        found = []
        reader = threading.Thread(target=lambda: found.extend(memory.events.read("s", timeout=20)))
        reader.start()
        memory.events.append("s", event(7))
        reader.join(20)
        assert numbers(found) == [7]

    def test_read_stream_goes_by_version(self, memory):
        memory.events.append("s", [event(1), event(2)], expected_version=0)
        assert numbers(memory.events.read_stream("s", after_version=1)) == [2]

    def test_get_gives_the_event_at_a_position(self, memory):
        memory.events.append("s", event(5))
        assert memory.events.get(1).payload == {"n": 5}
        assert memory.events.get(2) is None

    def test_count_and_head(self, memory):
        memory.events.append("s", [event(), event()])
        memory.events.append("other", event())
        assert memory.events.count("s") == 2
        assert (memory.events.head(), memory.events.head(stream="s")) == (3, 2)

    def test_subscribe_iterates(self, memory):
        memory.events.append("s", [event(1), event(2)])
        with memory.events.subscribe("s") as events:
            assert numbers([next(events), next(events)]) == [1, 2]

    def test_subscribe_receives_what_another_thread_appends(self, memory):
        with memory.events.subscribe("s", after="now") as events:
            writer = threading.Thread(target=memory.events.append, args=("s", event(3)))
            writer.start()
            assert numbers(events.receive(timeout=20)) == [3]
            writer.join()

    def test_stop_ends_a_subscription_of_another_thread(self, memory):
        with memory.events.subscribe("s") as events:
            waiting = threading.Thread(target=lambda: list(events))
            waiting.start()
            events.stop()
            waiting.join(20)
            assert not waiting.is_alive()


class TestSubscriptions:
    def test_a_durable_one_continues_where_it_committed(self, memory):
        memory.events.append("s", [event(1), event(2)])
        with memory.events.subscribe("s", durable="d") as events:
            (first,) = events.receive(limit=1)
            events.commit(first)
            assert numbers(events.receive(limit=1)) == [2]
        with memory.events.subscribe("s", durable="d") as events:
            assert numbers(events.receive(timeout=20)) == [2]

    def test_list_get_reset_delete(self, memory):
        memory.events.append("s", event())
        with memory.events.subscribe("s", durable="d") as events:
            events.receive(timeout=20)
        assert [found.name for found in memory.subscriptions.list()] == ["d"]
        memory.subscriptions.reset("d", after=0)
        assert memory.subscriptions.get("d").position == 0
        assert memory.subscriptions.delete("d")
        assert memory.subscriptions.list() == []


class TestState:
    def test_put_get_delete(self, memory):
        assert memory.state.put("k", {"v": 1}).version == 1
        assert memory.state.get("k").value == {"v": 1}
        assert memory.state.delete("k")
        assert memory.state.get("k") is None

    def test_create_refuses_what_exists(self, memory):
        memory.state.create("k", 1)
        with pytest.raises(VersionConflict):
            memory.state.create("k", 2)

    def test_compare_and_set(self, memory):
        memory.state.put("k", 1)
        assert memory.state.compare_and_set("k", 2, expected_version=1).version == 2
        with pytest.raises(VersionConflict):
            memory.state.compare_and_set("k", 3, expected_version=1)

    def test_compare_and_set_keeps_the_ttl_unless_told(self, memory):
        memory.state.put("k", 1, ttl=3_600)
        kept = memory.state.compare_and_set("k", 2, expected_version=1, ttl=KEEP)
        assert kept.expires_at is not None
        assert memory.state.compare_and_set("k", 3, expected_version=2, ttl=None).expires_at is None

    def test_update_calls_the_function(self, memory):
        memory.state.put("k", 1)
        assert memory.state.update("k", lambda value: value + 1).value == 2

    def test_increment(self, memory):
        assert memory.state.increment("n", 2).value == 2
        assert memory.state.increment("n", -1).value == 1

    def test_put_many_and_get_many(self, memory):
        memory.state.put_many({"b": 2, "a": 1})
        found = memory.state.get_many(["a", "b", "c"])
        assert {key: entry.value for key, entry in found.items()} == {"a": 1, "b": 2}

    def test_list_keys_search(self, memory):
        memory.state.put_many({"t/1": {"s": "open"}, "t/2": {"s": "done"}, "u": {"s": "open"}})
        assert [entry.key for entry in memory.state.list("t/")] == ["t/1", "t/2"]
        assert memory.state.keys("t/") == ["t/1", "t/2"]
        assert [e.key for e in memory.state.search("t/", where={"s": "open"})] == ["t/1"]

    def test_touch_changes_the_expiry_alone(self, memory):
        memory.state.put("k", 1)
        memory.state.touch("k", ttl=timedelta(hours=1))
        entry = memory.state.get("k")
        assert entry.version == 1
        assert entry.expires_at is not None

    def test_history(self, memory):
        memory.state.put("k", 1)
        memory.state.put("k", 2)
        assert [change.version for change in memory.state.history("k")] == [1, 2]

    def test_watch(self, memory):
        with memory.state.watch("k") as changes:
            memory.state.put("k", 1)
            assert [change.value for change in changes.receive(timeout=20)] == [1]

    def test_snapshots(self, memory):
        memory.state.put("k", 1)
        snapshot = memory.state.snapshots.take("before")
        memory.state.put("k", 2)
        assert [found.id for found in memory.state.snapshots.list()] == [snapshot.id]
        assert [entry.value for entry in memory.state.snapshots.entries(snapshot.id)] == [1]
        memory.state.snapshots.restore(snapshot.id)
        assert memory.state.get("k").value == 1


class TestDedupe:
    def test_run_once(self, memory):
        calls = []
        for _ in range(2):
            outcome = memory.dedupe.run_once("k", lambda: calls.append(1) or "done")
        assert (calls, outcome.status, outcome.result) == ([1], "skipped", "done")

    def test_claim_complete(self, memory):
        claim = memory.dedupe.claim("k")
        memory.dedupe.complete(claim, {"n": 1})
        assert memory.dedupe.claim("k").result == {"n": 1}

    def test_release_gives_the_work_back(self, memory):
        memory.dedupe.release(memory.dedupe.claim("k"))
        assert memory.dedupe.claim("k").acquired


class TestGroups:
    @pytest.fixture
    def group(self, memory):
        memory.events.append("s", [event(1), event(2), event(3)])
        return memory.groups.create("g", stream="s", after=0)

    def test_create_get_list_delete(self, memory, group):
        assert memory.groups.get("g").info().name == group.name
        assert [found.name for found in memory.groups.list()] == ["g"]
        assert memory.groups.create("g", stream="s", after=0, exist_ok=True).name == "g"
        assert memory.groups.delete("g")

    def test_read_and_ack(self, group):
        deliveries = group.read("m", limit=2)
        assert numbers([delivery.event for delivery in deliveries]) == [1, 2]
        group.ack(deliveries)
        assert (group.lag(), group.pending()) == (1, [])

    def test_nack_hands_out_again(self, group):
        (first,) = group.read("m", limit=1)
        first.nack()
        (again,) = group.read("m", limit=1)
        assert (again.event.position, again.attempts) == (first.event.position, 2)

    def test_dead_letter_and_requeue(self, group):
        (delivery,) = group.read("m", limit=1)
        delivery.dead_letter("bad")
        (letter,) = group.dead_letters()
        assert letter.error == "bad"
        assert group.requeue() == 1

    def test_extend(self, group):
        (delivery,) = group.read("m", limit=1, lease=30)
        before = delivery.expires_at
        assert delivery.extend(60) > before

    def test_ack_in_a_transaction(self, memory, group):
        deliveries = group.read("m", limit=3)
        with memory.transaction() as tx:
            tx.state.put("done", 3)
            group.ack(deliveries, tx)
        assert (group.pending(), memory.state.get("done").value) == ([], 3)

    def test_reset(self, group):
        group.ack(group.read("m", limit=3))
        group.reset(0)
        assert numbers([delivery.event for delivery in group.read("m")]) == [1, 2, 3]

    def test_run_handles_until_stopped(self, group):
        handled = []

        def handle(delivery):
            handled.append(delivery.event.payload["n"])
            if len(handled) == 3:
                group.stop()

        result = group.run(handle)
        assert (sorted(handled), result.handled) == ([1, 2, 3], 3)


class TestLeases:
    def test_hold_releases_at_the_end(self, memory):
        with memory.leases.hold("l") as lease:
            assert memory.leases.get("l").owner == lease.owner
        assert memory.leases.get("l") is None

    def test_acquire_renew_release(self, memory):
        lease = memory.leases.acquire("l", ttl=30, timeout=0)
        lease.renew()
        assert [found.name for found in memory.leases.list()] == ["l"]
        lease.release()
        assert memory.leases.list() == []

    def test_a_waiting_thread_gets_a_released_lease(self, memory):
        first, got = memory.leases.acquire("l"), []
        waiting = threading.Thread(target=lambda: got.append(memory.leases.acquire("l")))
        waiting.start()
        first.release()
        waiting.join(20)
        assert got[0].token > first.token

    def test_fence_refuses_a_lost_lease(self, memory):
        lease = memory.leases.acquire("l")
        memory.leases.release("l", token=lease.token)
        with pytest.raises(LeaseLost):
            memory.state.compare_and_set("k", 1, expected_version=0, fence=lease)

    def test_limits(self, memory):
        assert memory.limits.acquire("l", rate=0.001, burst=1).granted
        assert not memory.limits.acquire("l", rate=0.001, burst=1).granted


class TestFolds:
    FOLD = Fold(
        name="f", stream="s", initial=lambda: 0, apply=lambda sum_, e: sum_ + e.payload["n"]
    )

    def test_fold(self, memory):
        memory.events.append("s", [event(1), event(2)])
        assert memory.folds.fold(self.FOLD).value == 3

    def test_save_and_load(self, memory):
        memory.folds.save("f", 7, position=1)
        assert memory.folds.load("f").value == 7


class TestRetention:
    def test_trim(self, memory):
        memory.events.append("s", [event(n) for n in range(5)])
        assert memory.retention.trim(max_events=2).removed == 3

    def test_policies_and_maintenance(self, memory):
        memory.events.append("s", [event(n) for n in range(5)])
        memory.retention.set(max_events=2)
        assert len(memory.retention.list()) == 1
        memory.retention.maintain()
        assert memory.events.count() == 2


class TestTransactions:
    def test_restore_is_all_or_nothing(self, memory):
        with suppress(ZeroDivisionError), memory.transaction() as tx:
            tx.events.append("s", event())
            tx.state.put("k", 1 / 0)
        assert memory.events.count() == 0

    def test_the_callers_own_rows(self, memory, database_url):
        with memory.transaction() as tx:
            tx.connection.execute("CREATE TABLE own (n int)")
            tx.events.append("s", event())
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT count(*) FROM own").fetchone() == (0,)

    def test_using_joins_the_callers_transaction(self, memory, database_url):
        with psycopg.connect(database_url) as connection:
            memory.using(connection).state.put("k", 1)
            connection.rollback()
        assert memory.state.get("k") is None

    def test_run_once_commits_with_its_effects(self, memory):
        with memory.transaction() as tx:
            outcome = tx.dedupe.run_once("k", lambda: tx.state.put("v", 1).version)
        assert (outcome.result, memory.state.get("v").value) == (1, 1)

    def test_run_transaction_runs_again_after_a_conflict(self, memory):
        assert memory.run_transaction(lambda tx: tx.state.put("k", 1).version) == 1

    def test_optimistic_commits_if_nothing_changed(self, memory):
        memory.state.put("k", 1)
        with memory.optimistic() as tx:
            tx.state.put("k", tx.state.get("k").value + 1)
        assert memory.state.get("k").value == 2

    def test_context_fills_in_run_and_cause(self, memory):
        with memory.context(agent_id="a", run_id="r", cause=1):
            memory.events.append("s", event())
        (found,) = memory.events.read("s")
        assert (found.agent_id, found.metadata) == ("a", {"run_id": "r", "cause": 1})


class TestStats:
    def test_stats(self, memory):
        memory.events.append("s", event())
        assert memory.stats().log.head == 1
