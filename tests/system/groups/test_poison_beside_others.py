"""An event that kills its process while other handlers of the process run."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from pgmem import Memory
from pgmem.groups.isolation import ISOLATED_AFTER
from tests.support.group_run import fill, idle
from tests.support.groups import lapse
from tests.support.options import FORMS
from tests.support.processes import Worker

pytestmark = pytest.mark.both_forms  # handlers beside each other are threads, or tasks

EVENTS, CONCURRENCY, MAX_ATTEMPTS, POISON = 40, 4, 3, 11

AGENT = """
import asyncio, json, os, sys, threading, time
from pgmem import AsyncMemory, Memory
url, name, poison, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
lock, beside = threading.Lock(), set()
def begin(delivery):
    n = delivery.event.payload["n"]
    with lock:
        beside.add(n)
        print(json.dumps(["begun", n, delivery.attempts, sorted(beside - {n})]), flush=True)
    return n
def end(n):
    if n == poison: os._exit(137)
    with lock: beside.discard(n)
def handle(delivery):
    n = begin(delivery); time.sleep(0.05); end(n)
async def ahandle(delivery):
    n = begin(delivery); await asyncio.sleep(0.05); end(n)
def stop_when_told(group):
    threading.Thread(target=lambda: (sys.stdin.readline(), group.stop()), daemon=True).start()
async def main():
    async with AsyncMemory(url, safety_poll=0.2) as memory:
        group = await memory.groups.get("g")
        stop_when_told(group)
        await group.run(ahandle, concurrency=concurrency)
if name == "sync":
    with Memory(url, safety_poll=0.2) as memory:
        group = memory.groups.get("g")
        stop_when_told(group)
        group.run(handle, concurrency=concurrency)
else:
    asyncio.run(main())
"""


@FORMS
def test_only_the_event_that_kills_is_a_dead_letter_and_it_ends_up_alone_17(database_url, name):
    fill(database_url, EVENTS)
    begun, lives = [], 0
    with Memory(database_url) as memory:
        group = memory.groups.create("g", stream="s", max_attempts=MAX_ATTEMPTS)
        while not idle(memory):
            agent = Worker(AGENT, database_url, name, POISON, CONCURRENCY)
            lives += 1
            deadline = time.monotonic() + 60
            while agent.running() and not idle(memory):
                assert time.monotonic() < deadline, group.pending()
                time.sleep(0.02)
            if agent.running():
                agent.say()
            agent.finish()
            begun.append([line[1:] for line in agent.lines])
            lapse(database_url)  # The lease of a member that was killed ends.
        (letter,) = group.dead_letters()
    assert (letter.position, letter.attempts) == (POISON + 1, MAX_ATTEMPTS)
    killed = [life for life in begun if any(n == POISON for n, _, _ in life)]
    assert len(killed) == ISOLATED_AFTER + MAX_ATTEMPTS
    # With others beside it no attempt counts. Then it runs alone, and each attempt counts.
    last = [next(line for line in life if line[0] == POISON) for life in killed]
    assert [attempts for _, attempts, _ in last] == [1] * ISOLATED_AFTER + [1, 2, 3]
    assert [beside for _, _, beside in last[ISOLATED_AFTER:]] == [[]] * MAX_ATTEMPTS
    counts = Counter(n for life in begun for n, _, _ in life)
    assert set(counts) == set(range(EVENTS))
    again = {n: count for n, count in counts.items() if count > 1 and n != POISON}
    assert len(again) <= ISOLATED_AFTER * (CONCURRENCY - 1), again
