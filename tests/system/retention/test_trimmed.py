"""Readers of removed events get the missing range, other readers go on.

The tests remove events by hand, in one transaction, as the owner.
"""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from pgmem import Event, Fold, Memory
from pgmem.errors import PositionTrimmed
from tests.support.following import Follower
from tests.support.options import FORMS
from tests.support.relay import Relay


def trim(url: str, position: int, stream: str = "") -> None:
    """Remove events up to a position: of one stream, or of the whole log."""
    with psycopg.connect(url) as owner:
        owner.execute("SET LOCAL session_replication_role = replica")
        owner.execute(
            "DELETE FROM pgmem.events WHERE position <= %s AND %s::text IN ('', stream)",
            [position, stream],
        )
        owner.execute(
            "INSERT INTO pgmem.trimmed (stream, position) VALUES (%s, %s) ON CONFLICT (stream) "
            "DO UPDATE SET position = excluded.position, trimmed_at = clock_timestamp()",
            [stream, position],
        )


def fill(memory, count=100) -> None:
    """Append `count` events to the streams a and b by turns."""
    for n in range(0, count, 2):
        memory.events.append("a", Event(type="t", payload=n))
        memory.events.append("b", Event(type="t", payload=n))


def range_of(error: PositionTrimmed) -> tuple[int, int]:
    return error.position, error.trimmed_to


def numbers(events) -> list[int]:
    return [event.position for event in events]


def read_to_the_end(subscription) -> list[int]:
    got = []
    while not got or got[-1] < 1000:
        got += numbers(subscription.receive(50))
    return got


def test_a_reader_behind_is_told_what_is_missing(memory, database_url):
    fill(memory)
    trim(database_url, 60)
    with pytest.raises(PositionTrimmed, match="60") as error:
        memory.events.read(after=10)
    assert range_of(error.value) == (10, 60)
    with pytest.raises(PositionTrimmed) as error:
        memory.events.read("b", after=59, timeout=1)
    assert range_of(error.value) == (59, 60)
    assert numbers(memory.events.read(after=60)) == list(range(61, 101))
    assert numbers(memory.events.read()) == list(range(61, 101))


def test_a_fold_from_zero_is_told_what_is_missing(memory, database_url):
    fill(memory)
    fold = Fold("sum", initial=lambda: 0, apply=lambda total, event: total + 1)
    trim(database_url, 60)
    with pytest.raises(PositionTrimmed) as error:
        memory.folds.fold(fold)
    assert range_of(error.value) == (0, 60)


def test_a_fold_with_a_snapshot_behind_what_was_trimmed_goes_on(memory, database_url):
    fill(memory)
    fold = Fold("sum", initial=lambda: 0, apply=lambda total, event: total + 1)
    assert memory.folds.fold(fold, save_every=1).value == 100
    trim(database_url, 60)
    memory.events.append("a", Event(type="t"))
    assert memory.folds.fold(fold).value == 101


async def test_a_subscription_behind_is_told_what_is_missing(both, database_url):
    for _ in range(100):
        await both.events.append("a", Event(type="t"))
    following = both.wrapped if hasattr(both, "wrapped") else both
    subscription = following.events.subscribe(after=10)
    trim(database_url, 60)
    with pytest.raises(PositionTrimmed) as error:
        await given(subscription.receive())
    assert range_of(error.value) == (10, 60)
    await given(subscription.close())


async def given(value):
    return await value if hasattr(value, "__await__") else value


def test_a_subscription_that_is_overtaken_while_it_catches_up_is_told(memory, database_url):
    fill(memory, 1000)
    with memory.events.subscribe() as subscription:
        got = numbers(subscription.receive(50))
        trim(database_url, 900)
        with pytest.raises(PositionTrimmed) as error:
            got += read_to_the_end(subscription)
    # What it had in memory was handed out; no event is skipped in silence.
    assert got == list(range(1, 51))
    assert range_of(error.value) == (subscription.position, 900)


def test_from_the_beginning_means_what_is_kept_and_is_strict_from_there(memory, database_url):
    fill(memory, 1000)
    trim(database_url, 300)
    with memory.events.subscribe(after=0) as subscription:
        assert subscription.receive(1)[0].position == 301
        trim(database_url, 900)
        with pytest.raises(PositionTrimmed) as error:
            read_to_the_end(subscription)
    assert range_of(error.value) == (subscription.position, 900)


