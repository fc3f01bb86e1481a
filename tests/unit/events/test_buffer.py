"""The buffer of the newest events, and cursors that fall out of it."""

from __future__ import annotations

import asyncio
import random

import pytest

from pgmem import Event
from pgmem._sync.events import buffer as sync_feed
from pgmem._sync.events.buffer import Cursor, EventBuffer
from pgmem.events import buffer as async_feed
from pgmem.events.stable_position import Writers
from tests.support.rows import page, positions, row

KEPT = 20


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    for module in (async_feed, sync_feed):
        monkeypatch.setattr(module, "KEPT_EVENTS", KEPT)


def add(feed, *numbers, end=None, payload="null"):
    """Let a poll find events, with all writers below `end` gone."""
    end = numbers[-1] if end is None else end
    feed.tracker.observe(Writers(end, frozenset()))
    found = page(end)._replace(rows=[row(number, payload=payload) for number in numbers])
    feed.take_page(found, feed.tracker.request(10**6, 10**6))
    assert feed.end == end


def take(feed, follower, most=100):
    rows = feed.take(follower, most)
    return None if rows is None else positions(rows)


def test_a_cursor_gets_the_events_that_are_added():
    feed, follower = EventBuffer(), Cursor(None, 0)
    feed.enter(follower)
    assert take(feed, follower) is None  # the follower adds no events yet
    feed.begin(0)
    assert take(feed, follower) == []
    add(feed, 1, 2, 5, end=6)
    assert take(feed, follower, most=2) == [1, 2]
    assert follower.position == 2
    assert take(feed, follower) == [5]
    assert follower.position == 6


def test_only_waiting_cursors_that_want_the_event_are_woken():
    feed = EventBuffer()
    feed.begin(0)
    wants, other = Cursor(lambda row: row[0] == 3, 0), Cursor(lambda row: False, 0)
    for follower in (wants, other):
        feed.enter(follower)
        assert take(feed, follower) == []
        follower.wakeup.wait(0)
    add(feed, 1, 2)
    assert wants.position == other.position == 2  # taken along
    assert not wants.wakeup.wait(0)
    add(feed, 3, 4)
    assert wants.wakeup.wait(0)
    assert not other.wakeup.wait(0)
    assert take(feed, wants) == [3]
    assert (wants.position, other.position) == (4, 4)


def test_a_cursor_below_the_buffer_reads_the_database_and_joins_again():
    feed, follower = EventBuffer(), Cursor(None, 0)
    feed.enter(follower)
    feed.begin(0)
    add(feed, *range(1, 11))
    assert take(feed, follower, most=5) == [1, 2, 3, 4, 5]
    for start in range(11, 101, 10):
        add(feed, *range(start, start + 10))
    assert take(feed, follower) is None
    follower.position = 95  # it has read so far
    assert take(feed, follower) == [96, 97, 98, 99, 100]


def test_a_cursor_above_the_end_waits_for_events_above_it():
    feed, follower = EventBuffer(), Cursor(None, 7)
    feed.begin(5)
    feed.enter(follower)
    assert take(feed, follower) == []
    follower.wakeup.wait(0)
    add(feed, 6, 7)
    assert not follower.wakeup.wait(0)
    assert follower.position == 7
    add(feed, 8)
    assert follower.wakeup.wait(0)
    assert take(feed, follower) == [8]


def test_the_window_is_bounded_in_events_and_in_bytes(monkeypatch):
    feed = EventBuffer()
    feed.begin(0)
    for number in range(1, 1000):
        add(feed, number)
        assert len(feed._rows) <= 2 * KEPT + 1
    monkeypatch.setattr(sync_feed, "KEPT_BYTES", 10_000)
    for number in range(1000, 1100):
        add(feed, number, payload="x" * 3_000)
        assert sum(map(sync_feed.row_bytes, feed._rows)) <= 2 * 10_000 + 4_000
    add(feed, 1100, payload="x" * 10**6)
    add(feed, 1101)
    assert len(feed._rows) <= 2


def test_the_stable_position_of_another_read_closes_a_gap_for_the_next_poll():
    feed = EventBuffer()
    feed.begin(0)
    request = feed.tracker.request(100, 100)
    feed.take_page(page(3, 1, 3), request)
    assert (feed.end, feed.stable) == (1, 1)
    late = feed.tracker.request(100, 100)  # This poll is under way when the read finds it out.
    feed.raise_stable(3)
    assert (feed.end, feed.stable) == (1, 3)
    feed.take_page(page(3), late)
    assert feed.end == 1
    feed.take_page(page(3), feed.tracker.request(100, 100))
    assert feed.end == 3


def test_after_a_new_connection_only_a_poll_makes_the_position_certain_again():
    feed = EventBuffer()
    feed.begin(5)
    assert feed.stable == 5
    feed.forget_stable()
    assert feed.stable == 0
    feed.accept([row(6)])  # It may have been sent before a crash.
    assert (feed.end, feed.stable) == (6, 0)
    feed.take_page(page(6), feed.tracker.request(100, 100))
    assert feed.stable == 6


