"""One signal stops every run of a process, and the handler that was there before is called."""

from __future__ import annotations

import os
import signal

import pytest

from pgmem import Event, Memory
from tests.support.options import FORMS
from tests.support.processes import Worker, ready
from tests.support.waiting import wait_until

pytestmark = pytest.mark.both_forms  # threads and tasks are stopped in different ways

# As in a web server: its handler is there first, and three runs begin in the same process.
SERVER = """
import asyncio, json, signal, sys, threading
from pgmem import AsyncMemory, Memory
url, name = sys.argv[1:3]
def say(*words): print(json.dumps(words), flush=True)
heard = []
def framework(number, frame): heard.append(number)  # A handler must not print.
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, framework)
def handle(delivery): say("handled", delivery.event.stream)
async def ahandle(delivery): say("handled", delivery.event.stream)
GROUPS = ["g1", "g2", "g3"]
async def main():
    async with AsyncMemory(url) as memory:
        groups = [await memory.groups.get(name) for name in GROUPS]
        say("ready"); sys.stdin.readline()
        runs = [group.run(ahandle, handle_signals=True) for group in groups]
        for ran in await asyncio.gather(*runs): say("ran", ran)
if name == "sync":
    with Memory(url) as memory:
        groups = [memory.groups.get(name) for name in GROUPS]
        say("ready"); sys.stdin.readline()
        def run(group): say("ran", group.run(handle, handle_signals=True))
        threads = [threading.Thread(target=run, args=[group]) for group in groups[1:]]
        for thread in threads: thread.start()
        run(groups[0])
        for thread in threads: thread.join()
else:
    asyncio.run(main())
restored = [signal.getsignal(number) is framework for number in (signal.SIGTERM, signal.SIGINT)]
say("framework", heard, restored)
"""


@FORMS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_stops_three_runs_and_reaches_the_handler_of_the_framework(
    database_url, name, number
):
    with Memory(database_url) as memory:
        for n in (1, 2, 3):
            memory.groups.create(f"g{n}", stream=f"s{n}")
            memory.events.append(f"s{n}", Event(type="t"))
    server = Worker(SERVER, database_url, name)
    ready([server])
    wait_until(lambda: [line[0] for line in server.lines].count("handled") == 3)
    os.kill(server.process.pid, number)
    # Each run waits up to 30 s for its next event: only the signal ends it before.
    lines = server.finish(20)
    assert [line for line in lines if line[0] == "ran"] == [["ran", [1, 0, 0]]] * 3
    assert lines[-1] == ["framework", [number], [True, True]]
