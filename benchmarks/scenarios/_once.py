"""The ways to do work once, each behind the same two methods, and the processes that use them.

The work is one event that names its key: whoever reads the log afterwards counts effects.
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
"""Seconds of a claim whose holder will die: short, because the retry waits for its end."""
MOST = 10_000

Hook = Callable[[], object]


def nothing() -> None:
    """The hook where nobody dies."""


class Urls(NamedTuple):
    """Where the stores are, and what their keys begin with."""

    postgres: str
    always: str
    everysec: str
    prefix: str


class Answer(NamedTuple):
    """What a caller is told: whether his call did the work, and the result; None for no result."""

    first: bool
    result: Any


class Way(Protocol):
    """A way to do work once."""

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """Do the work of a key unless it is done.

        Args:
            key: names the work.
            run: the round; its events can be told from others.
            hook: is called when the effect is there and the caller has not yet noted it.
        """

    def effects(self, run: str) -> list[str]:
        """The keys of a run's events, one for each event."""


def work_of(key: str) -> dict[str, Any]:
    """The payload of a piece of work: some 200 bytes."""
    return {**payload(1), "key": key}


class MemoryWork:
    """pgmem, the work in the transaction of its mark."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """See `Way`."""
        with self._memory.transaction() as tx:

            def work() -> dict[str, str]:
                event = Event(type=TYPE, payload=work_of(key), agent_id=AGENT)
                tx.events.append(run, event)
                hook()
                return {"key": key}

            outcome = tx.dedupe.run_once(key, work)
        return Answer(outcome.status == "processed", outcome.result)

    def effects(self, run: str) -> list[str]:
        """See `Way`."""
        return [event.payload["key"] for event in self._memory.events.read(run, limit=MOST)]


class MemoryCall(MemoryWork):
    """pgmem, one append with an idempotency key."""

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """See `Way`."""
        event = Event(type=TYPE, payload=work_of(key), agent_id=AGENT)
        appended = self._memory.events.append(run, event, idempotency_key=key)
        hook()
        return Answer(not appended.duplicate, appended.position)


class RightWork:
    """Redis done right: claim, work, stored result."""

    def __init__(self, store: Right, lease: float) -> None:
        self._store = store
        self._lease = lease

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """See `Way`."""

        def work() -> dict[str, str]:
            self._store.append([records.Event(TYPE, work_of(key), AGENT)], stream=run)
            hook()
            return {"key": key}

        outcome = self._store.run_once(key, work, lease=self._lease)
        return Answer(outcome.first, outcome.result)

    def effects(self, run: str) -> list[str]:
        """See `Way`."""
        return [event.payload["key"] for event in self._store.read(stream=run)]


class RightCall(RightWork):
    """Redis done right, mark and event in one script."""

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """See `Way`."""
        event = records.Event(TYPE, work_of(key), AGENT)
        outcome = self._store.append_once(key, event, stream=run)
        hook()
        return Answer(outcome.first, outcome.result)


class PublishedWork:
    """The article's `process_event`; the work is its `write_event`."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def _of(self, run: str, work: Callable[[Any], Any] | None = None) -> Published:
        # Its names are fixed: a run of its own needs a prefix of its own.
        return Published(self._client, work, prefix=f"{self._prefix}{run}:")

    def once(self, key: str, run: str, hook: Hook = nothing) -> Answer:
        """See `Way`."""

        def work(event: Any) -> dict[str, str]:
            self._of(run).write_event(AGENT, TYPE, work_of(event["id"]))
            hook()
            return {"key": key}

        result = self._of(run, work).process_event({"id": key})
        skipped = "status" in result
        return Answer(not skipped, None if skipped else result)

    def effects(self, run: str) -> list[str]:
        """See `Way`."""
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
    """One of the ways, by its arm's name; closed with the stack."""
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
    """What one racer was told of each key, and nanoseconds that it took."""

    answers: list[Answer]
    times: list[int]


class Racer:
    """One process that goes for each key at the moment at which all others do."""

    def __init__(self, urls: Urls, names: Sequence[str], number: int, url: str) -> None:
        assert url == urls.postgres
        assert number >= 0
        self._stack = contextlib.ExitStack()
        self._ways = {name: way(name, urls, self._stack) for name in names}

    def go(self, order: str, start: float, argument: float) -> Raced:
        """Go for the keys of a run, one each `argument` seconds."""
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