def test_a_rewound_buffer_ends_at_its_last_event():
    feed = EventBuffer()
    feed.begin(0)
    add(feed, 1, 2, end=4)
    feed.rewind()
    assert (feed.end, feed.stable, feed.live) == (2, 2, True)
    feed.begin(9)
    feed.rewind()
    assert (feed.end, feed.stable, feed.live) == (0, 0, False)


@pytest.mark.parametrize("seed", range(100))
def test_each_cursor_gets_its_events_once_and_in_order(seed):
    """Random cursors, some of them slow, and a follower that begins anew now and then."""
    rng = random.Random(seed)
    feed, log, end = EventBuffer(), [], 0
    tests = [None, lambda row: row[0] % 3 == 0, lambda row: row[0] % 50 == 1]
    followers = []

    def visit(follower, got):
        rows = feed.take(follower, rng.choice((1, 3, 100)))
        if rows is None:  # by itself: up to the end of the feed
            test = follower.test or (lambda row: True)
            behind = [row for row in log if row[0] > follower.position and test(row)]
            rows = behind[: rng.choice((1, 5, 100))]
            done = len(rows) == len(behind)
            follower.position = max(follower.position, end if done else rows[-1][0])
        got.extend(rows)

    for _ in range(400):
        kind = rng.random()
        if kind < 0.03:
            follower = Cursor(rng.choice(tests), rng.randrange(end + 1) if end else 0)
            followers.append((follower, follower.position, rng.random(), []))
            feed.enter(follower)
        elif kind < 0.05:
            feed.begin(end)
        elif kind < 0.3 and feed.live:
            numbers = []
            for _ in range(rng.randrange(8)):
                end += 1 + (rng.random() < 0.2)
                numbers.append(end)
            end += rng.random() < 0.2
            log += map(row, numbers)
            add(feed, *numbers, end=end)
        else:
            for follower, _, speed, got in followers:
                if rng.random() < speed:
                    visit(follower, got)
    for follower, start, _, got in followers:
        while follower.position < end:
            visit(follower, got)
        test = follower.test or (lambda row: True)
        assert got == [row for row in log if row[0] > start and test(row)]


async def test_a_slow_subscriber_misses_nothing_and_delays_no_other(form):
    """Let a subscription fall out of the buffer again and again, and join it again."""
    rng = random.Random(1)
    total = 1_200
    async with form.memory(safety_poll=30) as memory:
        fast, slow = memory.events.subscribe(), memory.events.subscribe("s1")
        async with fast, slow:
            alone = CountReads(memory)
            got = []
            for n in range(0, total, 12):
                batch = [Event(type="t", payload=n + m) for m in range(12)]
                await memory.events.append(f"s{n // 12 % 2}", batch)
                received = []
                while len(received) < 12:
                    more = await fast.receive(timeout=5)
                    assert more, "the fast one was held up"
                    received += more
                if rng.random() < 0.2:
                    got += await slow.receive(rng.choice((1, 5, 100)), timeout=0)
            assert alone.count > 2, "it was never behind"
            while len(got) < total // 2:
                got += await slow.receive(timeout=20)
            assert await slow.receive(timeout=0.1) == []
            assert [event.payload for event in got] == [n for n in range(total) if n // 12 % 2 == 1]
            behind = alone.count
            await memory.events.append("s1", Event(type="t", payload="live"))
            assert [event.payload for event in await slow.receive(timeout=5)] == ["live"]
            assert alone.count == behind, "it did not join again"


class CountReads:
    """Count the database reads of subscriptions while the follower adds events."""

    def __init__(self, memory):
        self.count = 0
        events = getattr(memory.events, "wrapped", memory.events)
        self._read = events._reader.read
        events._reader.read = self

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self._read(*args, **kwargs)


async def test_subscriptions_of_different_speed_get_the_same_events(form):
    """Compare waiting, paging and late subscriptions while several writers append."""
    total, batch = 1_000, 7
    async with form.memory(safety_poll=30) as memory:

        async def follow(pause):
            found = []
            async with memory.events.subscribe("s") as events:
                while len(found) < total:
                    more = await events.receive(50, timeout=20)
                    if not more:
                        break
                    found += more
                    await asyncio.sleep(pause)
            return [event.position for event in found]

        async def write():
            for n in range(0, total, batch):
                events = [Event(type="t", payload=m) for m in range(n, min(n + batch, total))]
                await memory.events.append("s", events)
                await asyncio.sleep(0)

        followers = [asyncio.ensure_future(follow(pause)) for pause in (0, 0, 0.01, 0.05)]
        await write()
        # With this safety poll only a notification is in time.
        for found in await asyncio.wait_for(asyncio.gather(*followers), 25):
            assert found == list(range(1, total + 1))
