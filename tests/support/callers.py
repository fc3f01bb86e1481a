"""Make calls of one memory from many tasks, or from many threads."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import psycopg

from tests.support.both import Awaited
from tests.support.waiting import until


class Callers:
    """Makes calls of one memory at the same time.

    Args:
        memory: an `AsyncMemory`, or an `Awaited` one: then each call has a thread.
    """

    def __init__(self, memory, threads: ThreadPoolExecutor) -> None:
        self._wrapped = memory.wrapped if isinstance(memory, Awaited) else None
        self._memory = memory
        self._threads = threads

    def start(self, call):
        """Start a call, `call(memory)`, and return its future."""
        if self._wrapped is None:
            return asyncio.ensure_future(_awaited(call(self._memory)))
        return asyncio.get_running_loop().run_in_executor(self._threads, call, self._wrapped)

    def queued(self) -> int:
        """Return how many calls wait in the queues of the memory."""
        memory = self._memory if self._wrapped is None else self._wrapped
        return sum(len(queue._waiting) for queue in memory._executor._coalescer.queues)

    async def start_queued(self, calls):
        """Start calls that will queue; return their futures when all have queued, in order."""
        before = self.queued()
        futures = []
        for number, call in enumerate(calls, start=1):
            futures.append(self.start(call))
            await until(lambda number=number: self.queued() == before + number)
        return futures

    async def all(self, calls):
        """Make calls at the same time. Return the result or the exception of each."""
        return await asyncio.gather(*map(self.start, calls), return_exceptions=True)


async def _awaited(result):
    return await result if inspect.isawaitable(result) else result


@asynccontextmanager
async def callers(memory):
    """Make `Callers`; the threads are joined at the end."""
    with ThreadPoolExecutor(100) as threads:
        yield Callers(memory, threads)


HELD = 4711
"""The class of the advisory locks that held appends wait for."""


@contextmanager
def held_appends(url: str):
    """Let appends of a type `held:N` wait for `hold(connection, N)`, and refuse the type `refused`.

    Yields:
        A connection.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"""CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF new.type = 'refused' THEN
                    RAISE EXCEPTION 'refused by a trigger' USING ERRCODE = 'P0001';
                END IF;
                PERFORM pg_advisory_xact_lock_shared({HELD}, substr(new.type, 6)::int);
                RETURN new;
            END $$;
            CREATE TRIGGER hold BEFORE INSERT ON pgmem.events FOR EACH ROW
                WHEN (new.type LIKE 'held:%' OR new.type = 'refused') EXECUTE FUNCTION hold();"""
        )
        yield connection


def hold(connection, number: int) -> None:
    """Let appends of the type `held:number` wait."""
    connection.execute("SELECT pg_advisory_lock(%s, %s)", (HELD, number))


def release(connection, number: int) -> None:
    """Let them go on."""
    connection.execute("SELECT pg_advisory_unlock(%s, %s)", (HELD, number))


def waiting(connection, number: int) -> list[int]:
    """Return the server processes that wait for `release(connection, number)`."""
    rows = connection.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s"
        " AND NOT granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())",
        (HELD, number),
    )
    return [pid for (pid,) in rows]


async def until_waiting(connection, number: int, count: int) -> list[int]:
    """Wait until this many server processes wait for `release`, and return them."""
    await until(lambda: len(waiting(connection, number)) == count)
    return waiting(connection, number)
