"""The loop of `group.run`: read, call the handler, acknowledge, until it is stopped."""

from __future__ import annotations

import json
import os
import signal
import time

import psycopg
import pytest

from pgmem import Event, Memory, RetryPolicy
from pgmem.errors import InvalidInput
from tests.support.group_run import GroupRun, fill, idle
from tests.support.options import FORMS
from tests.support.processes import Worker, ready

pytestmark = pytest.mark.both_forms  # what waits runs in threads and in tasks

QUICK = RetryPolicy(backoff=0.02)


@pytest.fixture(params=["sync", "async"])
def life(request, database_url):
    return GroupRun(request.param, database_url)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_every_event_is_handled_once_and_acknowledged(life, database_url, concurrency):
    fill(database_url)
    seen = []
    ran = life.run(
        lambda delivery: seen.append(delivery.event.payload["n"]),
        idle,
        concurrency=concurrency,
        limit=5,
    )
    assert sorted(seen) == list(range(30))
    assert ran == (30, 0, 0)


def test_what_raises_is_handed_out_again_and_is_a_dead_letter_in_the_end(life, database_url):
    life.opening["retry"] = QUICK
    fill(database_url, 5)
    tried = []

    def handle(delivery):
        n = delivery.event.payload["n"]
        tried.append((n, delivery.attempts))
        if n == 2 or (n == 3 and delivery.attempts < 3):
            raise ValueError(f"no luck with {n}")

    ran = life.run(
        handle, lambda memory: memory.groups.get("g").info().dead_letters and idle(memory)
    )
    assert [attempt for n, attempt in tried if n == 2] == [1, 2, 3]
    assert [attempt for n, attempt in tried if n == 3] == [1, 2, 3]
    assert (ran.handled, ran.failed, ran.lost) == (4, 5, 0)
    with Memory(database_url) as memory:
        (letter,) = memory.groups.get("g").dead_letters()
    assert (letter.event.payload["n"], letter.attempts) == (2, 3)
    assert letter.error == "ValueError: no luck with 2"


def test_what_follows_what_raised_waits_for_it_where_keys_are_in_order(life, database_url):
    life.opening["retry"] = QUICK
    life.opening["ordered_by"] = "key"
    with Memory(database_url) as memory:
        memory.events.append(
            "s", [Event(type="t", payload={"n": n, "key": n % 2}) for n in range(8)]
        )
    tried = []

    def handle(delivery):
        n = delivery.event.payload["n"]
        tried.append(n)
        if n == 2 and delivery.attempts == 1:
            raise ValueError

    ran = life.run(handle, idle)
    assert [n for n in tried if n % 2 == 0] == [0, 2, 2, 4, 6]
    assert [n for n in tried if n % 2 == 1] == [1, 3, 5, 7]
    assert (ran.handled, ran.failed, ran.lost) == (8, 1, 0)


def test_what_raises_comes_later_and_later(life, database_url):
    life.opening["retry"] = RetryPolicy(backoff=60)
    fill(database_url, 1)

    def handle(delivery):
        raise ValueError

    life.run(handle, lambda memory: memory.groups.get("g").info().delayed == 1)
    with Memory(database_url) as memory:
        (waiting,) = memory.groups.get("g").pending()
        now = memory.events.append("clock", Event(type="t"))
        (clock,) = memory.events.read("clock", after=now.position - 1)
    assert waiting.attempts == 1
    assert 0 < (waiting.until - clock.recorded_at).total_seconds() <= 60


def test_effects_and_acknowledgement_commit_together(life, database_url):
    life.opening["retry"] = QUICK
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
    ran = life.run(chosen, idle, once="transaction", limit=4)
    assert (ran.handled, ran.failed) == (10, 4)
    with psycopg.connect(database_url) as server:
        assert server.execute("SELECT n FROM effects ORDER BY n").fetchall() == [
            (n,) for n in range(10)
        ]


def test_where_the_commit_fails_nothing_is_acknowledged(life, database_url):
    life.opening["retry"] = QUICK
    fill(database_url, 3)
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute("CREATE TABLE effects (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        server.execute("INSERT INTO effects VALUES (1)")

        def obstacle_gone(delivery):
            if delivery.attempts == 2:
                server.execute("DELETE FROM effects WHERE n = 1")

        def handle(delivery, tx):
            obstacle_gone(delivery)
            tx.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event.payload["n"]])

        async def ahandle(delivery, tx):
            obstacle_gone(delivery)
            n = delivery.event.payload["n"]
            await tx.connection.execute("INSERT INTO effects VALUES (%s)", [n])

        chosen = handle if life.name == "sync" else ahandle
        ran = life.run(chosen, idle, once="transaction")
        assert (ran.handled, ran.failed, ran.lost) == (3, 1, 0)
        effects = server.execute("SELECT n FROM effects ORDER BY n").fetchall()
    assert effects == [(0,), (1,), (2,)]


def test_work_under_a_claim_is_not_done_again_when_its_acknowledgement_was_lost(life, database_url):
    fill(database_url, 3)
    done = []

    def handle(delivery):
        done.append(delivery.event.position)
        return object()  # It is not stored, so it may be anything.

    life.run(handle, idle, once="claim")
    with Memory(database_url) as memory:
        memory.groups.get("g").reset(0)  # as if nothing was said
    ran = life.run(handle, idle, once="claim")
    assert done == [1, 2, 3]
    assert ran.handled == 3


def test_what_one_group_did_under_a_claim_another_has_still_to_do(life, database_url):
    fill(database_url, 3)
    done = []
    for life.group in ("g", "h"):
        life.run(
            lambda delivery: done.append((life.group, delivery.event.position)),
            lambda memory: idle(memory, life.group),
            once="claim",
        )
    assert done == [(group, position) for group in "gh" for position in (1, 2, 3)]


def test_what_failed_under_a_claim_says_why(life, database_url):
    life.opening["max_attempts"] = 1
    fill(database_url, 1)

    def handle(delivery):
        raise ValueError("no luck")

    life.run(handle, lambda memory: memory.groups.get("g").info().dead_letters == 1, once="claim")
    with Memory(database_url) as memory:
        (letter,) = memory.groups.get("g").dead_letters()
    assert letter.error == "ValueError: no luck"


def test_a_handler_that_is_none(life):
    with pytest.raises(InvalidInput, match="handler is a function, got int"):
        life.run(5, lambda memory: True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"once": "often"},
        {"concurrency": 0},
        {"limit": 0},
        {"lease": 0},
        {"lease": 90_000},
        {"max_runtime": 0},
    ],
)
def test_invalid_options_are_refused(life, database_url, wrong):
    fill(database_url, 1)
    with pytest.raises(InvalidInput):
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
        group = await memory.groups.create("g", stream="s", max_attempts=3)
        say("ready"); sys.stdin.readline()
        say("ran", await group.run(ahandle, concurrency=2, limit=10, handle_signals=True))
if name == "sync":
    with Memory(url) as memory:
        group = memory.groups.create("g", stream="s", max_attempts=3)
        say("ready"); sys.stdin.readline()
        say("ran", group.run(handle, concurrency=2, limit=10, handle_signals=True))
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
    assert len(done) <= 12, "what was not begun was begun after the signal"
    assert lines[-1] == ["ran", [len(done), 0, 0]]
    with Memory(database_url) as memory:
        group = memory.groups.get("g")
        assert group.info().held == 0
        rest = group.read("next", 100)
        rest += group.read("next", 100)
        assert {delivery.event.position for delivery in rest} == set(range(1, 31)) - set(done)
        assert {delivery.attempts for delivery in rest} == {1}, "what was not begun was counted"
