"""group.run: read, call, acknowledge, until told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time

import psycopg
import pytest

from pgmem import AsyncMemory, Event, Memory
from pgmem.errors import GroupNotFound, InvalidOption
from tests.support.options import FORMS
from tests.support.processes import Worker, ready


class Life:
    """Runs a group's handler in one of the forms, until something is true."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    def run(self, handler, until, *, meanwhile=None, **options):
        """Run until `until(memory)` says so; gives what `run` gave."""
        with Memory(self.url) as looking:
            started = time.monotonic()

            def over() -> bool:
                assert time.monotonic() - started < 30, "it did not come about"
                return until(looking)

            if self.name == "sync":
                return self._sync(handler, over, meanwhile, options)
            return asyncio.run(self._async(handler, over, meanwhile, options))

    def _sync(self, handler, over, meanwhile, options):
        with Memory(self.url, pool=(1, 8)) as memory:
            group = memory.groups.open("g", stream="s", max_attempts=3)

            def watch() -> None:
                if meanwhile is not None:
                    meanwhile(memory)
                try:
                    while not over():
                        time.sleep(0.01)
                finally:
                    group.stop()

            watching = threading.Thread(target=watch)
            watching.start()
            try:
                return group.run(handler, **options)
            finally:
                watching.join()

    async def _async(self, handler, over, meanwhile, options):
        async with AsyncMemory(self.url, pool=(1, 8)) as memory:
            group = await memory.groups.open("g", stream="s", max_attempts=3)

            async def watch() -> None:
                if meanwhile is not None:
                    await meanwhile(memory)
                try:
                    while not await asyncio.to_thread(over):  # noqa: ASYNC110  # it asks the server
                        await asyncio.sleep(0.01)
                finally:
                    group.stop()

            watching = asyncio.create_task(watch())
            try:
                return await group.run(handler, **options)
            finally:
                await watching


@pytest.fixture(params=["sync", "async"])
def life(request, database_url):
    return Life(request.param, database_url)


def fill(url, count=30):
    with Memory(url) as memory:
        memory.events.append("s", [Event(type="t", payload={"n": n}) for n in range(count)])


def idle(memory) -> bool:
    """Everything is acknowledged."""
    found = memory.groups.get("g")
    head = memory.events.read("s", limit=1, reverse=True)[0].position
    return found.position >= head and not found.held and not found.parked


@pytest.mark.parametrize("concurrency", [1, 4])
def test_every_event_is_handled_once_and_acknowledged(life, database_url, concurrency):
    fill(database_url)
    seen = []
    ran = life.run(
        lambda delivery: seen.append(delivery.event.payload["n"]),
        idle,
        concurrency=concurrency,
        count=5,
    )
    assert sorted(seen) == list(range(30))
    assert ran == (30, 0, 0)


def test_what_raises_is_handed_out_again_and_is_a_dead_letter_in_the_end(
    life, database_url, monkeypatch
):
    for tree in ("_async", "_sync"):
        monkeypatch.setattr(f"pgmem.{tree}.members.BACKOFF_FIRST", 0.02)
    fill(database_url, 5)
    tried = []

    def handle(delivery):
        n = delivery.event.payload["n"]
        tried.append((n, delivery.attempts))
        if n == 2 or (n == 3 and delivery.attempts < 3):
            raise ValueError(f"no luck with {n}")

    ran = life.run(handle, lambda memory: memory.groups.get("g").dead_letters and idle(memory))
    assert [attempt for n, attempt in tried if n == 2] == [1, 2, 3]
    assert [attempt for n, attempt in tried if n == 3] == [1, 2, 3]
    assert (ran.handled, ran.failed, ran.lost) == (4, 5, 0)
    with Memory(database_url) as memory:
        (letter,) = memory.groups.open("g", stream="s", max_attempts=3).dead_letters()
    assert (letter.event.payload["n"], letter.attempts) == (2, 3)
    assert letter.error == "ValueError: no luck with 2"


def test_what_raises_comes_later_and_later(life, database_url):
    fill(database_url, 1)

    def handle(delivery):
        raise ValueError

    life.run(handle, lambda memory: memory.groups.get("g").parked == 1)
    with Memory(database_url) as memory:
        (waiting,) = memory.groups.open("g", stream="s", max_attempts=3).pending()
        now = memory.events.append("clock", Event(type="t"))
        (clock,) = memory.events.read("clock", after=now.position - 1)
    assert waiting.attempts == 1
    assert -1.0 < (waiting.until - clock.recorded_at).total_seconds() <= 1.0


