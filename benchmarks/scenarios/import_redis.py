"""Measure `pgmem import-redis` beside a bare loop that reads and COPYs.

The bare loop is an hour's work: XRANGE, HSCAN and SSCAN page by page, each row built and sent by
COPY, in one transaction for each table. It checks nothing, keeps no ids of hashes and sets, and
cannot be interrupted and continued. If it runs twice, everything is there twice. Each round begins
with an empty database, connecting included.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from benchmarks.audit import Faults, compare, compare_counts
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.meter import costs
from benchmarks.redis_server import Redis
from benchmarks.scenarios._base import AGENT, TYPE, Bench, Entry, bare, payload
from pgmem import Memory
from pgmem.redis.importing.rules import parse_rules
from pgmem.redis.importing.session import open_import

FULL, QUICK = (1_000_000, 100_000, 50_000), (100_000, 10_000, 5_000)
"""Entries of the stream, fields of the hash, members of the set."""
PAGE = 2_000
FILL = 1_000

_EVENTS = "COPY pgmem.events (stream, type, payload, agent_id, metadata) FROM STDIN"
_STATE = "COPY pgmem.state (key, value, version) FROM STDIN"
_DEDUPE = "COPY pgmem.dedupe (kind, key, completed_at) FROM STDIN"

STREAM, STATE, PROCESSED = "events", "state", "processed"


class Target:
    """Provide a new database for each round."""

    def __init__(self, bench: Bench, stack: contextlib.ExitStack) -> None:
        self._bench = bench
        self._round = stack.enter_context(contextlib.ExitStack())
        self.url = ""

    def renew(self) -> None:
        """Drop the last round's database, and create another one."""
        self._round.close()
        self.url = self._round.enter_context(self._bench.postgres.database())


def _fill(redis: Redis, prefix: str, sizes: tuple[int, int, int]) -> None:
    """Store what the published code leaves in a Redis, without its MAXLEN."""
    redis.prepare()
    events, fields, members = sizes
    with contextlib.closing(redis.client()) as client, client.pipeline(transaction=False) as pipe:
        for n in range(1, events + 1):
            pipe.xadd(
                f"{prefix}{STREAM}",
                {
                    "agent_id": AGENT,
                    "event_type": TYPE,
                    "payload": orjson.dumps(payload(n)),
                    "timestamp": "2026-11-22T10:00:00.000000",
                },
            )
            if n % FILL == 0:
                pipe.execute()
        for n in range(fields):
            pipe.hset(f"{prefix}{STATE}", f"{AGENT}:{n}", orjson.dumps(payload(n, 100)))
            if n % FILL == 0:
                pipe.execute()
        for n in range(0, members, FILL):
            names = [f"event-{m}" for m in range(n, min(n + FILL, members))]
            pipe.sadd(f"{prefix}{PROCESSED}", *names)
        pipe.expire(f"{prefix}{PROCESSED}", 86_400)
        pipe.execute()


def _pgmem(url: str, redis: Redis, prefix: str) -> None:
    rules = parse_rules(
        [f"{prefix}{STREAM}"], [f"{prefix}{STATE}"], [f"{prefix}{PROCESSED}"], values="json"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Memory(url) as memory,
        open_import(memory, redis.url, rules, refused=Path(folder) / "refused") as importer,
    ):
        importer.begin()
        importer.run()


def _bare(url: str, redis: Redis, prefix: str) -> None:
    with contextlib.closing(redis.client()) as client, bare(url) as connection:
        cursor = connection.cursor()
        with cursor.copy(_EVENTS) as copy:
            for identity, fields in _entries(client, f"{prefix}{STREAM}"):
                copy.write_row(
                    (
                        f"{prefix}{STREAM}",
                        fields[b"event_type"].decode(),
                        fields[b"payload"].decode(),
                        fields[b"agent_id"].decode(),
                        f'{{"redis":{{"id":"{identity.decode()}"}}}}',
                    )
                )
        with cursor.copy(_STATE) as copy:
            for name, value in client.hscan_iter(f"{prefix}{STATE}", count=PAGE):
                copy.write_row((name.decode(), value.decode(), 1))
        with cursor.copy(_DEDUPE) as copy:
            for member in client.sscan_iter(f"{prefix}{PROCESSED}", count=PAGE):
                copy.write_row(("work", member.decode(), "now"))


def _entries(client: Any, key: str) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    after = b"-"
    while found := client.xrange(key, after, count=PAGE):
        yield from found
        after = b"(" + found[-1][0]


def _audit(url: str, sizes: tuple[int, int, int]) -> Faults:
    """Count what is missing from the import, duplicated or out of order."""
    events, fields, members = sizes
    with bare(url) as connection:
        # The log also holds the import's events about the state.
        rows = connection.execute(
            "SELECT (payload->>'n')::bigint FROM pgmem.events WHERE state_key IS NULL"
            " ORDER BY position"
        )
        faults = compare(range(1, events + 1), [row[0] for row in rows])
        for statement, wanted in (
            (b"SELECT count(*) FROM pgmem.state", fields),
            (b"SELECT count(*) FROM pgmem.dedupe", members),
        ):
            row = connection.execute(statement).fetchone()
            assert row is not None
            faults += compare_counts(wanted, row[0], row[0])
    return faults


@contextlib.contextmanager
def import_redis(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Import a stream, a hash and a set."""
    sizes = QUICK if bench.quick else FULL
    redis = bench.redis("relaxed")
    prefix = redis.key("import:")
    _fill(redis, prefix, sizes)
    with contextlib.ExitStack() as stack:
        target = Target(bench, stack)

        def run(way: Callable[[str, Redis, str], None]) -> Sample:
            with costs(bench.postgres, sizes=False) as spent:
                way(target.url, redis, prefix)
            figures = spent.figures(sum(sizes))
            each = figures.pop("per second")
            return Sample(each, _audit(target.url, sizes), figures)

        yield [
            Scenario(
                "import_redis",
                f"bring in {sizes[0]:,} entries, {sizes[1]:,} fields and {sizes[2]:,} members",
                "items/s",
                [
                    Arm(
                        "pgmem",
                        lambda: run(_pgmem),
                        "`pgmem import-redis`: checked, once, can be continued",
                        tier="strict",
                        prepare=target.renew,
                    ),
                    Arm(
                        "loop",
                        lambda: run(_bare),
                        "redis-py and COPY, nothing checked, all or nothing",
                        kind="floor",
                        tier="strict",
                        prepare=target.renew,
                    ),
                ],
                [Comparison("pgmem", "loop", at_most=1 / 0.5)],
                rounds=bench.counted(3, 2),
                warmup=0,
            )
        ]


ENTRIES = (
    Entry(
        "import_redis",
        "import a Redis of 1,150,000 items: pgmem, and a bare loop with COPY",
        import_redis,
        (200, 30),
    ),
)
