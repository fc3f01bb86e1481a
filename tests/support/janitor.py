"""Run a janitor with short intervals, which records its passes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from pgmem._sync.retention.janitor import Janitor
from pgmem.retention.janitor import AsyncJanitor, JanitorTiming

INTERVAL = 0.02


class Passes:
    """The passes of maintenance of several janitors.

    Attributes:
        done: the name of the janitor, for each pass that has ended.
        during: is called in each pass.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.during = lambda: None

    def record(self, name: str) -> None:
        self.during()
        self.done.append(name)

    def after(self, count: int) -> set[str]:
        """Return the names of the janitors of the passes after the first `count`."""
        return set(self.done[count:])


class _AsyncRecorder:
    def __init__(self, retention, passes, name) -> None:
        self._retention, self._passes, self._name = retention, passes, name

    async def maintain(self):
        report = await self._retention.maintain()
        await asyncio.to_thread(self._passes.record, self._name)
        return report


class _Recorder:
    def __init__(self, retention, passes, name) -> None:
        self._retention, self._passes, self._name = retention, passes, name

    def maintain(self):
        report = self._retention.maintain()
        self._passes.record(self._name)
        return report


@asynccontextmanager
async def janitor(form, passes, name="first", *, interval=INTERVAL, ttl=60.0, **options):
    """Open a memory and a janitor on it, in one form, until the end of the block."""
    timing = JanitorTiming(interval, ttl)
    async with form.memory(**options) as memory:
        raw = getattr(memory, "wrapped", memory)
        if form.name == "async":
            worker = AsyncJanitor(raw.leases, _AsyncRecorder(raw.retention, passes, name), timing)
        else:
            worker = Janitor(raw.leases, _Recorder(raw.retention, passes, name), timing)
        worker.start()
        try:
            yield memory
        finally:
            if form.name == "async":
                await worker.close()
            else:
                await asyncio.to_thread(worker.close)
