"""What runs in the peers' environment: each peer as its documentation says it runs best.

Started by path with that environment's Python; see `process`. It may import the peers and what
they bring along, nothing of pgmem and nothing of the benchmarks: neither is installed there.

It reads lines of JSON: what to be, then orders, each followed by the moment to start at and an
argument, then null. It answers with lines of JSON: `[true, answer]`, or `[false, why]`. Times are
raw: who ordered makes figures of them. They begin right before the payload is encoded and end
with what was called having returned, or with the decoded payload being there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import IO, Any, Protocol

import orjson

# As in benchmarks/scenarios/_following.py: the arms must not differ in them.
PATIENCE = 30.0
DRAIN = 0.05

Payload = dict[str, Any]
Answer = dict[str, Any]


class Work(Protocol):
    """What a peer can be told to do."""

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Carry out an order from `start` (of `time.monotonic`) on."""

    def close(self) -> None:
        """Let go of what is open."""


class UnknownOrder(Exception):
    """This peer does not do that."""


def until(start: float) -> None:
    """Wait for a moment of `time.monotonic`."""
    delay = start - time.monotonic()
    if delay > 0:
        time.sleep(delay)


def timed(call: Callable[[int], object], numbers: range, start: float) -> list[int]:
    """How long each of some calls took, one after another, in nanoseconds."""
    clock = time.perf_counter_ns
    times = []
    until(start)
    for number in numbers:
        before = clock()
        call(number)
        times.append(clock() - before)
    return times


def paced(payload: Payload, numbers: range, start: float, interval: float) -> Iterator[Payload]:
    """An event in each interval from `start` on, late ones at once; stamped when it is taken.

    At the same random moments as writer 0 of pgmem's arms.
    """
    rng = random.Random(0)  # noqa: S311  # no secret
    for index, number in enumerate(numbers):
        due = start + (index + rng.random()) * interval
        until(due)
        last = number + 1 == numbers.stop
        yield {**payload, "n": number, "last": last, "due": due, "sent": time.monotonic()}


class Tray:
    """Where what was delivered in a round is put down.

    Attributes:
        complete: whether the last event of every writer is there.
    """

    def __init__(self, writers: int) -> None:
        self._writers = writers
        self._got: list[tuple[int, float, float, float]] = []
        self._places: list[int] = []
        self.complete = False

    def put(self, place: int, event: Payload) -> bool:
        """Note an event that is here now; tells whether it was the last one."""
        at = time.monotonic()
        self._got.append((event["n"], event["sent"], event["due"], at))
        self._places.append(place)
        self._writers -= event["last"]
        self.complete = self._writers <= 0
        return self.complete

    def answer(self) -> Answer:
        """All that was put down."""
        names = ("numbers", "sent", "due", "at")
        columns = zip(*self._got, strict=True) if self._got else ((),) * len(names)
        reordered = sum(later <= earlier for earlier, later in pairwise(self._places))
        return {**dict(zip(names, map(list, columns), strict=True)), "reordered": reordered}


class Numbers:
    """Numbers that no event has had yet."""

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int) -> range:
        """The next ones."""
        first = self._next
        self._next += count
        return range(first, self._next)


def acknowledged(numbers: range, times: list[int]) -> Answer:
    """What was written, and how long each call took."""
    return {"first": numbers.start, "stop": numbers.stop, "times": times}


