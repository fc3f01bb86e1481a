"""Trimming by count and by age, by rules too: what goes, and what is recorded of it."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from pgmem import Memory, Policy
from pgmem.errors import InvalidInput, PermissionDenied, PositionTrimmed
from pgmem.retention import ops
from pgmem.retention.models import LaggingReader, TrimReport
from tests.support.processes import seed
from tests.support.retention import (
    add_dead_letter,
    fill,
    insert,
    left,
    marks,
    report,
    roles,
    run,
    store_subscription,
)


@pytest.fixture
def small_batches(monkeypatch):
    """Three events are removed at a time, so that a few take several transactions."""
    monkeypatch.setattr(ops, "BATCH", 3)


@pytest.fixture
def role_url(database_url):
    with roles(database_url) as make:
        yield make


# what goes


async def test_trim_keeps_the_newest_events(both, database_url):
    await fill(both, 10)
    assert await both.retention.trim(max_events=4) == report(6, 1, 6)
    assert left(database_url) == [7, 8, 9, 10]
    assert marks(database_url) == {"": (6, 6)}
    assert await both.retention.trim(max_events=4) == report(0, None, None)
    await fill(both, 3)
    assert await both.retention.trim(max_events=4) == report(3, 7, 9)
    assert left(database_url) == [10, 11, 12, 13]
    assert marks(database_url) == {"": (9, 9)}


async def test_trim_by_age(both, database_url):
    insert(database_url, 5, age=100)
    insert(database_url, 5, age=50)
    insert(database_url, 5)
    assert await both.retention.trim(max_age=timedelta(seconds=70)) == report(5, 1, 5)
    assert await both.retention.trim(max_age=70) == report(0, None, None)
    assert await both.retention.trim(max_age=40.5) == report(5, 6, 10)
    assert left(database_url) == [11, 12, 13, 14, 15]


async def test_trim_by_age_ends_at_the_first_young_event(both, database_url):
    # An event after it may be older by a writer's delay. The next trim removes it.
    insert(database_url, 3, age=100)
    insert(database_url, 1)
    insert(database_url, 3, age=100)
    assert (await both.retention.trim(max_age=50)).removed == 3
    assert left(database_url) == [4, 5, 6, 7]


@pytest.mark.parametrize(("count", "age", "removed"), [(2, 200, 13), (14, 70, 5), (6, 70, 9)])
async def test_event_that_exceeds_one_limit_is_removed(both, database_url, count, age, removed):
    insert(database_url, 5, age=100)
    insert(database_url, 10, age=50)
    done = await both.retention.trim(max_events=count, max_age=age)
    assert done.removed == removed
    assert len(left(database_url)) == 15 - removed


async def test_trim_of_one_stream(both, database_url):
    await fill(both, 12, "a", "b")
    done = await both.retention.trim("a", max_events=2)
    assert done == report(4, 1, 7, stream="a")
    assert left(database_url) == [2, 4, 6, 8, 9, 10, 11, 12]
    assert marks(database_url) == {"a": (7, 4)}
    assert (await both.retention.trim(max_events=5)).removed == 3
    assert marks(database_url) == {"": (6, 3), "a": (7, 4)}
    assert (await both.retention.trim("a", max_events=1)).removed == 1


async def test_the_events_of_a_state_entry_are_a_stream_like_any_other(both, database_url):
    for n in range(5):
        await both.state.put("k", n)
    assert (await both.retention.trim("state:k", max_events=1)).removed == 4
    entry = await both.state.compare_and_set("k", "next", expected_version=5)
    assert entry.version == 6
    assert [event.version for event in await both.state.history("k")] == [5, 6]


async def test_gaps_are_no_events(both, database_url):
    await fill(both, 5)
    run(database_url, "SELECT nextval('pgmem.events_position_seq') FROM generate_series(1, 50)")
    await fill(both, 5)
    assert (await both.retention.trim(max_events=8)).removed == 2
    assert left(database_url) == [3, 4, 5, 56, 57, 58, 59, 60]


@pytest.mark.usefixtures("small_batches")
async def test_trim_removes_in_batches(both, database_url):
    await fill(both, 20)
    assert await both.retention.trim(max_events=4) == report(16, 1, 16)
    assert left(database_url) == [17, 18, 19, 20]
    assert marks(database_url) == {"": (16, 16)}


@pytest.mark.usefixtures("small_batches")
async def test_dry_run_reports_and_removes_nothing(both, database_url):
    await fill(both, 20)
    store_subscription(database_url, 14)
    add_dead_letter(database_url, 2)
    told = await both.retention.trim(max_events=4, dry_run=True)
    assert told == report(
        13, 1, 14, kept=1, holder=LaggingReader("subscription", "c", 14), dry_run=True
    )
    assert len(left(database_url)) == 20
    assert marks(database_url) == {}
    done = await both.retention.trim(max_events=4)
    assert done.streams == told.streams


# the rules that were set


async def test_rules_are_stored_and_applied(both, database_url):
    rule = await both.retention.set(max_events=9, max_age=timedelta(days=1))
    assert rule[:4] == Policy("events", None, 9, 86_400.0, rule.updated_at)[:4]
    await both.retention.set("a", max_events=2)
    await both.retention.set("b", max_age=3600)
    await both.retention.set_folds("f", max_count=3)
    await both.retention.set_snapshots(max_age=60)
    assert [policy[:4] for policy in await both.retention.list()] == [
        ("events", None, 9, 86_400.0),
        ("events", "a", 2, None),
        ("events", "b", None, 3600.0),
        ("folds", "f", 3, None),
        ("snapshots", None, None, 60.0),
    ]
    await fill(both, 20, "a", "b")
    done = await both.retention.trim()
    assert [(stream.stream, stream.removed) for stream in done.streams] == [
        (None, 11), ("a", 2), ("b", 0)
    ]  # fmt: skip
    assert done.removed == 13
    assert left(database_url) == [12, 14, 16, 17, 18, 19, 20]


async def test_trim_by_the_policy_of_a_stream(both, database_url):
    await both.retention.set(max_events=1)
    await both.retention.set("a", max_events=2)
    await fill(both, 10, "a", "b")
    assert (await both.retention.trim("a")).removed == 3
    assert len(left(database_url)) == 7
    with pytest.raises(InvalidInput, match="the stream 'b' has no policy"):
        await both.retention.trim("b")


async def test_policy_is_replaced_and_removed(both):
    await both.retention.set("a", max_events=2)
    await both.retention.set("a", max_age=5)
    assert [policy[:4] for policy in await both.retention.list()] == [("events", "a", None, 5.0)]
    assert await both.retention.remove("a", kind="folds") is False
    assert await both.retention.remove() is False
    assert await both.retention.remove("a") is True
    assert await both.retention.list() == []
    assert await both.retention.trim() == TrimReport(False, ())


# what is recorded


async def test_trim_time_is_later_than_its_commit(both, database_url):
    # A reader that begins before the commit must be told, so the time is later than the commit.
    await fill(both, 5)
    (begun,) = run(database_url, "SELECT clock_timestamp()")[0]
    await both.retention.trim(max_events=1)
    (dated, now) = run(database_url, "SELECT trimmed_at, clock_timestamp() FROM pgmem.trimmed")[0]
    assert begun < dated < now


async def test_next_trim_sets_a_missing_trim_time(both, database_url):
    await fill(both, 5)
    await both.retention.trim(max_events=2)
    run(database_url, "UPDATE pgmem.trimmed SET trimmed_at = 'infinity'")
    await both.retention.trim(max_events=2, dry_run=True)
    undated = "SELECT count(*) FROM pgmem.trimmed WHERE trimmed_at = 'infinity'"
    assert run(database_url, undated) == [(1,)]
    await both.retention.trim(max_events=2)
    assert run(database_url, undated) == [(0,)]


async def test_a_reader_behind_is_told_and_others_are_not(both):
    await fill(both, 20, "a", "b")
    await both.retention.trim("a", max_events=5)
    with pytest.raises(PositionTrimmed) as error:
        await both.events.read("a", after=3)
    assert (error.value.position, error.value.trimmed_to) == (3, 9)
    assert [event.position for event in await both.events.read("a", after=9)] == [
        11,
        13,
        15,
        17,
        19,
    ]
    assert len(await both.events.read("b", after=2)) == 9
    assert len(await both.events.read(after=0)) == 15


async def test_subscription_behind_a_forced_trim_is_told(both):
    await fill(both, 20)
    async with both.events.subscribe(durable="c") as events:
        await events.commit((await events.receive(5))[-1])
    assert (await both.retention.trim(max_events=2, force=True)).removed == 18
    async with both.events.subscribe(durable="c") as events:
        with pytest.raises(PositionTrimmed) as error:
            await events.receive(timeout=5)
    assert (error.value.position, error.value.trimmed_to) == (5, 18)


# bad input


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_events": 0}, "max_events must be 1 to"),
        ({"max_events": -1}, "max_events must be 1 to"),
        ({"max_events": 1.5}, "max_events must be an int, got float"),
        ({"max_events": True}, "max_events must be an int, got bool"),
        ({"max_events": 2**63}, "max_events must be 1 to"),
        ({"max_age": 0}, "max_age must be above 0"),
        ({"max_age": -1}, "max_age must be above 0"),
        ({"max_age": timedelta(0)}, "max_age must be above 0"),
        ({"max_age": float("nan")}, "max_age must be above 0"),
        ({"max_age": "7d"}, "max_age must be seconds or a timedelta, got str"),
        ({"max_age": 1e11}, "max_age must be at most a hundred years"),
    ],
)
async def test_limits_out_of_range_are_refused(both, limits, said):
    for call in (both.retention.trim, both.retention.set):
        with pytest.raises(InvalidInput, match=said):
            await call(**limits)
        with pytest.raises(InvalidInput, match=said):
            await call("a", **limits)
    assert await both.retention.list() == []


@pytest.mark.parametrize("name", ["", "x" * 519, "a\0b", "\ud800", 5])
async def test_names_that_cannot_be_used_are_refused(both, name):
    for call in (
        lambda: both.retention.trim(name, max_events=1),
        lambda: both.retention.set(name, max_events=1),
        lambda: both.retention.set_folds(name, max_count=1),
        lambda: both.retention.set_snapshots(name, max_count=1),
        lambda: both.retention.remove(name),
    ):
        with pytest.raises(InvalidInput):
            await call()


async def test_policy_needs_a_limit_and_a_kind(both):
    for call in (both.retention.set, both.retention.set_folds, both.retention.set_snapshots):
        with pytest.raises(InvalidInput, match="or both"):
            await call("a")
    with pytest.raises(InvalidInput, match="'events', 'folds', 'snapshots'"):
        await both.retention.remove("a", kind="streams")


async def test_role_without_the_right_may_not_trim(form, database_url, role_url):
    async with form.memory() as memory:
        await fill(memory, 5)
        await memory.retention.set(max_events=2)
    for kind in ("reader", "agent"):
        async with form.memory(role_url(kind)) as memory:
            assert [policy.max_count for policy in await memory.retention.list()] == [2]
            for call in (
                memory.retention.trim,
                lambda memory=memory: memory.retention.set(max_events=1),
                memory.retention.remove,
            ):
                with pytest.raises(PermissionDenied, match="grant"):
                    await call()
            assert len(left(database_url)) == 5
    async with form.memory(role_url("janitor")) as memory:
        assert (await memory.retention.trim()).removed == 3
        await memory.retention.set(max_events=1)
        assert (await memory.retention.trim()).removed == 1
        assert await memory.retention.remove() is True


# counting only what is new


def test_repeated_trims_keep_exactly_the_newest(database_url):
    # The trimmer reuses its count, while other trims and ages remove events, too.
    rng = random.Random(seed())
    remembered = 0
    with Memory(database_url) as memory, Memory(database_url) as other:
        for _ in range(60):
            stream, age = rng.choice("ab"), rng.choice((0, 0, 7_200))
            insert(database_url, rng.randrange(30), stream=stream, age=age)
            if rng.random() < 0.3:
                skip = "SELECT nextval('pgmem.events_position_seq') FROM generate_series(1, %s)"
                run(database_url, skip, [rng.randrange(20)])
            if rng.random() < 0.2:
                other.retention.trim(rng.choice((None, "a")), max_events=rng.randrange(1, 40))
            keep, by_age = rng.choice((20, 20, 20, 35)), rng.random() < 0.4
            stream = rng.choice((None, None, "b"))
            before = run(
                database_url,
                "SELECT position, recorded_at < clock_timestamp() - interval '1 hour' "
                "FROM pgmem.events WHERE %(s)s::text IS NULL OR stream = %(s)s ORDER BY position",
                {"s": stream},
            )
            wanted = before[-keep:]
            while by_age and wanted and wanted[0][1]:
                del wanted[0]
            memory.retention.trim(stream, max_events=keep, max_age=3_600 if by_age else None)
            remaining = set(left(database_url))
            assert [row for row in before if row[0] in remaining] == wanted
            remembered += "" in memory.retention._trimmer._counted
    assert remembered > 10, "it never remembered anything"
