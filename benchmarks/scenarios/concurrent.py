"""Measure the calls a second of one process: one task, a hundred tasks, sixteen threads.

Each task or thread makes its calls one after another. redis.asyncio and redis-py take a connection
from their pools for each call; pgmem's calls share connections where that is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson

from benchmarks.arms import right
from benchmarks.audit import NO_FAULTS, Faults, compare
from benchmarks.harness import Comparison, Sample, Scenario, Tier
from benchmarks.meter import Store, costs
from benchmarks.redis_server import TIER_NAMES, Redis
from benchmarks.scenarios._base import AGENT, STREAM, TYPE, Bench, Entry, Log, Side, log_of, payload
from pgmem import AsyncMemory, Event, Memory

ENTRIES_STORED = 1_000
CALLS = {1: (300, 60), 100: (4_000, 600), 16: (4_000, 600)}
"""Tasks or threads to the calls of a round, full and quick."""

Operation = tuple[str, Tier]
Call = Callable[[int], object]
"""Make the call of a number: get the entry `number`, or append the event `number`."""
AsyncCall = Callable[[int], Awaitable[object]]

GET: Operation = ("get", "relaxed")
STRICT: Operation = ("append", "strict")
RELAXED: Operation = ("append", "relaxed")
TASK_TARGETS = {
    (1, GET): 0.7,
    (1, STRICT): None,
    (1, RELAXED): None,
    (100, GET): 1 / 3,
    (100, STRICT): 1 / 3,
    (100, RELAXED): 1 / 5,
}
THREAD_TARGETS = {(16, GET): 1 / 1.5, (16, STRICT): 1 / 1.5}


@dataclass(frozen=True, slots=True)
class Round:
    """Run a round of calls in one store, and audit it.

    Attributes:
        store: the server that works for them.
        run: makes the calls of some numbers, in a number of tasks or threads.
        found: returns the numbers of the events after a position, in the store's order; None for
            gets.
        log: provides the numbers.
    """

    store: Store
    run: Callable[[Sequence[int], int], list[Any]]
    found: Callable[[int], list[int]] | None
    log: Log

    def __call__(self, workers: int, calls: int) -> Sample:
        head = self.log.head()
        numbers = self.log.take(calls) if self.found else [n % ENTRIES_STORED for n in range(calls)]
        with costs(self.store) as spent:
            start = time.perf_counter()
            answers = self.run(numbers, workers)
            elapsed = time.perf_counter() - start
        if self.found:
            faults = _in_order(numbers, self.found(head), workers)
        else:
            wrong = sum(a is None or a["n"] != n for n, a in zip(numbers, answers, strict=True))
            faults = Faults(lost=wrong)
        return Sample(calls / elapsed, faults, spent.figures(calls))


def _in_order(numbers: Sequence[int], found: Sequence[int], workers: int) -> Faults:
    """Count faults; each worker's events must be in the order of its calls."""
    shares = [numbers[first::workers] for first in range(workers)]
    return sum((compare(share, _of(share, found)) for share in shares), NO_FAULTS)


def _of(share: Sequence[int], found: Sequence[int]) -> list[int]:
    wanted = set(share)
    return [number for number in found if number in wanted]


class Tasks:
    """Run async calls on an event loop of their own.

    Args:
        runner: the loop.
        call: makes the call of a number.
    """

    def __init__(self, runner: asyncio.Runner, call: AsyncCall) -> None:
        self._runner = runner
        self._call = call

    def __call__(self, numbers: Sequence[int], workers: int) -> list[Any]:
        return self._runner.run(self._all(numbers, workers))

    async def _all(self, numbers: Sequence[int], workers: int) -> list[Any]:
        answers: list[Any] = [None] * len(numbers)

        async def work(first: int) -> None:
            for index in range(first, len(numbers), workers):
                answers[index] = await self._call(numbers[index])

        async with asyncio.TaskGroup() as group:
            for first in range(workers):
                group.create_task(work(first))
        return answers


