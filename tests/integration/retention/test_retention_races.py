"""Trims beside readers, subscriptions, writers and other trims: no reader skips silently."""

from __future__ import annotations

import sys
import threading

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmem import Event, Fold, Memory
from pgmem.errors import PositionTrimmed, TransactionConflict
from pgmem.retention import ops
from pgmem.retention.models import LaggingReader
from pgmem.state import snapshot_ops as snapshots
from tests.support.retention import (
    add_batch,
    add_dead_letter,
    add_delayed,
    fill,
    insert,
    left,
    marks,
    run,
    store_group,
    store_subscription,
)


@pytest.fixture
def before_removal(monkeypatch):
    """Lets something happen when a trim has decided what goes, and before it removes that."""

    def arrange(hook):
        remove = ops.remove

        def once(*args, **options):
            monkeypatch.setattr(ops, "remove", remove)
            hook()
            return remove(*args, **options)

        monkeypatch.setattr(ops, "remove", once)

    return arrange


@pytest.fixture
def before_commit(monkeypatch):
    """Lets something happen when a trim has removed events, and before it commits that."""

    def arrange(hook):
        remove = ops.remove

        def once(*args, **options):
            op = remove(*args, **options)

            def parse(rows):
                hook()
                return op.parse(rows)

            monkeypatch.setattr(ops, "remove", remove)
            return op._replace(parse=parse)

        monkeypatch.setattr(ops, "remove", once)

    return arrange


@pytest.fixture
def before_trim_time(monkeypatch):
    """Run a hook after the commit of a trim, before its time is set."""

    def arrange(hook):
        date, calls = ops.set_trim_times, []

        def second():
            calls.append(1)
            if len(calls) == 2:  # The first one is what a trim begins with.
                hook()
            return date()

        monkeypatch.setattr(ops, "set_trim_times", second)

    return arrange


def rest_of(subscription, enough=10_000):
    """Receive from a subscription until the last event of the log or an error."""
    got = []
    while not got or got[-1] < enough:
        got += [event.position for event in subscription.receive(500, timeout=20)]
    return got


# what protects an event


@pytest.mark.parametrize("store", [store_subscription, store_group])
async def test_reader_stored_during_a_trim_is_heeded(both, database_url, before_removal, store):
    await fill(both, 20)
    before_removal(lambda: store(database_url, 7))
    assert (await both.retention.trim(max_events=2)).removed == 7
    assert left(database_url) == list(range(8, 21))
    assert marks(database_url) == {"": (7, 7)}
    kind, name = ("group", "g") if store is store_group else ("subscription", "c")
    holder = LaggingReader(kind, name, 7)
    (done,) = (await both.retention.trim(max_events=2)).streams
    assert (done.removed, done.held_back_by) == (0, holder)


async def test_trim_under_repeatable_read(form, database_url, before_removal):
    strict = make_conninfo(
        database_url, options=r"-c default_transaction_isolation=repeatable\ read"
    )
    async with form.memory(strict) as memory:
        await fill(memory, 20)
        before_removal(lambda: store_subscription(database_url, 7))
        assert (await memory.retention.trim(max_events=2)).removed == 7


async def test_force_ignores_stored_readers(both, database_url, before_removal):
    await fill(both, 20)
    before_removal(lambda: store_subscription(database_url, 7))
    assert (await both.retention.trim(max_events=2, force=True)).removed == 18


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("hold", [add_batch, add_delayed, add_dead_letter])
async def test_event_claimed_during_a_trim_stays(both, database_url, before_removal, hold, force):
    await fill(both, 20)
    store_group(database_url, 20)
    before_removal(lambda: hold(database_url, 5))
    assert (await both.retention.trim(max_events=2, force=force)).removed == 17
    assert left(database_url) == [5, 19, 20]


