"""Run procrastinate: producer and worker."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from .base import (
    Answer,
    Follower,
    Numbers,
    Payload,
    Tray,
    UnknownOrder,
    acknowledged,
    paced,
    until_done,
)


class Producer:
    """Call `defer` with its synchronous connector, as synchronous code does.

    The only order is "pace".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        from procrastinate import App, SyncPsycopgConnector

        self._app = App(connector=SyncPsycopgConnector(conninfo=url))
        self._app.open()
        if not self._app.check_connection():  # True if its tables exist
            self._app.schema_manager.apply_schema()
        self._job: Any = self._app.configure_task(name="job")
        self._payload = payload
        self._numbers = Numbers()

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Defer."""
        if order != "pace":
            raise UnknownOrder(order)
        numbers = self._numbers.take(count)
        for event in paced(self._payload, numbers, start, argument):
            self._job.defer(event=event)
        return acknowledged(numbers, [])

    def close(self) -> None:
        """Close its pool."""
        self._app.close()


class Worker(Follower):
    """Run its worker on its asynchronous connector, up to 10 jobs at once.

    With its default of one at a time, a job would wait until the one before is marked as done. The
    only order is "follow".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        super().__init__(url, asyncio.Runner())

    async def _follow(self, tray: Tray) -> None:
        from procrastinate import App, JobContext, PsycopgConnector

        app = App(connector=PsycopgConnector(conninfo=self._url))
        done = asyncio.Event()

        async def job(context: JobContext, event: Payload) -> None:
            if tray.put(context.job.id or 0, event):
                done.set()

        app.task(name="job", pass_context=True)(job)
        async with app.open_async():
            worker = app.run_worker_async(concurrency=10, install_signal_handlers=False)
            running = asyncio.create_task(worker)
            await until_done(done, running)
            running.cancel()  # asks it to finish its jobs, and waits for that
            with contextlib.suppress(asyncio.CancelledError):
                await running