class Eventsourcing:
    """eventsourcing: its application recorder in PostgreSQL, with its own pool and statements.

    Orders: "append", "pace" (the argument is the seconds from event to event), and "follow" (the
    argument is the number of writers).
    """

    def __init__(self, url: str, payload: Payload, **options: str) -> None:
        from eventsourcing.persistence import InfrastructureFactory, StoredEvent  # noqa: PLC0415
        from eventsourcing.utils import Environment  # noqa: PLC0415

        server = connection_parameters(url)
        settings = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": server["dbname"],
            "POSTGRES_HOST": server["host"],
            "POSTGRES_PORT": server["port"],
            "POSTGRES_USER": server["user"],
            "POSTGRES_PASSWORD": server["password"],
            **options,
        }
        self._factory = InfrastructureFactory.construct(Environment("", settings))
        self._recorder: Any = self._factory.application_recorder()
        self._event = StoredEvent
        self._stream = uuid.uuid4()
        self._payload = payload
        self._numbers = Numbers()
        self._position = self._recorder.max_notification_id() or 0

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Append, or follow."""
        if order == "append":
            numbers = self._numbers.take(count)
            payload = self._payload
            times = timed(lambda n: self._append({**payload, "n": n}), numbers, start)
            return acknowledged(numbers, times)
        if order == "pace":
            numbers = self._numbers.take(count)
            for event in paced(self._payload, numbers, start, argument):
                self._append(event)
            return acknowledged(numbers, [])
        if order == "follow":
            return self._follow(Tray(int(argument)))
        raise UnknownOrder(order)

    def _append(self, event: Payload) -> None:
        state = orjson.dumps(event)
        stored = self._event(self._stream, event["n"], "payment.validated", state)
        self._recorder.insert_events([stored])

    def _follow(self, tray: Tray) -> Answer:
        with self._recorder.subscribe(gt=self._position) as events:
            watchdog = threading.Timer(PATIENCE, events.stop)
            watchdog.start()
            for event in events:
                self._position = event.id
                if tray.put(event.id, orjson.loads(event.state)):
                    watchdog.cancel()
                    watchdog = threading.Timer(DRAIN, events.stop)
                    watchdog.start()
            watchdog.cancel()
        return tray.answer()

    def close(self) -> None:
        """Close its pool."""
        self._factory.close()


class Langgraph:
    """LangGraph's PostgresStore on one connection: no slower here than its pool or its pipeline.

    Orders: "fill", "put" and "get".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        from langgraph.store.postgres import PostgresStore  # noqa: PLC0415

        self._stack = contextlib.ExitStack()
        self._store: Any = self._stack.enter_context(PostgresStore.from_conn_string(url))
        self._store.setup()
        self._payload = payload
        self._numbers = Numbers()
        self._filled = 0

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Put or get."""
        if order == "fill":
            for number in range(count):
                self._put("filled", number, number)
            self._filled = count
            return {}
        if order == "put":
            numbers = self._numbers.take(count)
            times = timed(lambda n: self._put("put", n % self._filled, n), numbers, start)
            return acknowledged(numbers, times)
        if order == "get":
            found: list[int] = []
            keys = self._filled
            times = timed(lambda n: found.append(self._get(n * 7 % keys)), range(count), start)
            return {"found": found, "times": times}
        raise UnknownOrder(order)

    def _put(self, kind: str, key: int, number: int) -> None:
        self._store.put((kind,), f"account:{key}", {**self._payload, "n": number})

    def _get(self, key: int) -> int:
        item = self._store.get(("filled",), f"account:{key}")
        return int(item.value["n"]) if item else -1

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()


class PgqueuerProducer:
    """PgQueuer's enqueue over a pool of asyncpg, which its documentation advises for producers.

    The only order is "pace".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        self._loop = _uvloop_runner()
        self._loop.run(self._open(url))
        self._payload = payload
        self._numbers = Numbers()

    async def _open(self, url: str) -> None:
        import asyncpg  # noqa: PLC0415
        from pgqueuer.db import AsyncpgPoolDriver  # noqa: PLC0415
        from pgqueuer.queries import Queries  # noqa: PLC0415

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


class PgqueuerWorker:
    """PgQueuer's worker over one asyncpg connection, on uvloop as its own command runs it.

    The only order is "follow".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        self._url = url
        self._loop = _uvloop_runner()

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Work until the last job of each writer has started."""
        if order != "follow":
            raise UnknownOrder(order)
        tray = Tray(int(argument))
        self._loop.run(self._follow(tray))
        return tray.answer()

    async def _follow(self, tray: Tray) -> None:
        import asyncpg  # noqa: PLC0415
        from pgqueuer import PgQueuer  # noqa: PLC0415

        connection = await asyncpg.connect(**_asyncpg_parameters(self._url))
        queue = PgQueuer.from_asyncpg_connection(connection)
        done = asyncio.Event()

        async def job(job: Any) -> None:
            if tray.put(int(job.id), orjson.loads(job.payload)):
                done.set()

        queue.entrypoint("job")(job)
        running = asyncio.create_task(queue.run())
        await _until_done(done, running)
        queue.shutdown.set()
        await running
        await connection.close()

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()