async def test_subscription_that_begins_behind_a_trim_is_told(both, database_url, before_commit):
    # It is stored between the removal of the events and the commit.
    await fill(both, 20)
    before_commit(lambda: store_subscription(database_url, 0))
    assert (await both.retention.trim(max_events=2)).removed == 18
    async with both.events.subscribe(durable="c") as events:
        with pytest.raises(PositionTrimmed) as error:
            await events.receive(timeout=5)
    assert (error.value.position, error.value.trimmed_to) == (0, 18)


async def test_subscription_reset_during_a_trim_is_told(both, database_url, before_commit):
    await fill(both, 20)
    async with both.events.subscribe(durable="c") as events:
        await events.commit((await events.receive(20))[-1])
    with Memory(database_url) as other:
        before_commit(lambda: other.subscriptions.reset("c", 5))
        assert (await both.retention.trim(max_events=2)).removed == 18
    async with both.events.subscribe(durable="c") as events:
        with pytest.raises(PositionTrimmed) as error:
            await events.receive(timeout=5)
    assert (error.value.position, error.value.trimmed_to) == (5, 18)


# who begins meanwhile


async def test_reader_that_began_before_the_commit_is_told(both, database_url, before_commit):
    # It saw the removed events, so a time from before the commit would be too early.
    insert(database_url, 2_000)
    with Memory(database_url) as other:
        subscription = other.events.subscribe(after=0)
        got = []
        before_commit(lambda: got.extend(event.position for event in subscription.receive(1)))
        assert (await both.retention.trim(max_events=10)).removed == 1_990
        with pytest.raises(PositionTrimmed) as error:
            got += rest_of(subscription, 2_000)
        subscription.close()
    assert got[0] == 1
    assert (error.value.position, error.value.trimmed_to) == (subscription.position, 1_990)


async def test_reader_that_begins_after_the_trim_is_not_told(both, database_url, before_trim_time):
    insert(database_url, 100)
    seen = []

    def begin():
        seen.append(run(database_url, "SELECT trimmed_at = 'infinity' FROM pgmem.trimmed"))
        with Memory(database_url) as other:
            seen.append([event.position for event in other.events.read()])

    before_trim_time(begin)
    await both.retention.trim(max_events=2)
    assert seen == [[(True,)], [99, 100]]
    async with both.events.subscribe(after=0) as subscription:
        assert [event.position for event in await subscription.receive()] == [99, 100]


async def test_only_a_reader_behind_the_trim_is_told(both, database_url):
    insert(database_url, 2_000)
    with Memory(database_url) as other:
        half = other.events.subscribe(after=0)
        full = other.events.subscribe(after=1_990)
        got = [event.position for event in half.receive(1)]
        assert [event.position for event in full.receive(100)] == list(range(1_991, 2_001))
        await both.retention.trim(max_events=10)
        insert(database_url, 5)
        assert [event.position for event in full.receive(100)] == list(range(2_001, 2_006))
        with pytest.raises(PositionTrimmed):
            got += rest_of(half, 2_005)
        assert got == list(range(1, len(got) + 1))
        half.close()
        full.close()


# trims beside each other


async def test_two_trims_of_the_same_events_count_them_once(both, database_url, before_removal):
    await fill(both, 20)
    with Memory(database_url) as other:
        before_removal(lambda: other.retention.trim(max_events=8))
        done = await both.retention.trim(max_events=2)
        assert done.removed == 6
        assert marks(database_url) == {"": (18, 18)}


async def test_trim_waits_for_an_uncommitted_trim(both, database_url):
    await fill(both, 20)
    with psycopg.connect(database_url) as first:
        first.execute("SELECT set_config('retention.trimming', pg_current_xact_id()::text, true)")
        first.execute("DELETE FROM pgmem.events WHERE position <= 5")
        undone = threading.Timer(0.3, first.rollback)
        undone.start()
        assert (await both.retention.trim(max_events=10)).removed == 10
        assert not undone.is_alive()
    assert left(database_url) == list(range(11, 21))


