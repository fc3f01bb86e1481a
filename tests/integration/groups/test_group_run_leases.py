"""Leases of `group.run`: renewed while a handler works, given back, and ended by `max_runtime`."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from pgmem import Memory
from tests.support.group_run import AsyncFastClock, FastClock, GroupRun, fill, idle
from tests.support.groups import pass_time
from tests.support.waiting import wait_until

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks


@pytest.fixture(params=["sync", "async"])
def life(request, database_url):
    return GroupRun(request.param, database_url)


def test_a_lease_is_renewed_while_the_handler_works(life, database_url):
    """Let the server's time pass after each renewal, in all more than the lease of 30 s."""
    life.clock = FastClock() if life.name == "sync" else AsyncFastClock()
    fill(database_url, 1)
    stolen, ends = [], set()

    def handle(delivery):
        with (
            Memory(database_url) as other,
            psycopg.connect(database_url, autocommit=True) as server,
        ):
            group = other.groups.get("g")
            for _ in range(3):
                pass_time(server, 20)
                ends.update(one.until for one in group.pending())
                wait_until(lambda: {one.until for one in group.pending()} - ends)
                stolen.extend(group.read("thief"))

    assert life.run(handle, idle) == (1, 0, 0)
    assert stolen == []


def test_a_handler_beyond_max_runtime_is_told_and_no_success(life, database_url, caplog):
    fill(database_url, 1)
    taken = []

    def handle(delivery):
        if not taken:
            with Memory(database_url) as other:
                taken.extend(other.groups.get("g").read("other", timeout=30, lease=60))

    ran = life.run(handle, lambda memory: bool(taken), max_runtime=0.2)
    assert [delivery.attempts for delivery in taken] == [2]
    assert (ran.handled, ran.lost) == (0, 1)
    assert "took longer than max_runtime=0.2 s" in caplog.text


class Impatient:
    """Fails if a run asks for the time again and again without a pause."""

    calls = 0

    def now(self) -> float:
        self.calls += 1
        assert self.calls < 5_000, "the run does not pause"
        return super().now()


def test_a_run_pauses_while_an_overlong_handler_goes_on(life, database_url):
    """Let a handler go on after `max_runtime` until its lease would have to be renewed."""
    kind = FastClock if life.name == "sync" else AsyncFastClock
    life.clock = type("Clock", (Impatient, kind), {})()
    fill(database_url, 1)
    ends = []

    def handle(delivery):
        time.sleep(0.8)  # 40 s of the run's clock; a third of the lease is 10 s
        ends.append(delivery.attempts)

    life.run(handle, lambda memory: bool(ends), max_runtime=5)
    assert ends[0] == 1


def test_what_waits_behind_a_slow_handler_goes_to_another_member(life, database_url):
    """Handle some events quickly, so that several are claimed together, and then one slowly."""
    fill(database_url, 60)
    quick, others = [], []

    def handle(delivery):
        n = delivery.event.payload["n"]
        if n < 20:
            quick.append(n)
            return
        if others:
            return
        with Memory(database_url) as other:
            group = other.groups.get("g")
            # Everything but this event, while its handler still runs.
            while len(others) < 59 - n:
                others.extend(group.read("other", 100, timeout=30, lease=60))
            assert {one.attempts for one in others} == {1}
            group.ack(others)

    ran = life.run(handle, idle)
    assert ran == (60 - len(others), 0, 0)
    assert len(others) == 39


def test_an_acknowledgement_does_not_wait_for_the_next_handler(life, database_url):
    fill(database_url, 30)
    seen = []

    def handle(delivery):
        if delivery.event.payload["n"] != 20:
            return
        # Only this event, and what waits behind it, is still held.
        deadline = time.monotonic() + 30
        with Memory(database_url) as other:
            while time.monotonic() < deadline:
                held = [one for one in other.groups.get("g").pending() if not one.delayed]
                if [one.position for one in held] == [delivery.event.position]:
                    seen.append(True)
                    return
                threading.Event().wait(0.01)

    life.run(handle, idle)
    assert seen == [True]
