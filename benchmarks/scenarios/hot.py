"""Measure sixteen processes that update one key: lost increments, and starved processes.

Beside pgmem stands the least that is right: a transaction that locks the row, writes it and its
event, and commits. It does not promise fairness, and is for information.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence

from benchmarks.audit import Faults
from benchmarks.crew import Crew, crew, until
from benchmarks.harness import Arm, Comparison, Limit, Sample, Scenario
from benchmarks.scenarios._base import Bare, Bench, Entry, bare
from pgmem import Memory

PROCESSES, UPDATES = 16, 200


class Updater:
    """Run one process with a Memory and a bare connection."""

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=1, agent_id=f"updater-{number}").open()
        self._bare = bare(url)

    def go(self, order: str, start: float, argument: float) -> float:
        """Increment the key `UPDATES` times; return the seconds since `start`."""
        arm, _, key = order.partition("/")
        update = self.pgmem if arm == "pgmem" else self.locking
        until(start)
        for _ in range(int(argument)):
            update(key)
        return time.monotonic() - start

    def pgmem(self, key: str) -> None:
        """Increment through pgmem."""
        self._memory.state.update(key, lambda value: value + 1, max_retries=1_000)

    def locking(self, key: str) -> None:
        """Increment under the row lock."""
        with self._bare.transaction():
            row = self._bare.execute(
                "SELECT value::text, version FROM pgmem.state WHERE key = %s FOR UPDATE", (key,)
            ).fetchone()
            assert row is not None
            self._bare.execute(
                "WITH changed AS (UPDATE pgmem.state SET value = %(value)s,"
                " version = %(version)s, updated_at = clock_timestamp() WHERE key = %(key)s)"
                " INSERT INTO pgmem.events"
                " (stream, type, payload, state_key, state_version)"
                " VALUES ('state:' || %(key)s, 'state.put', %(value)s, %(key)s, %(version)s)",
                {"key": key, "value": str(int(row[0]) + 1), "version": row[1] + 1},
            )

    def close(self) -> None:
        """Close both connections."""
        self._memory.close()
        self._bare.close()


@contextlib.contextmanager
def update_hot_key(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run 16 processes with 200 updates each, all of one key."""
    updates = 40 if bench.quick else UPDATES
    with (
        bench.postgres.database() as url,
        Memory(url) as memory,
        bare(url) as connection,
        crew(Updater, PROCESSES, url) as updaters,
    ):
        keys = (f"counter:{n}" for n in itertools.count())

        def arm(name: str, note: str) -> Arm:
            def once() -> Sample:
                key = next(keys)
                memory.state.put(key, 0)
                return _race(updaters, connection, name, key, updates)

            return Arm(name, once, note)

        yield [
            Scenario(
                "update_hot_key",
                f"{PROCESSES} processes × {updates} increments of one key, strict",
                "s",
                [
                    arm("pgmem", "memory.state.update(key, +1)"),
                    arm("row lock", "SELECT … FOR UPDATE, UPDATE and INSERT, COMMIT"),
                ],
                [Comparison("pgmem", "row lock")],
                [Limit("pgmem", "slowest / median", 3.0)],
                rounds=bench.counted(3, 2),
                warmup=1,
            )
        ]


def _race(updaters: Crew, connection: Bare, arm: str, key: str, updates: int) -> Sample:
    times = updaters.run(f"{arm}/{key}", updates)
    wanted = PROCESSES * updates
    row = connection.execute(
        "SELECT value::text::bigint, version,"
        " (SELECT count(*) FROM pgmem.events WHERE state_key = %(key)s AND state_version > 1)"
        " FROM pgmem.state WHERE key = %(key)s",
        {"key": key},
    ).fetchone()
    assert row is not None
    value, version, events = row
    faults = Faults(
        lost=max(0, wanted - value),
        duplicated=max(0, value - wanted),
        torn=abs(version - 1 - value) + abs(events - value),
    )
    median = statistics.median(times)
    figures = {"slowest / median": max(times) / median, "fastest / median": min(times) / median}
    return Sample(max(times), faults, figures)


ENTRIES = (
    Entry(
        "update_hot_key",
        "update of one key by 16 processes: none lost, none starved",
        update_hot_key,
        (55, 15),
        quick=False,
    ),
)
