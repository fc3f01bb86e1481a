"""Define the ways to do work once, with the same two methods, and the processes that use them.

The work is one event that names its key. So the number of effects can be counted from the log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from benchmarks.arms import published, records, right
from benchmarks.arms.published import Published
from benchmarks.arms.right import Right
from benchmarks.crew import until
from benchmarks.scenarios._base import AGENT, TYPE, payload
from pgmem import Event, Memory

LEASE = 0.5
"""Seconds of a claim whose holder will die; short, because the retry waits for its end."""
MOST = 10_000

Hook = Callable[[], object]


def nothing() -> None:
    """Do nothing: the hook for work that no process dies in."""


class Urls(NamedTuple):
    """Hold where the stores are, and the prefix of their keys."""

    postgres: str
    always: str
    everysec: str
    prefix: str


class Answer(NamedTuple):
    """Hold if the call did the work, and the result; None for no result."""

    first: bool
    result: Any


class Way(Protocol):
    """Define a way to do work once."""

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """Do the work of a key unless it is done.

        Args:
            key: names the work.
            run: the round; its events can be told from others.
            hook: called when the effect is there and the caller has not yet recorded it.
        """

    def effects(self, run: str) -> list[str]:
        """Return the keys of a run's events, one for each event."""


def work_of(key: str) -> dict[str, Any]:
    """Return the payload of a piece of work, about 200 bytes."""
    return {**payload(1), "key": key}


class MemoryWork:
    """Use pgmem, with the work in the transaction of its dedupe record."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """Do the work; see `Way`."""
        with self._memory.transaction() as tx:

            def work() -> dict[str, str]:
                event = Event(type=TYPE, payload=work_of(key), agent_id=AGENT)
                tx.events.append(run, event)
                hook()
                return {"key": key}

            outcome = tx.dedupe.run_once(key, work)
        return Answer(outcome.status == "processed", outcome.result)

    def effects(self, run: str) -> list[str]:
        """Return the keys; see `Way`."""
        return [event.payload["key"] for event in self._memory.events.read(run, limit=MOST)]


class MemoryCall(MemoryWork):
    """Use pgmem, one append with an idempotency key."""

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """Do the work; see `Way`."""
        event = Event(type=TYPE, payload=work_of(key), agent_id=AGENT)
        appended = self._memory.events.append(run, event, idempotency_key=key)
        hook()
        return Answer(not appended.duplicate, appended.position)


class RightWork:
    """Use Redis done right: claim, work, stored result."""

    def __init__(self, store: Right, lease: float) -> None:
        self._store = store
        self._lease = lease

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """Do the work; see `Way`."""

        def work() -> dict[str, str]:
            self._store.append([records.Event(TYPE, work_of(key), AGENT)], stream=run)
            hook()
            return {"key": key}

        outcome = self._store.run_once(key, work, lease=self._lease)
        return Answer(outcome.first, outcome.result)

    def effects(self, run: str) -> list[str]:
        """Return the keys; see `Way`."""
        return [event.payload["key"] for event in self._store.read(stream=run)]


class RightCall(RightWork):
    """Use Redis done right, dedupe record and event in one script."""

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """Do the work; see `Way`."""
        event = records.Event(TYPE, work_of(key), AGENT)
        outcome = self._store.append_once(key, event, stream=run)
        hook()
        return Answer(outcome.first, outcome.result)


class PublishedWork:
    """Use the article's `process_event`; the work is its `write_event`."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def _of(self, run: str, work: Callable[[Any], Any] | None = None) -> Published:
        # Its names are fixed, so each run needs a prefix of its own.
        return Published(self._client, work, prefix=f"{self._prefix}{run}:")

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """Do the work; see `Way`."""

        def work(event: Any) -> dict[str, str]:
            self._of(run).write_event(AGENT, TYPE, work_of(event["id"]))
            hook()
            return {"key": key}

        result = self._of(run, work).process_event({"id": key})
        skipped = "status" in result
        return Answer(not skipped, None if skipped else result)

    def effects(self, run: str) -> list[str]:
        """Return the keys; see `Way`."""
        store = self._of(run)
        found = self._client.xrange(store.stream_key)
        return [orjson.loads(fields[b"payload"])["key"] for _, fields in found]


def way(
    name: str,
    urls: Urls,
    stack: contextlib.ExitStack,
    *,
    threads: int = 1,
    lease: float = right.LEASE,
) -> Way:
    """Return one of the ways by its arm's name; it is closed with the stack."""
    kind, _, tier = name.partition(" ")
    if kind == "pgmem":
        memory = Memory(
            urls.postgres,
            pool=threads,
            durability="relaxed" if tier == "relaxed" else "strict",
        )
        return (MemoryCall if tier == "one call" else MemoryWork)(stack.enter_context(memory))
    url = urls.everysec if tier == "everysec" else urls.always
    if kind == "published":
        client = stack.enter_context(contextlib.closing(published.connect(url)))
        return PublishedWork(client, urls.prefix)
    client = stack.enter_context(contextlib.closing(right.connect(url, threads=threads > 1)))
    store = Right(client, prefix=urls.prefix, agent_id=AGENT)
    return (RightCall if tier == "always one script" else RightWork)(store, lease)


class Raced(NamedTuple):
    """Hold the answers that one racer got for the keys, and its times in nanoseconds."""

    answers: list[Answer]
    times: list[int]


class Racer:
    """Run one process that asks for each key at the same moment as all others."""

    def __init__(self, urls: Urls, names: Sequence[str], number: int, url: str) -> None:
        assert url == urls.postgres
        assert number >= 0
        self._stack = contextlib.ExitStack()
        self._ways = {name: way(name, urls, self._stack) for name in names}

    def go(self, order: str, start: float, argument: float) -> Raced:
        """Ask for the keys of a run, one each `argument` seconds."""
        name, run, keys = order.split("/")
        raced = Raced([], [])
        for number in range(int(keys)):
            until(start + number * argument)
            begun = time.perf_counter_ns()
            raced.answers.append(self._ways[name].once(f"{run}:{number}", run))
            raced.times.append(time.perf_counter_ns() - begun)
        return raced

    def close(self) -> None:
        """Close all connections."""
        self._stack.close()


def perish(name: str, urls: Urls, run: str, keys: Sequence[str]) -> None:
    """Do the work of all keys at once, and die by `kill -9` when all effects are there."""
    barrier = threading.Barrier(len(keys), lambda: os.kill(os.getpid(), signal.SIGKILL))
    with contextlib.ExitStack() as stack:
        found = way(name, urls, stack, threads=len(keys), lease=LEASE)

        def once(key: str) -> None:
            found.once(key, run, barrier.wait)

        threads = [threading.Thread(target=once, args=[key], daemon=True) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