class ProcrastinateProducer:
    """procrastinate's defer with its synchronous connector, which is what synchronous code takes.

    The only order is "pace".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        from procrastinate import App, SyncPsycopgConnector  # noqa: PLC0415

        self._app = App(connector=SyncPsycopgConnector(conninfo=url))
        self._app.open()
        if not self._app.check_connection():  # tells whether its tables are there
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


class ProcrastinateWorker:
    """procrastinate's worker on its asynchronous connector, up to 10 jobs at once.

    With one at a time, its default, a job would wait until the one before is marked as done.
    The only order is "follow".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        self._url = url
        self._loop = asyncio.Runner()

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Work until the last job of each writer has started."""
        if order != "follow":
            raise UnknownOrder(order)
        tray = Tray(int(argument))
        self._loop.run(self._follow(tray))
        return tray.answer()

    async def _follow(self, tray: Tray) -> None:
        from procrastinate import App, JobContext, PsycopgConnector  # noqa: PLC0415

        app = App(connector=PsycopgConnector(conninfo=self._url))
        done = asyncio.Event()

        async def job(context: JobContext, event: Payload) -> None:
            if tray.put(context.job.id or 0, event):
                done.set()

        app.task(name="job", pass_context=True)(job)
        async with app.open_async():
            worker = app.run_worker_async(concurrency=10, install_signal_handlers=False)
            running = asyncio.create_task(worker)
            await _until_done(done, running)
            running.cancel()  # asks it to end what it has begun, and waits for that
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()


async def _until_done(done: asyncio.Event, running: asyncio.Task[Any]) -> None:
    waiting: asyncio.Task[Any] = asyncio.create_task(done.wait())
    try:
        await asyncio.wait(
            (waiting, running), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        if running.done():
            await running  # It ends only with an error.
        await asyncio.sleep(DRAIN)
    finally:
        waiting.cancel()


def _uvloop_runner() -> asyncio.Runner:
    import uvloop  # noqa: PLC0415

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def connection_parameters(url: str) -> dict[str, str]:
    """The parts of a URL or connection string; what it leaves out is libpq's default."""
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    known = {"host": "localhost", "port": "5432", "user": "postgres", "password": ""}
    found = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    merged = {**known, **found}
    return {**merged, "dbname": merged.get("dbname", merged["user"])}


def _asyncpg_parameters(url: str) -> dict[str, Any]:
    server = connection_parameters(url)
    return {
        "host": server["host"],
        "port": int(server["port"]),
        "user": server["user"],
        "password": server["password"] or None,
        "database": server["dbname"],
    }


def _functions(url: str, payload: Payload) -> Eventsourcing:
    return Eventsourcing(url, payload, POSTGRES_ENABLE_DB_FUNCTIONS="y")


WORKS: Mapping[str, Callable[[str, Payload], Work]] = {
    "eventsourcing": Eventsourcing,
    "eventsourcing-functions": _functions,
    "langgraph": Langgraph,
    "pgqueuer": PgqueuerProducer,
    "pgqueuer-worker": PgqueuerWorker,
    "procrastinate": ProcrastinateProducer,
    "procrastinate-worker": ProcrastinateWorker,
}


def _serve(lines: IO[bytes], answers: IO[bytes]) -> None:
    def say(good: bool, answer: object) -> None:
        answers.write(json.dumps([good, answer]).encode() + b"\n")
        answers.flush()

    try:
        hello = json.loads(lines.readline())
        work = WORKS[hello["work"]](hello["url"], hello["payload"])
        # As a crew's members: what was imported is no garbage to be looked through in a round.
        gc.collect()
        gc.freeze()
        say(True, None)
        # An empty line is the end of the file: the parent is gone.
        while (line := lines.readline()) and (order := json.loads(line)) is not None:
            gc.collect()
            say(True, None)
            name, _, count = order.partition("/")
            say(True, work.go(name, int(count or 0), *json.loads(lines.readline())))
        work.close()
    except Exception:
        say(False, traceback.format_exc())
        sys.exit(1)


if __name__ == "__main__":
    # What a library prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.WARNING)
    _serve(sys.stdin.buffer, answers)
