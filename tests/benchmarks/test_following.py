"""What the scenarios of following stand on: processes that act together, and honest times."""

from __future__ import annotations

import functools
import time

import pytest

from benchmarks import redis_server, servers
from benchmarks.audit import Faults
from benchmarks.crew import crew, together
from benchmarks.scenarios._base import payload
from benchmarks.scenarios._following import (
    KEY,
    AsyncReader,
    Lane,
    Received,
    RedisReader,
    SyncReader,
    Tray,
    Writer,
    as_sample,
    pace,
    stamped,
)


def event(number, *, last=False):
    return stamped(number, time.monotonic(), last=last)


def received(numbers, latency=0.001, reordered=0):
    sent = [float(index) for index in range(len(numbers))]
    return Received(list(numbers), sent, sent, [at + latency for at in sent], reordered)


def test_a_round_is_over_when_every_writer_has_said_so():
    tray = Tray(2)
    assert [tray.put(1, event(1)), tray.put(2, event(2, last=True))] == [False, False]
    assert tray.put(3, event(3, last=True))
    assert tray.complete
    assert tray.received().numbers == [1, 2, 3]
    assert tray.received().reordered == 0


@pytest.mark.parametrize("places", [[1, 3, 2], [1, 1, 2]])
def test_events_that_do_not_follow_the_log_are_noticed(places):
    tray = Tray(1)
    for number, place in enumerate(places):
        tray.put(place, event(number))
    assert tray.received().audit([range(3)]) == Faults(reordered=1)


def test_the_first_events_of_a_round_are_not_timed_but_audited():
    slow = received(range(100))
    slow.at[:50] = [at + 9.0 for at in slow.at[:50]]
    sample = as_sample(slow, [range(101)])
    assert sample.value == pytest.approx(1_000)
    assert sample.figures["max"] == pytest.approx(1_000)
    assert sample.faults == Faults(lost=1)


def test_a_round_of_which_nothing_came_is_no_quick_one():
    sample = as_sample(received([]), [range(3)])
    assert sample.value > 1e6
    assert sample.faults == Faults(lost=3)


def test_a_writer_that_falls_behind_does_not_hide_it():
    events = []

    def slow(event):
        events.append(event)
        time.sleep(0.02)

    start = time.monotonic()
    pace(slow, range(10), start, 0.001)
    assert [event["n"] for event in events] == list(range(10))
    assert [event["last"] for event in events] == [False] * 9 + [True]
    assert all(event["due"] <= start + 0.01 for event in events)
    assert events[-1]["sent"] - events[-1]["due"] > 0.15


def test_the_payload_is_as_large_as_the_other_scenarios():
    size = len(repr(event(1)))
    assert abs(size - len(repr(payload(1)))) < 50


@pytest.mark.parametrize("reader", [SyncReader, AsyncReader])
def test_a_crew_of_writers_and_a_reader_act_together(database_url, reader):
    with servers.postgres(database_url) as postgres, postgres.database() as url:
        lanes = {"pgmem": Lane("pgmem", url)}
        with crew(reader, 1, url) as follows, crew(functools.partial(Writer, lanes), 2) as writers:
            for _ in range(2):
                [got], acknowledged = together(
                    (follows, "follow", 2), (writers, "pace/pgmem/60", 0.001)
                )
                assert sum(map(len, acknowledged)) == 120
                assert as_sample(got, acknowledged).faults == Faults()
            [got], acknowledged = together((follows, "follow", 2), (writers, "rush/pgmem", 0.1))
            assert got.audit(acknowledged) == Faults()


def test_the_same_beside_redis():
    with redis_server.redis("strict") as server:
        lanes = {"redis": Lane("redis", server.url)}
        with (
            crew(RedisReader, 1, server.url) as follows,
            crew(functools.partial(Writer, lanes), 2) as writers,
        ):
            [got], acknowledged = together(
                (follows, "follow", 2), (writers, "pace/redis/60", 0.001)
            )
            assert as_sample(got, acknowledged).faults == Faults()
        assert server.client().xlen(KEY) == 120
