"""Test the base of the following scenarios: processes that act together, and honest times."""

from __future__ import annotations

import contextlib
import functools
import time

import pytest

from benchmarks import redis_server, servers
from benchmarks.audit import Faults
from benchmarks.crew import crew, together
from benchmarks.scenarios import _ways, fanout
from benchmarks.scenarios._base import Bench, payload
from benchmarks.scenarios._following import (
    WARM_EVENTS,
    AsyncReader,
    Lane,
    Received,
    SyncReader,
    Tray,
    Writer,
    as_sample,
    as_sample_of,
    pace,
    stamped,
)
from benchmarks.scenarios._following_redis import PublishedReader, RedisReader


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
    assert sample.value == pytest.approx(1_000, rel=0.001)
    assert sample.figures["max"] == pytest.approx(1_000, rel=0.001)
    assert sample.faults == Faults(lost=1)


def test_round_without_events_is_not_a_fast_one():
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


@pytest.mark.parametrize("kind", ["redis", "published"])
def test_the_same_beside_redis(kind):
    make = {"redis": RedisReader, "published": PublishedReader}[kind]
    with redis_server.redis("none") as server:
        key = server.key("followed")
        lanes = {kind: Lane(kind, server.url, key=key)}
        option = {"key": key} if kind == "redis" else {"prefix": key}
        with (
            crew(functools.partial(make, **option), 1, server.url) as follows,
            crew(functools.partial(Writer, lanes), 2) as writers,
        ):
            for _ in range(2):
                [got], acknowledged = together(
                    (follows, "follow", 2), (writers, f"pace/{kind}/60", 0.001)
                )
                assert as_sample(got, acknowledged).faults == Faults()
        with contextlib.closing(server.client()) as client:
            assert all(name.startswith(key.encode()) for name in client.keys())  # noqa: SIM118  # a client, not a dict
            assert client.xlen(key if kind == "redis" else f"{key}agent:events") == 240


def test_a_stall_shows_for_all_that_was_due_meanwhile_and_not_only_as_the_maximum():
    # 200 ms of 1,500 ms: a clock from "sent" on sees one slow event of 1,500.
    latency, stall, interval = 0.0003, (0.5, 0.7), 0.001
    due = [index * interval for index in range(1_500)]
    sent = [max(at, stall[1]) if at > stall[0] else at for at in due]
    at = [when + latency for when in sent]
    at[501] += 0.2  # the event that was under way
    sample = as_sample(Received(list(range(1_500)), sent, due, at, 0), [range(1_500)])
    assert sample.value == pytest.approx(300, rel=0.01)
    assert sample.figures["p99"] == pytest.approx(300, rel=0.01)
    assert sample.figures["max"] == pytest.approx(200_300, rel=0.01)
    assert sample.figures["p50 from due"] == pytest.approx(300, rel=0.01)
    assert sample.figures["p95 from due"] > 100_000
    assert sample.figures["p99 from due"] > 180_000


def test_a_writer_that_stalls_shows_in_the_percentiles_from_due():
    tray, stalled = Tray(1), []

    def append(event):
        if len(stalled) == 150:
            time.sleep(0.2)
        stalled.append(event)
        tray.put(len(stalled), event)

    pace(append, range(500), time.monotonic() + 0.01, 0.001)
    sample = as_sample(tray.received(), [range(500)])
    assert sample.figures["p95 from due"] > 100_000 > sample.figures["p95"]


def test_each_reader_is_timed_and_audited():
    count = 2 * WARM_EVENTS
    lost = received(range(1, count))
    sample = as_sample_of([received(range(count)), lost], [range(count)], {"more": 1.0})
    assert sample.times.get_total_count() == count - 1
    assert sample.faults == Faults(lost=1)
    assert sample.figures["more"] == 1.0


def test_every_way_of_the_fan_out_is_right_but_the_published_one(database_url, monkeypatch):
    shape = _ways.Shape(2, 2, 400, 1)
    with servers.postgres(database_url) as postgres, contextlib.ExitStack() as stack:
        stage = _ways.Stage(Bench(postgres, stack), stack)
        for measure in fanout.Paced(stage, shape, 40), fanout.Saturated(stage, shape, 0.05):
            for way in (*_ways.EQUAL, _ways.PUBLISHED):
                sample = measure(way.name)
                assert sample.faults == Faults()
                assert sample.value > 0
                assert sample.times.get_total_count() > 0
                assert sample.figures["client CPU, µs each"] >= 0
        busy = fanout.Backlog(stage, shape)
        monkeypatch.setattr(fanout, "BACKLOG", 600)
        assert busy(_ways.STRICT.name).faults == Faults()
        # It keeps up to 10,100, and each of the two has missed the others.
        monkeypatch.setattr(fanout, "BACKLOG", 10_400)
        assert 600 <= busy(_ways.PUBLISHED.name).faults.lost <= 800
