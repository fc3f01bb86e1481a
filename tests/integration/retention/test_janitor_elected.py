"""One process at a time is the janitor, while it holds the lease; and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from contextlib import AsyncExitStack

import pytest

from pgmem import Memory
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import Unavailable
from tests.support.janitor import Passes, janitor
from tests.support.processes import Worker
from tests.support.retention import run
from tests.support.waiting import until, wait_until


@pytest.fixture
def passes():
    return Passes()


async def several(passes, count=3):
    """Wait for `count` more passes. Return the names of their janitors."""
    before = len(passes.done)
    await until(lambda: len(passes.done) >= before + count)
    return passes.after(before)


async def no_more(passes):
    """Wait until no pass begins: with the lease, one begins each 0.02 s."""
    before, deadline = -1, time.monotonic() + 20
    while len(passes.done) != before:
        assert time.monotonic() < deadline, "passes go on without the lease"
        before = len(passes.done)
        await asyncio.sleep(0.5)


async def test_next_janitor_begins_after_the_first_has_closed(form, passes):
    async with AsyncExitStack() as rest:
        async with janitor(form, passes):
            assert await several(passes) == {"first"}
            for name in ("second", "third", "fourth"):
                await rest.enter_async_context(janitor(form, passes, name))
            assert await several(passes, 10) == {"first"}
        closed = len(passes.done)
        await several(passes, 10)
        (name,) = passes.after(closed)
        assert name != "first"


async def test_janitor_that_lost_its_lease_stops(form, database_url, passes):
    # Its process stood still, and another janitor may have begun.
    with Memory(database_url) as thief:
        async with janitor(form, passes, ttl=0.6):
            await several(passes)
            run(database_url, "UPDATE pgmem.leases SET expires_at = clock_timestamp()")
            lease = thief.leases.acquire(JANITOR_LEASE, ttl=60, timeout=5)
            await no_more(passes)
            lease.release()
            await several(passes)


JANITOR = """
import json, sys, time
from pgmem import Memory
from pgmem._sync.retention.janitor import Janitor
from pgmem.retention.janitor import JanitorTiming
class Recorder:
    def maintain(self):
        memory.retention.maintain()
        print(json.dumps(time.time()), flush=True)
with Memory(sys.argv[1]) as memory:
    janitor = Janitor(memory.leases, Recorder(), JanitorTiming(0.02, 2.0))
    janitor.start()
    sys.stdin.readline()
    janitor.close()
"""


def test_killed_janitor_is_replaced_at_the_end_of_its_lease(database_url):
    killed = Worker(JANITOR, database_url)
    wait_until(lambda: len(killed.lines) > 3)
    other = Worker(JANITOR, database_url)
    killed.kill()
    wait_until(lambda: len(other.lines) > 3)
    other.say()
    other.finish()


def test_paused_janitor_finds_that_another_has_begun(database_url):
    paused = Worker(JANITOR, database_url)
    wait_until(lambda: len(paused.lines) > 3)
    os.kill(paused.process.pid, signal.SIGSTOP)
    other = Worker(JANITOR, database_url)
    try:
        wait_until(lambda: len(other.lines) > 3)
        time.sleep(0.1)
        before = len(paused.lines)
    finally:
        os.kill(paused.process.pid, signal.SIGCONT)
    time.sleep(0.5)
    # It may finish the pass that was under way.
    assert len(paused.lines) <= before + 1, "two janitors"
    with Memory(database_url) as observer:
        assert observer.leases.get(JANITOR_LEASE) is not None
    for worker in (paused, other):
        worker.say()
        worker.finish()


async def test_passes_go_on_after_a_failed_one(form, passes, caplog):
    errors = [Unavailable("the server is away"), ZeroDivisionError()]

    def fail():
        if errors:
            raise errors.pop()

    passes.during = fail
    with caplog.at_level(logging.WARNING, "pgmem"):
        async with janitor(form, passes):
            await several(passes)
    assert "ended by an error" in caplog.text
    assert "a pass of maintenance failed, the next one makes up for it: the server" in caplog.text


async def test_closing_does_not_wait_for_the_next_pass(form, passes):
    async with janitor(form, passes, interval=10_000.0):
        await several(passes, 1)
    assert passes.done == ["first"]


async def test_closing_waits_for_a_pass_and_releases_the_lease(form, database_url, passes):
    held = []
    with Memory(database_url) as observer:
        begun = threading.Event()

        def slow():
            begun.set()
            time.sleep(0.4)
            held.append(observer.leases.get(JANITOR_LEASE) is not None)

        passes.during = slow
        async with janitor(form, passes):
            assert await asyncio.to_thread(begun.wait, 20)
        assert held == [True], "another janitor could have begun during the pass"
        assert len(passes.done) == 1
        assert observer.leases.get(JANITOR_LEASE) is None
        await asyncio.sleep(0.3)
    assert len(passes.done) == 1, "passes go on after the end"
