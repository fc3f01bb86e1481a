"""Many events in one call: pgmem's batch beside a pipeline of XADDs.

Equal promises: pgmem strict, Redis with `appendfsync always`. Both clients send 1,000 events in
one go and wait for all of the answers. An arm's time starts with the program's own objects.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence

import orjson

from benchmarks.audit import Faults, compare
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.scenarios._base import AGENT, STREAM, TYPE, Bench, Entry, Log, log_of, payload
from pgmem import Event, Memory

BATCH = 1_000


def _batches(
    log: Log,
    calls: int,
    append: Callable[[Sequence[int]], None],
    audit: Callable[[int, Sequence[int]], Faults],
) -> Sample:
    """Append some batches: events a second, and what is wrong with what was stored."""
    head = log.head()
    batches = [log.take(BATCH) for _ in range(calls)]
    start = time.perf_counter()
    for batch in batches:
        append(batch)
    took = time.perf_counter() - start
    numbers = [n for batch in batches for n in batch]
    return Sample(len(numbers) / took, audit(head, numbers))


@contextlib.contextmanager
def append_1000(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """`memory.events.append` of 1,000 events beside redis-py's pipeline."""
    calls = 4 if bench.quick else 10
    redis = bench.redis("strict")
    key = redis.key("batches")
    with (
        bench.postgres.database() as url,
        Memory(url) as memory,
        log_of(url) as log,
        contextlib.closing(redis.client()) as client,
    ):

        def pgmem(numbers: Sequence[int]) -> None:
            memory.events.append(
                STREAM,
                [Event(type=TYPE, payload=payload(n), agent_id=AGENT) for n in numbers],
            )

        def pipeline(numbers: Sequence[int]) -> None:
            with client.pipeline(transaction=False) as pipe:
                for n in numbers:
                    pipe.xadd(
                        key,
                        {"type": TYPE, "payload": orjson.dumps(payload(n)), "agent_id": AGENT},
                    )
                pipe.execute()

        def audit_redis(_: int, numbers: Sequence[int]) -> Faults:
            rows = client.xrange(key)
            found = [orjson.loads(fields[b"payload"])["n"] for _, fields in rows]
            client.delete(key)
            return compare(numbers, found)

        yield [
            Scenario(
                "append_1000",
                f"append {BATCH:,} events of 200 B in one call, 1 client ({calls} calls a round)",
                "events/s",
                [
                    Arm(
                        "pgmem",
                        functools.partial(_batches, log, calls, pgmem, log.audit),
                        "memory.events.append(stream, [1,000 events])",
                        tier="strict",
                    ),
                    Arm(
                        "redis",
                        functools.partial(_batches, log, calls, pipeline, audit_redis),
                        "pipeline of 1,000 XADD",
                        kind="redis",
                        tier="strict",
                        prepare=redis.prepare,
                    ),
                ],
                [Comparison("pgmem", "redis", at_least=2.0, or_value=150_000)],
                rounds=bench.counted(20, 5),
                warmup=2,
            )
        ]
        client.delete(key)


ENTRIES = (
    Entry(
        "append_1000",
        "append of 1,000 events beside a pipeline of 1,000 XADD",
        append_1000,
        (12, 4),
    ),
)
