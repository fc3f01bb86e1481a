"""Who is the janitor: one at a time, for as long as its lease is its own; and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from contextlib import AsyncExitStack
from importlib import import_module

import pytest

from pgmem import Memory
from pgmem.core.names import JANITOR_LEASE
from pgmem.errors import Unavailable
from tests.support.both import module_name
from tests.support.processes import Worker
from tests.support.retention import run
from tests.support.waiting import wait_until


class Passes:
    """Who did a pass of maintenance, in the order in which they began and ended.

    Attributes:
        done: the number of each memory's retention, for each pass that ended.
        during: is called in each pass.
    """

    def __init__(self) -> None:
        self.done: list[int] = []
        self.during = lambda: None

    def begun(self, retention) -> None:
        self.during()
        self.done.append(id(retention))

    def after(self, count: int) -> set[int]:
        return set(self.done[count:])


@pytest.fixture
def passes(form, monkeypatch):
    """Writes down the passes, and lets them come quickly."""
    found, tree = Passes(), import_module(module_name(form.name, "retention.verbs"))
    cls = getattr(tree, "AsyncRetention" if form.name == "async" else "Retention")
    maintain = cls.maintain
    if form.name == "async":

        async def recorded(self):
            report = await maintain(self)
            await asyncio.to_thread(found.begun, self)
            return report
    else:

        def recorded(self):
            report = maintain(self)
            found.begun(self)
            return report

    monkeypatch.setattr(cls, "maintain", recorded)
    monkeypatch.setattr(f"{module_name(form.name, 'retention.janitor')}.INTERVAL", 0.02)
    return found


async def several(passes, count=3):
    """Wait until so many more passes are done; gives who did them."""
    before, deadline = len(passes.done), time.monotonic() + 20
    while len(passes.done) < before + count:
        assert time.monotonic() < deadline, "nobody works"
        await asyncio.sleep(0.01)
    return passes.after(before)


async def none_begins(passes):
    """Wait until no pass is begun any more: with the lease there is one each 0.02 s."""
    before, deadline = -1, time.monotonic() + 20
    while len(passes.done) != before:
        assert time.monotonic() < deadline, "it works without the lease"
        before = len(passes.done)
        await asyncio.sleep(0.5)


def owner_of(memory):
    return id(getattr(memory, "wrapped", memory).retention)


async def test_of_several_one_works_and_the_next_only_after_it(form, passes):
    async with AsyncExitStack() as rest:
        async with form.memory(janitor=True) as first:
            assert await several(passes) == {owner_of(first)}
            others = [await rest.enter_async_context(form.memory(janitor=True)) for _ in range(3)]
            assert await several(passes, 10) == {owner_of(first)}
        closed = len(passes.done)
        await several(passes, 10)
        (second,) = passes.after(closed)
        assert second in {owner_of(other) for other in others}


async def test_whose_lease_is_taken_works_no_more(form, database_url, passes, monkeypatch):
    """It stood still, and learns that its time is over: another one may have begun."""
    monkeypatch.setattr(f"{module_name(form.name, 'retention.janitor')}.TTL", 0.6)
    with Memory(database_url) as thief:
        async with form.memory(janitor=True):
            await several(passes)
            run(database_url, "UPDATE pgmem.leases SET expires_at = clock_timestamp()")
            lease = thief.leases.acquire(JANITOR_LEASE, ttl=60, timeout=5)
            await none_begins(passes)
            lease.release()
            await several(passes)


JANITOR = """
import json, sys, time
from pgmem import Memory
import pgmem._sync.retention.janitor as janitor
from pgmem._sync.retention.verbs import Retention
janitor.INTERVAL, janitor.TTL = 0.02, 2.0
maintain = Retention.maintain
def recorded(self):
    maintain(self)
    print(json.dumps(time.time()), flush=True)
Retention.maintain = recorded
with Memory(sys.argv[1], janitor=True):
    sys.stdin.readline()
"""


def test_one_that_was_paused_beyond_its_lease_finds_another_at_work(database_url):
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
    # What it was in the midst of, it may finish.
    assert len(paused.lines) <= before + 1, "two at work"
    with Memory(database_url) as looking:
        assert looking.leases.get(JANITOR_LEASE) is not None
    for worker in (paused, other):
        worker.say()
        worker.finish()


async def test_a_pass_that_fails_is_not_the_last(form, passes, caplog):
    errors = [Unavailable("the server is away"), ZeroDivisionError()]

    def fail():
        if errors:
            raise errors.pop()

    passes.during = fail
    with caplog.at_level(logging.WARNING, "pgmem"):
        async with form.memory(janitor=True):
            await several(passes)
    assert "ended by an error" in caplog.text
    assert "a pass of maintenance failed, the next one makes up for it: the server" in caplog.text


async def test_closing_does_not_wait_for_the_next_pass(form, passes, monkeypatch):
    monkeypatch.setattr(f"{module_name(form.name, 'retention.janitor')}.INTERVAL", 60.0)
    async with form.memory(janitor=True):
        await several(passes, 1)
        await asyncio.sleep(0.05)
        started = time.monotonic()
    assert time.monotonic() - started < 20


async def test_closing_lets_a_pass_end_and_then_another_be_elected(form, database_url, passes):
    held = []
    with Memory(database_url) as looking:
        begun = threading.Event()

        def slow():
            begun.set()
            time.sleep(0.4)
            held.append(looking.leases.get(JANITOR_LEASE) is not None)

        passes.during = slow
        async with form.memory(janitor=True):
            assert await asyncio.to_thread(begun.wait, 20)
        assert held == [True], "somebody else might have begun beside it"
        assert len(passes.done) == 1
        assert looking.leases.get(JANITOR_LEASE) is None
        await asyncio.sleep(0.3)
    assert len(passes.done) == 1, "it works on after its end"