class Threads:
    """Run calls in threads.

    Args:
        call: makes the call of a number.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, numbers: Sequence[int], workers: int) -> list[Any]:
        answers: list[Any] = [None] * len(numbers)

        def work(first: int) -> None:
            for index in range(first, len(numbers), workers):
                answers[index] = self._call(numbers[index])

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
        return answers


def _key(number: int) -> str:
    return f"account:{number}"


def _event(number: int) -> Event:
    return Event(type=TYPE, payload=payload(number), agent_id=AGENT)


def _fields(number: int) -> dict[str, Any]:
    return {"type": TYPE, "payload": orjson.dumps(payload(number)), "agent_id": AGENT}


def _value(text: bytes | None) -> Any:
    entry = right.entry(text)
    return entry and entry.value


def by_memory(memory: Memory, operation: Operation) -> Call:
    """Call a `Memory`."""
    if operation == GET:
        return lambda number: (entry := memory.state.get(_key(number))) and entry.value
    return lambda number: memory.events.append(STREAM, _event(number))


def by_async_memory(memory: AsyncMemory, operation: Operation) -> AsyncCall:
    """Call an `AsyncMemory`."""

    async def get(number: int) -> Any:
        entry = await memory.state.get(_key(number))
        return entry and entry.value

    async def append(number: int) -> None:
        await memory.events.append(STREAM, _event(number))

    return get if operation == GET else append


def by_redis(client: Any, redis: Redis, operation: Operation) -> Call:
    """Call redis-py from threads."""
    state, events = redis.key("concurrent:state"), redis.key(f"concurrent:{right.EVENTS}")
    if operation == GET:
        return lambda number: _value(client.hget(state, _key(number)))
    return lambda number: client.xadd(events, _fields(number))


def by_async_redis(client: Any, redis: Redis, operation: Operation) -> AsyncCall:
    """Call redis.asyncio."""
    state, events = redis.key("concurrent:state"), redis.key(f"concurrent:{right.EVENTS}")

    async def get(number: int) -> Any:
        return _value(await client.hget(state, _key(number)))

    async def append(number: int) -> None:
        await client.xadd(events, _fields(number))

    return get if operation == GET else append


class Opened:
    """Hold the stores of the scenarios, filled with the same entries.

    Args:
        bench: the settings of the run.
        stack: closes everything.
    """

    def __init__(self, bench: Bench, stack: contextlib.ExitStack) -> None:
        self._bench = bench
        self._stack = stack
        self._url = stack.enter_context(bench.postgres.database())
        self._log = stack.enter_context(log_of(self._url))
        self._runner = stack.enter_context(asyncio.Runner())
        with Memory(self._url) as memory, memory.transaction() as tx:
            for number in range(ENTRIES_STORED):
                tx.state.put(_key(number), payload(number))
        for tier in ("relaxed", "strict"):
            redis = bench.redis(tier)
            with contextlib.closing(redis.client()) as client:
                text = {_key(n): b"1:" + orjson.dumps(payload(n)) for n in range(ENTRIES_STORED)}
                client.hset(redis.key("concurrent:state"), mapping=text)

    def rounds(self, operation: Operation, *, tasks: bool) -> Iterator[tuple[Side, Round]]:
        """Yield pgmem and Redis for an operation, with their descriptions."""
        name, tier = operation
        redis, stored = self._bench.redis(tier), name == "append"
        memory, client = (self._async_ends if tasks else self._ends)(tier)
        side = Side("pgmem", "pgmem", tier, f"{type(memory).__name__}, {name}, {tier}")
        ours: Any = (by_async_memory if tasks else by_memory)(memory, operation)
        run = self._run(ours, tasks=tasks)
        yield side, Round(self._bench.postgres, run, self._log.found if stored else None, self._log)
        command = "XADD" if stored else "HGET"
        library = "redis.asyncio" if tasks else "redis-py"
        note = f"{library}, {command}, appendfsync {TIER_NAMES[tier]}"
        side = Side("redis", "redis", tier, note)
        theirs: Any = (by_async_redis if tasks else by_redis)(client, redis, operation)
        run = self._run(theirs, tasks=tasks)
        yield side, Round(redis, run, self._found(redis) if stored else None, self._log)

    def _run(self, call: Any, *, tasks: bool) -> Callable[[Sequence[int], int], list[Any]]:
        return Tasks(self._runner, call) if tasks else Threads(call)

    @functools.cache  # noqa: B019  # it lives as long as the scenario
    def _ends(self, tier: Tier) -> tuple[Any, Any]:
        memory = Memory(self._url, pool=16, durability="relaxed" if tier == "relaxed" else "strict")
        client = right.connect(self._bench.redis(tier).url, threads=True)
        self._stack.callback(client.close)
        return self._stack.enter_context(memory), client

    @functools.cache  # noqa: B019  # as above
    def _async_ends(self, tier: Tier) -> tuple[Any, Any]:
        import redis.asyncio

        durability: Any = "relaxed" if tier == "relaxed" else "strict"
        memory = AsyncMemory(self._url, durability=durability)
        self._runner.run(memory.open())
        self._stack.callback(lambda: self._runner.run(memory.close()))
        client = redis.asyncio.Redis.from_url(self._bench.redis(tier).url)
        self._stack.callback(lambda: self._runner.run(client.aclose()))
        return memory, client

    def _found(self, redis: Redis) -> Callable[[int], list[int]]:
        def found(_: int) -> list[int]:
            key = redis.key(f"concurrent:{right.EVENTS}")
            with contextlib.closing(redis.client()) as client:
                numbers = [
                    orjson.loads(fields[b"payload"])["n"] for _, fields in client.xrange(key)
                ]
                client.unlink(key)
            return numbers

        return found


@contextlib.contextmanager
def concurrent(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Get and append in 1 and 100 tasks, and in 16 threads."""
    with contextlib.ExitStack() as stack:
        opened = Opened(bench, stack)
        yield [
            _scenario(bench, opened, workers, operation, target, tasks=tasks)
            for targets, tasks in ((TASK_TARGETS, True), (THREAD_TARGETS, False))
            for (workers, operation), target in targets.items()
        ]


def _scenario(
    bench: Bench,
    opened: Opened,
    workers: int,
    operation: Operation,
    target: float | None,
    *,
    tasks: bool,
) -> Scenario:
    calls = CALLS[workers][bench.quick]
    name = operation[0] if operation == GET else " ".join(operation)
    what = f"{workers} {'task' if tasks else 'thread'}{'s' * (workers > 1)}"
    return Scenario(
        f"concurrent/{name}, {what}",
        f"{name} of 200 B in {what} of one process ({calls} calls a round)",
        "calls/s",
        [
            side.arm(functools.partial(each, workers, calls), each.store)
            for side, each in opened.rounds(operation, tasks=tasks)
        ],
        [Comparison("pgmem", "redis", at_most=target)],
        rounds=bench.counted(10, 3),
    )


ENTRIES = (
    Entry(
        "concurrent",
        "get and append of one process: 1 and 100 tasks, 16 threads",
        concurrent,
        (60, 10),
    ),
)
