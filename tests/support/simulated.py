"""Members of a group as processes, by a clock that they share and that only this test moves.

The clock is a file that all processes map. It stands still while a process has something to do: a
supervisor is at work, or a living member holds an event that its handler does not handle at this
moment. So a busy machine makes the test slow and changes nothing else. When all wait, the clock
jumps to the first moment that a process waits for. The ends of leases and delays in the database
come closer by the same time, because the server has a clock of its own.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import time
from collections import Counter

import psycopg

from pgmem import Event, Memory
from tests.support.groups import pass_time
from tests.support.processes import Worker

LONGEST_JUMP = 10.0
"""Seconds: a third of the default lease. A claim that is under way meanwhile loses no more."""
REAL_SECONDS = 200

# The clock's file: now, and for each member the moments that its supervisor and its handler wait
# for. 0: at work, or no handler. Infinite: it waits for a call.
WORKER = """
import asyncio, json, math, mmap, os, random, struct, sys, threading, time
from pgmem import AsyncMemory, Event, Memory
from pgmem.groups.clock import AsyncClock
from pgmem._sync.groups.clock import Clock
url, form, path, number, log, poison = sys.argv[1:7]
number, poison = int(number), int(poison)
with open(path, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 0)
def get(): return struct.unpack_from("d", shared, 0)[0]
def supervised(): return struct.unpack_from("d", shared, 8 * (1 + 2 * number))[0] != math.inf
def put(place, value): struct.pack_into("d", shared, 8 * (1 + 2 * number + place), value)
def note(what, n):
    with open(log, "a") as file: file.write(f"{what} {n}\\n")
class Job(Event, type="job"):
    n: int
class Ticks(Clock):
    def now(self): return get()
    def wait(self, wakeup, seconds):
        end = math.inf if seconds is None else get() + seconds
        put(0, end)
        called = False
        while get() < end and not (called := wakeup.wait(0.004)): pass
        put(0, 0.0)
        return called
class AsyncTicks(AsyncClock):
    def now(self): return get()
    async def wait(self, wakeup, seconds):
        end = math.inf if seconds is None else get() + seconds
        put(0, end)
        called = False
        while get() < end and not (called := await wakeup.wait(0.004)): pass
        put(0, 0.0)
        return called
def begin(delivery):
    n = delivery.event.payload.n
    note("begun", n)
    if n == poison: os._exit(137)
    return n, get() + random.Random(n).uniform(5, 40)
def end(n):
    note("handled", n)
    put(1, 0.0)
def handle(delivery):
    n, until = begin(delivery)
    while not supervised(): time.sleep(0.001)
    put(1, until)
    while get() < until: time.sleep(0.004)
    end(n)
async def ahandle(delivery):
    n, until = begin(delivery)
    while not supervised(): await asyncio.sleep(0.001)
    put(1, until)
    while get() < until: await asyncio.sleep(0.004)
    end(n)
def stop_when_told(group):
    threading.Thread(target=lambda: (sys.stdin.readline(), group.stop()), daemon=True).start()
async def main():
    async with AsyncMemory(url, events=[Job], safety_poll=0.2) as memory:
        group = await memory.groups.get("g")
        group._context.clock = AsyncTicks()
        stop_when_told(group)
        print(json.dumps(await group.run(ahandle)))
if form == "sync":
    with Memory(url, events=[Job], safety_poll=0.2) as memory:
        group = memory.groups.get("g")
        group._context.clock = Ticks()
        stop_when_told(group)
        print(json.dumps(group.run(handle)))
else:
    asyncio.run(main())
"""


class Simulation:
    """Members of the group "g", each a process, and the clock that they share.

    Attributes:
        begun, handled: how often a handler began and ended, by the number of the event.
        kills: the processes that an event has killed.
        results: what `group.run` of those returned that were not killed.
        seconds: the time by the clock.
    """

    def __init__(self, url, form, folder, *, members: int, poison: int = -1) -> None:
        self._url, self._form, self._poison, self._size = url, form, poison, members
        self._log, self._path = folder / "handled", folder / "clock"
        self._log.touch()
        self._path.write_bytes(bytes(8 * (1 + 2 * members)))
        with self._path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self.kills = 0
        self.begun: Counter = Counter()
        self.handled: Counter = Counter()
        self._members = [self._member(number) for number in range(members)]

    def _member(self, number: int) -> Worker:
        self._write(1 + 2 * number, float("inf"), 0.0)
        return Worker(WORKER, self._url, self._form, self._path, number, self._log, self._poison)

    def _read(self) -> tuple[float, ...]:
        return struct.unpack_from(f"{1 + 2 * self._size}d", self._shared, 0)

    def _write(self, place: int, *values: float) -> None:
        struct.pack_into(f"{len(values)}d", self._shared, 8 * place, *values)

    @property
    def seconds(self) -> float:
        return self._read()[0]

    def run(self) -> None:
        """Let time pass until every event is acknowledged or a dead letter."""
        deadline = time.monotonic() + REAL_SECONDS
        with (
            psycopg.connect(self._url, autocommit=True) as server,
            Memory(self._url) as memory,
        ):
            group, head = memory.groups.get("g"), memory.events.head()
            while group.info().position < head or group.pending():
                assert time.monotonic() < deadline, (self._read(), group.pending())
                self._replace_killed()
                self._jump(server, group)
        for member in self._members:
            member.say()
        self.results = [member.finish()[-1] for member in self._members]
        for line in self._log.read_text().splitlines():
            what, n = line.split()
            (self.begun if what == "begun" else self.handled)[int(n)] += 1

    def _replace_killed(self) -> None:
        for number, member in enumerate(self._members):
            if not member.running():
                assert member.process.exitcode == 137, member.lines
                self.kills += 1
                self._members[number] = self._member(number)

    def _jump(self, server, group) -> None:
        """Go to the first moment that a process waits for, if all of them wait."""
        seen = self._read()
        now, supervisors, handlers = seen[0], seen[1::2], seen[2::2]
        alive = {
            f"{socket.gethostname()}:{member.process.pid}": handler
            for member, handler in zip(self._members, handlers, strict=True)
        }
        holders = [one.member for one in group.pending() if not one.delayed]
        at_work = (
            any(moment <= now for moment in supervisors)
            or any(0 < moment <= now for moment in handlers)
            or any(alive.get(holder) == 0 for holder in holders)
        )
        if at_work or seen != self._read():
            os.sched_yield()
            return
        moments = [moment for moment in seen[1:] if moment > now]
        step = min([*moments, now + LONGEST_JUMP]) - now
        # First the server: what is renewed between the two is renewed again too soon, not too late.
        pass_time(server, step)
        self._write(0, now + step)


def fill(url, events: int, invalid: int = -1) -> None:
    """Append numbered events, of which one does not decode, and create the group "g"."""
    with Memory(url) as memory:
        memory.groups.create("g", stream="s")
        memory.events.append(
            "s",
            [
                Event(type="job", payload={"n": "none" if n == invalid else n})
                for n in range(events)
            ],
        )