def test_another_stream_is_not_disturbed(memory, database_url):
    fill(memory)
    trim(database_url, 61, stream="a")
    assert numbers(memory.events.read("b", after=2)) == list(range(4, 101, 2))
    with memory.events.subscribe("b", after=2) as subscription:
        assert numbers(subscription.receive(100)) == list(range(4, 101, 2))
    with memory.events.subscribe(prefix="b", after=2) as subscription:
        assert numbers(subscription.receive(100)) == list(range(4, 101, 2))
    for wanted in ({"stream": "a"}, {"stream": ["a", "c"]}, {"prefix": "a"}, {"type": "t"}, {}):
        with (
            pytest.raises(PositionTrimmed) as error,
            memory.events.subscribe(**wanted, after=2) as subscription,
        ):
            subscription.receive()
        assert range_of(error.value) == (2, 61)
    with memory.events.subscribe("a") as subscription:
        assert numbers(subscription.receive(100)) == list(range(63, 101, 2))


@FORMS
def test_reader_of_everything_is_not_told(name, database_url):
    with Memory(database_url) as memory:
        everything = Follower(name, database_url)
        stream = Follower(name, database_url, subscribe={"stream": "b"})
        fill(memory)
        everything.wait(lambda: len(everything.got) == 100)
        stream.wait(lambda: len(stream.got) == 50)
        trim(database_url, 100)
        fill(memory, 20)
        trim(database_url, 90)
        trim(database_url, 110, stream="a")
        fill(memory, 20)
        everything.wait(lambda: len(everything.got) == 140)
        stream.wait(lambda: len(stream.got) == 70)
        everything.stop()
        stream.stop()
    assert everything.error is stream.error is None
    assert everything.positions == list(range(1, 141))


@FORMS
def test_trimmed_while_the_connection_was_lost(name, database_url):
    with Memory(database_url) as memory, Relay(database_url) as relay:
        current = Follower(name, relay.url)
        fill(memory)
        current.wait(lambda: len(current.got) == 100)
        relay.cut(refuse=True)
        trim(database_url, 100)
        relay.heal()
        fill(memory, 20)
        current.wait(lambda: len(current.got) == 120)
        relay.cut(refuse=True)
        fill(memory, 20)
        trim(database_url, 130)
        relay.heal()
        error = current.wait_for_error()
        current.stop()
    assert isinstance(error, PositionTrimmed)
    assert range_of(error) == (120, 130)
    assert current.positions == list(range(1, 121))


@FORMS
def test_event_removed_from_a_gap_before_it_was_read_is_told(name, database_url):
    # Its position looks like a rolled back one: only the low-water mark tells.
    with Memory(database_url) as memory, psycopg.connect(database_url) as slow:
        follower = Follower(name, database_url)
        fill(memory, 10)
        follower.wait(lambda: len(follower.got) == 10)
        slow.execute("SET LOCAL session_replication_role = replica")
        slow.execute("INSERT INTO pgmem.events (stream, type, payload) VALUES ('a', 't', '1')")
        fill(memory, 10)
        time.sleep(0.1)  # Seen by now, and waiting behind the gap.
        assert len(follower.got) == 10
        slow.execute("DELETE FROM pgmem.events WHERE position BETWEEN 11 AND 15")
        slow.execute("INSERT INTO pgmem.trimmed (stream, position) VALUES ('', 15)")
        slow.commit()
        error = follower.wait_for_error()
        follower.stop()
    assert isinstance(error, PositionTrimmed)
    assert range_of(error) == (10, 15)
    assert follower.positions == list(range(1, 11))


async def test_reader_that_begins_during_a_trim_waits_for_its_time(both, database_url):
    # Its time is set after its commit. Until then no reader knows if it began before it.
    for _ in range(100):
        await both.events.append("a", Event(type="t"))
    trim(database_url, 60)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE pgmem.trimmed SET trimmed_at = 'infinity'")
        begun = threading.Event()

        def date():
            begun.set()
            owner.execute("UPDATE pgmem.trimmed SET trimmed_at = clock_timestamp()")

        dated = threading.Timer(0.2, date)
        dated.start()
        async with both.events.subscribe(after=0) as subscription:
            assert begun.is_set()
            assert numbers(await subscription.receive(100)) == list(range(61, 101))
        async with both.events.subscribe("b", after=0):
            pass


async def test_trim_without_a_time_is_told(both, database_url):
    # Its janitor has died. A needless error is better than a missing one.
    await both.events.append("a", Event(type="t"))
    trim(database_url, 1)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE pgmem.trimmed SET trimmed_at = 'infinity'")
    async with both.events.subscribe(after=0) as subscription:
        with pytest.raises(PositionTrimmed):
            await subscription.receive(timeout=5)
