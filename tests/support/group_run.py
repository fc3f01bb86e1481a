"""Run a group's handler in either form until a condition holds."""

from __future__ import annotations

import asyncio
import threading
import time

from pgmem import AsyncMemory, Event, Memory
from pgmem._sync.groups.clock import Clock
from pgmem.groups.clock import AsyncClock

SPEED = 50
"""How much faster than the real one the fast clock of a run is. The server has the real one."""


class FastClock(Clock):
    """A clock of a run in threads, on which renewals are due much sooner than leases end."""

    def now(self) -> float:
        return time.monotonic() * SPEED

    def wait(self, wakeup, seconds) -> bool:
        return wakeup.wait(None if seconds is None else seconds / SPEED)


class AsyncFastClock(AsyncClock):
    """The same for tasks."""

    def now(self) -> float:
        return time.monotonic() * SPEED

    async def wait(self, wakeup, seconds) -> bool:
        return await wakeup.wait(None if seconds is None else seconds / SPEED)


class GroupRun:
    """Runs a group's handler in one form until a condition holds.

    Attributes:
        clock: the clock of the run; None for the real one.
        memory: the one that the handler is called for, while it runs.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.clock: Clock | AsyncClock | None = None
        self.memory: Memory | AsyncMemory
        self.group = "g"
        self.opening = {"stream": "s", "max_attempts": 3}

    def run(self, handler, until, *, meanwhile=None, **options):
        """Run the handler until `until(memory)` is true; return the result of `group.run`."""
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
            self.memory = memory
            group = memory.groups.create(self.group, **self.opening, exist_ok=True)
            group._context.clock = self.clock or group._context.clock

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
            self.memory = memory
            group = await memory.groups.create(self.group, **self.opening, exist_ok=True)
            group._context.clock = self.clock or group._context.clock

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


def fill(url, count=30):
    with Memory(url) as memory:
        memory.events.append("s", [Event(type="t", payload={"n": n}) for n in range(count)])


def idle(memory, group="g") -> bool:
    """Return True if each event is acknowledged."""
    found = memory.groups.get(group).info()
    head = memory.events.read("s", limit=1, reverse=True)[0].position
    return found.position >= head and not found.held and not found.delayed
