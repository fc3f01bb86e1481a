"""Measure if notifications cost group commit with thirty-two writer processes.

Each process appends single events for some seconds, with a Memory of its own or with a bare
connection that never notifies. The compared figure is the sum over all processes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from benchmarks.audit import Faults, compare_counts
from benchmarks.crew import Crew, crew, until
from benchmarks.harness import Arm, Comparison, Sample, Scenario
from benchmarks.scenarios._base import (
    AGENT,
    PLAIN_INSERT,
    STREAM,
    TYPE,
    Bare,
    Bench,
    Entry,
    append_statement,
    bare,
    params,
    payload,
)
from pgmem import Event, Memory

PROCESSES = 32


class Writer:
    """Run one process with a Memory, a bare connection and a number."""

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=1).open()
        self._bare = bare(url)
        self._notifying = append_statement(self._bare, "if_free")
        self._next = number * 1_000_000_000

    def go(self, order: str, start: float, argument: float) -> int:
        """Append for `argument` seconds; return the number of acknowledged events."""
        append = {"pgmem": self.pgmem, "bare": self.plain, "notifying": self.notifying}[order]
        end = start + argument
        done = 0
        until(start)
        while time.monotonic() < end:
            append(self._next)
            self._next += 1
            done += 1
        return done

    def pgmem(self, number: int) -> None:
        """Append through pgmem."""
        self._memory.events.append(
            STREAM, Event(type=TYPE, payload=payload(number), agent_id=AGENT)
        )

    def plain(self, number: int) -> None:
        """Append without a notification."""
        self._bare.execute(PLAIN_INSERT, params(payload(number))).fetchone()

    def notifying(self, number: int) -> None:
        """Append with pgmem's own statement, without pgmem."""
        self._bare.execute(self._notifying, params(payload(number))).fetchone()

    def close(self) -> None:
        """Close both connections."""
        self._memory.close()
        self._bare.close()


@contextlib.contextmanager
def append_32(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run 32 processes with a Memory each beside 32 bare ones without notifications."""
    seconds = 1.0 if bench.quick else 3.0
    with (
        bench.postgres.database() as url,
        bare(url) as connection,
        crew(Writer, PROCESSES, url) as writers,
    ):

        def arm(name: str, order: str, note: str) -> Arm:
            return Arm(name, lambda: _together(writers, connection, order, seconds), note)

        yield [
            Scenario(
                "append_32",
                f"append single events by {PROCESSES} processes, strict ({seconds:g} s a round)",
                "events/s",
                [
                    arm("pgmem", "pgmem", "memory.events.append, pool=1"),
                    arm("bare, no notification", "bare", "INSERT … RETURNING position"),
                    arm("bare", "notifying", "pgmem's statement on a bare connection"),
                ],
                [
                    Comparison("pgmem", "bare, no notification", at_most=1 / 0.8),
                    Comparison("bare", "bare, no notification"),
                    Comparison("pgmem", "bare"),
                ],
                rounds=bench.counted(5, 3),
            )
        ]


def _together(writers: Crew, connection: Bare, order: str, seconds: float) -> Sample:
    head = _number(connection, "SELECT coalesce(max(position), 0) FROM pgmem.events")
    acknowledged = sum(writers.run(order, seconds))
    found = connection.execute(
        "SELECT count(*), count(DISTINCT payload->>'n') FROM pgmem.events WHERE position > %s",
        (head,),
    ).fetchone()
    assert found is not None
    faults: Faults = compare_counts(acknowledged, found[0], found[1])
    return Sample(acknowledged / seconds, faults)


def _number(connection: Bare, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


ENTRIES = (
    Entry(
        "append_32",
        "append by 32 processes beside 32 without a notification",
        append_32,
        (70, 25),
        quick=False,
    ),
)