def test_effects_and_acknowledgement_commit_together(life, database_url, monkeypatch):
    for tree in ("_async", "_sync"):
        monkeypatch.setattr(f"pgmem.{tree}.members.BACKOFF_FIRST", 0.02)
    fill(database_url, 10)
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute("CREATE TABLE effects (n int)")

    def failing(delivery) -> bool:
        return delivery.event.payload["n"] % 3 == 0 and delivery.attempts == 1

    def handle(delivery, tx):
        tx.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event.payload["n"]])
        if failing(delivery):
            raise ValueError

    async def ahandle(delivery, tx):
        n = delivery.event.payload["n"]
        await tx.connection.execute("INSERT INTO effects VALUES (%s)", [n])
        if failing(delivery):
            raise ValueError

    chosen = handle if life.name == "sync" else ahandle
    ran = life.run(chosen, idle, once="transaction", count=4)
    assert (ran.handled, ran.failed) == (10, 4)
    with psycopg.connect(database_url) as server:
        assert server.execute("SELECT n FROM effects ORDER BY n").fetchall() == [
            (n,) for n in range(10)
        ]


def test_work_under_a_claim_is_not_done_again_when_its_acknowledgement_was_lost(life, database_url):
    fill(database_url, 3)
    done = []
    life.run(lambda delivery: done.append(delivery.event.position), idle, once="claim")
    with Memory(database_url) as memory:
        memory.groups.open("g", stream="s", max_attempts=3).reset(0)  # as if nothing was said
    ran = life.run(lambda delivery: done.append(delivery.event.position), idle, once="claim")
    assert done == [1, 2, 3]
    assert ran.handled == 3


def test_a_handler_that_outlived_its_lease_is_told_and_no_success(life, database_url, caplog):
    fill(database_url, 1)
    with Memory(database_url) as other:
        taken = []

        def handle(delivery):
            if not taken:
                time.sleep(0.3)
                group = other.groups.open("g", stream="s", max_attempts=3)
                taken.extend(group.read("thief", lease=60))

        ran = life.run(handle, lambda memory: bool(taken), lease=0.2)
    assert [delivery.attempts for delivery in taken] == [2]
    assert (ran.handled, ran.lost) == (0, 1)
    assert "is not ours any more" in caplog.text


def test_a_group_that_is_gone_ends_it_with_an_error(life, database_url):
    fill(database_url, 1)
    gone = []

    def handle(delivery):
        with Memory(database_url) as memory:
            gone.append(memory.groups.delete("g"))

    with pytest.raises(GroupNotFound, match="no group 'g'"):
        life.run(handle, lambda memory: bool(gone) and time.sleep(1.5) is None, concurrency=2)


@pytest.mark.parametrize(
    "wrong",
    [{"once": "often"}, {"concurrency": 0}, {"count": 0}, {"lease": 0}, {"lease": 90_000}],
)
def test_options_that_are_not_allowed(life, database_url, wrong):
    fill(database_url, 1)
    with pytest.raises(InvalidOption):
        life.run(lambda delivery: None, lambda memory: True, **wrong)


AGENT = """
import asyncio, json, sys, time
from pgmem import AsyncMemory, Memory
url, name = sys.argv[1:3]
def say(*words): print(json.dumps(words), flush=True)
def handle(delivery):
    say("begun", delivery.event.position)
    time.sleep(0.3)
    say("done", delivery.event.position)
async def ahandle(delivery):
    say("begun", delivery.event.position)
    await asyncio.sleep(0.3)
    say("done", delivery.event.position)
async def main():
    async with AsyncMemory(url) as memory:
        group = await memory.groups.open("g", stream="s", max_attempts=3)
        say("ready"); sys.stdin.readline()
        say("ran", await group.run(ahandle, concurrency=2, count=10, lease=60))
if name == "sync":
    with Memory(url) as memory:
        group = memory.groups.open("g", stream="s", max_attempts=3)
        say("ready"); sys.stdin.readline()
        say("ran", group.run(handle, concurrency=2, count=10, lease=60))
else:
    asyncio.run(main())
"""


@FORMS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_under_way_end_and_gives_the_rest_back(database_url, name, number):
    fill(database_url, 30)
    agent = Worker(AGENT, database_url, name)
    ready([agent])
    deadline = time.monotonic() + 20
    while [line[0] for line in agent.lines].count("begun") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(agent.process.pid, number)
    lines = agent.finish()
    begun = [line[1] for line in lines if line[0] == "begun"]
    done = [line[1] for line in lines if line[0] == "done"]
    assert sorted(begun) == sorted(done), json.dumps(lines)
    assert lines[-1] == ["ran", [len(done), 0, 0]]
    with Memory(database_url) as memory:
        group = memory.groups.open("g", stream="s", max_attempts=3)
        assert group.info().held == 0
        rest = group.read("next", 100)
        rest += group.read("next", 100)
        assert {delivery.event.position for delivery in rest} == set(range(1, 31)) - set(done)
        assert {delivery.attempts for delivery in rest} == {1}, "what was not begun was counted"