async def test_low_water_mark_never_goes_back(both, database_url):
    await fill(both, 20)
    store_group(database_url, 20)
    add_batch(database_url, 3)
    await both.retention.trim(max_events=5)
    run(database_url, "DELETE FROM pgmem.batches")
    assert (await both.retention.trim(max_events=5)).removed == 1
    assert marks(database_url) == {"": (15, 15)}


# writers in flight


async def test_event_of_a_slow_writer_is_not_removed(both, database_url):
    # Its event is below the removed ones, and becomes visible later.
    await fill(both, 5)
    with psycopg.connect(database_url) as slow, Memory(database_url) as other:
        slow.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('a', 't', '1')")
        await fill(both, 10)
        with other.events.subscribe(after=0) as subscription:
            assert len(subscription.receive(100, timeout=20)) == 5
            assert (await both.retention.trim(max_events=2)).removed < 6
            slow.commit()
            got = []
            while len(got) < 11:
                got += [event.position for event in subscription.receive(100, timeout=20)]
        assert got == list(range(6, 17))


async def test_last_event_of_a_stream_that_grows_during_a_trim(both, database_url, before_removal):
    for version in range(3):
        await both.events.append("v", Event(type="t"), expected_version=version)
    with Memory(database_url) as other:
        before_removal(lambda: other.events.append("v", Event(type="t"), expected_version=3))
        await fill(both, 2)
        await both.retention.trim(max_events=1)
        assert left(database_url) == [3, 5, 6]  # The third was the last when it was looked at.
        assert other.events.version("v") == 4


async def test_a_watch_and_a_fold_behind_a_trim_are_told(form):
    fold = Fold("count", initial=lambda: 0, apply=lambda count, event: count + 1)
    async with form.memory() as memory:
        for n in range(5):
            await memory.state.put("k", n)
        assert (await memory.folds.fold(fold, save_every=1)).position == 5
        for n in range(5):
            await memory.state.put("k", n)
        await memory.retention.trim(max_events=2)
    async with form.memory() as memory:  # One that has nothing of it in memory.
        async with memory.state.watch("k", after=1) as changes:
            with pytest.raises(PositionTrimmed) as error:
                await changes.receive(timeout=5)
        assert (error.value.position, error.value.trimmed_to) == (1, 8)
        with pytest.raises(PositionTrimmed) as error:
            await memory.folds.fold(fold)
        assert (error.value.position, error.value.trimmed_to) == (5, 8)


# copies of the state


async def test_snapshot_misses_no_entry_after_its_event_was_removed(
    both, database_url, monkeypatch
):
    # It changes during the copy, so its earlier value would have to come from the log.
    for key in ("k", "unrecorded", "other"):
        await both.state.put(key, "old", record=key != "unrecorded")
    await both.retention.trim(max_events=1)
    take, taken_at = snapshots.take, []
    with Memory(database_url) as other:

        def cross(name, *, position):
            if not taken_at:
                other.state.put("k", "new")
                other.state.put("unrecorded", "new")
                other.state.put("other", "new")
            taken_at.append(position)
            return take(name, position=position)

        monkeypatch.setattr(snapshots, "take", cross)
        taken = await both.state.snapshots.take()
    entries = {entry.key: entry.value async for entry in both.state.snapshots.entries(taken.id)}
    assert entries == {"k": "new", "unrecorded": "new", "other": "new"}
    assert taken_at == [2, 5]
    assert taken.position == 5


async def test_snapshot_that_cannot_be_taken_is_an_error(both, database_url, monkeypatch):
    monkeypatch.setattr(reader_module(both), "STABLE_WAIT", 0.01)
    await both.state.put("k", "old", record=False)
    with psycopg.connect(database_url) as slow:
        slow.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('a', 't', '1')")
        await both.state.put("k", "new")
        with pytest.raises(TransactionConflict, match="Try again later"):
            await both.state.snapshots.take()
    assert await both.state.snapshots.list() == []
    assert (await both.state.snapshots.take()).entries == 1


def reader_module(memory):
    """Return the module of this form's reader."""
    opened = getattr(memory, "wrapped", memory)
    return sys.modules[type(opened.events._reader).__module__]
