"""Run PgQueuer: producer and worker, on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson

from .base import (
    Answer,
    Follower,
    Numbers,
    Payload,
    Tray,
    UnknownOrder,
    acknowledged,
    connection_parameters,
    paced,
    until_done,
)


class Producer:
    """Call `enqueue` over a pool of asyncpg, as its documentation advises for producers.

    The only order is "pace".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        self._loop = _uvloop_runner()
        self._loop.run(self._open(url))
        self._payload = payload
        self._numbers = Numbers()

    async def _open(self, url: str) -> None:
        import asyncpg
        from pgqueuer.db import AsyncpgPoolDriver
        from pgqueuer.queries import Queries

        self._pool: Any = await asyncpg.create_pool(**_asyncpg_parameters(url))
        self._queries: Any = Queries(AsyncpgPoolDriver(self._pool))
        if not await self._queries.schema_is_installed():
            await self._queries.install()
            await self._queries.optimize_autovacuum()

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Enqueue."""
        if order != "pace":
            raise UnknownOrder(order)
        numbers = self._numbers.take(count)
        self._loop.run(self._pace(paced(self._payload, numbers, start, argument)))
        return acknowledged(numbers, [])

    async def _pace(self, events: Iterator[Payload]) -> None:
        for event in events:
            await self._queries.enqueue("job", orjson.dumps(event))

    def close(self) -> None:
        """Close the pool."""
        self._loop.run(self._pool.close())
        self._loop.close()


class Worker(Follower):
    """Run its worker over one asyncpg connection, on uvloop as its own command does.

    The only order is "follow".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        super().__init__(url, _uvloop_runner())

    async def _follow(self, tray: Tray) -> None:
        import asyncpg
        from pgqueuer import PgQueuer

        connection = await asyncpg.connect(**_asyncpg_parameters(self._url))
        queue = PgQueuer.from_asyncpg_connection(connection)
        done = asyncio.Event()

        async def job(job: Any) -> None:
            if tray.put(int(job.id), orjson.loads(job.payload)):
                done.set()

        queue.entrypoint("job")(job)
        running = asyncio.create_task(queue.run())
        await until_done(done, running)
        queue.shutdown.set()
        await running
        await connection.close()


def _uvloop_runner() -> asyncio.Runner:
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _asyncpg_parameters(url: str) -> dict[str, Any]:
    server = connection_parameters(url)
    return {
        "host": server["host"],
        "port": int(server["port"]),
        "user": server["user"],
        "password": server["password"] or None,
        "database": server["dbname"],
    }
