"""One client, one call at a time: append one event, get one entry, read 10,000 events.

The question is what pgmem's own code costs on top of the driver, so the bare arms send the same
statements, on the same tables. Not how fast the server is, nor what many clients do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import orjson

from benchmarks.audit import Faults, compare
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.scenarios._base import (
    AGENT,
    PLAIN_INSERT,
    STREAM,
    TYPE,
    Bench,
    Entry,
    Log,
    append_statement,
    bare,
    log_of,
    median_time,
    params,
    payload,
)
from pgmem import Event, Memory, sql


@contextlib.contextmanager
def append_one(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """`memory.events.append` of one event beside the bare statement."""
    calls = 100
    with (
        bench.postgres.database() as url,
        Memory(url) as memory,
        bare(url) as connection,
        log_of(url) as log,
    ):
        ringing = append_statement(connection, "try")
        cursor = connection.cursor()

        def pgmem(number: int) -> None:
            memory.events.append(STREAM, Event(type=TYPE, payload=payload(number), agent_id=AGENT))

        def execute(number: int) -> None:
            connection.execute(ringing, params(number)).fetchone()

        def kept_cursor(number: int) -> None:
            cursor.execute(ringing, params(number))
            cursor.fetchone()

        def plain(number: int) -> None:
            connection.execute(PLAIN_INSERT, params(number)).fetchone()

        def arm(name: str, call: Callable[[int], None], note: str) -> Arm:
            return Arm(name, lambda: _appending(log, call, calls), note)

        yield [
            Scenario(
                "append_one",
                f"append one event of 200 B, strict, 1 client ({calls} calls a round)",
                "µs",
                [
                    arm("pgmem", pgmem, "memory.events.append"),
                    arm("bare", execute, "the same statement, connection.execute().fetchone()"),
                    arm("bare, kept cursor", kept_cursor, "the same on one cursor kept open"),
                    arm("bare, no bell", plain, "INSERT … RETURNING position"),
                ],
                [
                    Comparison("pgmem", "bare", at_most=1.25),
                    Comparison("pgmem", "bare, kept cursor"),
                    Comparison("pgmem", "bare, no bell"),
                    Comparison("bare", "bare, no bell"),
                ],
                rounds=bench.counted(40, 8),
                warmup=2,
            )
        ]


def _appending(log: Log, call: Callable[[int], None], calls: int) -> Sample:
    head = log.head()
    numbers = log.take(calls)
    value = median_time(call, numbers)
    return Sample(value, log.audit(head, numbers))


@contextlib.contextmanager
def state_get(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """`memory.state.get` beside a bare SELECT of the same columns, its value decoded."""
    calls, keys = 500, 1_000
    with bench.postgres.database() as url, Memory(url) as memory, bare(url) as connection:
        with memory.transaction() as tx:
            for number in range(keys):
                tx.state.put(f"account:{number}", payload(number), record=False)
        connection.execute("VACUUM ANALYZE pgmem.state")
        select = sql.statement("state_get", sql.Dialect("pgmem"))
        cursor = connection.cursor()
        found: list[int] = []

        def pgmem(number: int) -> None:
            entry = memory.state.get(f"account:{number}")
            found.append(entry.value["n"] if entry else -1)

        def execute(number: int) -> None:
            row = connection.execute(select, {"key": f"account:{number}"}).fetchone()
            found.append(orjson.loads(row[1])["n"] if row else -1)

        def kept_cursor(number: int) -> None:
            cursor.execute(select, {"key": f"account:{number}"})
            row = cursor.fetchone()
            found.append(orjson.loads(row[1])["n"] if row else -1)

        def arm(name: str, call: Callable[[int], None], note: str) -> Arm:
            def once() -> Sample:
                found.clear()
                numbers = [n * 7 % keys for n in range(calls)]
                value = median_time(call, numbers)
                lost = sum(a != b for a, b in zip(numbers, found, strict=True))
                return Sample(value, Faults(lost=lost))

            return Arm(name, once, note)

        yield [
            Scenario(
                "state_get",
                f"get one entry of 200 B, 1 client ({calls} calls a round)",
                "µs",
                [
                    arm("pgmem", pgmem, "memory.state.get"),
                    arm("bare", execute, "SELECT of the same columns, value decoded"),
                    arm("bare, kept cursor", kept_cursor, "the same on one cursor kept open"),
                ],
                [
                    Comparison("pgmem", "bare", at_most=1.3),
                    Comparison("pgmem", "bare, kept cursor"),
                ],
                rounds=bench.counted(40, 8),
                warmup=2,
            )
        ]


@contextlib.contextmanager
def read_10000(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """`memory.events.read` of 10,000 events beside a bare SELECT that decodes the same rows."""
    count = 10_000
    with bench.postgres.database() as url, Memory(url) as memory, bare(url) as connection:
        for start in range(0, count, 1_000):
            memory.events.append(
                STREAM,
                [
                    Event(type=TYPE, payload=payload(number), agent_id=AGENT)
                    for number in range(start, start + 1_000)
                ],
            )
        connection.execute("VACUUM ANALYZE pgmem.events")
        select = sql.statement(
            "event_read",
            sql.Dialect("pgmem"),
            (("filter", "AND stream = %(stream)s"), ("direction", "ASC")),
        )
        window = {"after": 0, "until": 2**63 - 1, "stream": STREAM, "limit": count}

        def pgmem() -> list[int]:
            return [e.payload["n"] for e in memory.events.read(STREAM, limit=count)]

        def execute() -> list[int]:
            rows = connection.execute(select, window).fetchall()
            decoded = [
                (*row[:4], orjson.loads(row[4]), row[5], row[6] and orjson.loads(row[6]), row[7])
                for row in rows
            ]
            return [row[4]["n"] for row in decoded]

        def arm(name: str, call: Callable[[], list[int]], note: str) -> Arm:
            def once() -> Sample:
                found: list[int] = []
                value = median_time(lambda _: found.extend(call()), [0]) / 1_000
                return Sample(value, compare(range(count), found))

            return Arm(name, once, note)

        yield [
            Scenario(
                "read_10000",
                "read 10,000 events of a stream in one call, 1 client",
                "ms",
                [
                    arm("pgmem", pgmem, "memory.events.read(stream, limit=10_000)"),
                    arm("bare", execute, "the same SELECT, payload and metadata decoded"),
                ],
                [Comparison("pgmem", "bare")],
                rounds=bench.counted(30, 6),
                warmup=2,
            )
        ]


ENTRIES = (
    Entry("append_one", "append of one event beside the bare statement", append_one, (22, 6)),
    Entry("state_get", "get of one entry beside the bare SELECT", state_get, (10, 4)),
    Entry("read_10000", "read of 10,000 events beside the bare SELECT", read_10000, (8, 4)),
)
