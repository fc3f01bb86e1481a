"""Measure if the tables of a group keep their size through a million deliveries.

A group stores only what is open, so its rows are written again and again, and each write leaves a
dead row. What pruning and autovacuum do not remove in time shows here: after each 50,000 deliveries
the sizes of its tables with their indexes, and the rows that the server counts as dead. Four
members work at once; one delivery in 1,000 is given back and comes again. The log itself, which
grows with each event, is not in the figures.

It takes minutes, so it runs only by name. Redis has no arm, because it has no such rows.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

from benchmarks.audit import compare_once
from benchmarks.crew import Crew, crew
from benchmarks.harness import Arm, Course, Limit, Sample, Scenario
from benchmarks.scenarios._base import AGENT, TYPE, Bare, Bench, Entry, bare, encoded
from benchmarks.scenarios._members import IDLE, LEASE, End, PgmemStore
from pgmem import Delivery, Memory

STEPS = {100: 50_000, 10: 50_000, 1: 5_000}
"""Size of a batch to the deliveries of a round."""
ROUNDS = 20
MEMBERS = 4
GIVEN_BACK = 0.001
SETTLED = 4
"""Rounds until the tables have the size that they should keep."""
LABEL = "work"
TABLES = ("batches", "groups", "delayed")
GREW, DEAD = "size / size of the fourth round", "dead rows"

_FILL = (
    "INSERT INTO pgmem.events (stream, type, payload, agent_id)"
    " SELECT %(stream)s, %(type)s,"
    " replace(%(payload)s, '\"n\":0,', '\"n\":' || n || ',')::json, %(agent)s"
    " FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n ORDER BY n"
)
_TABLES = (
    b"SELECT relname, pg_total_relation_size(relid), n_dead_tup, n_tup_upd, n_tup_hot_upd,"
    b" autovacuum_count FROM pg_stat_user_tables"
    b" WHERE schemaname = 'pgmem' AND relname = ANY (%s)"
)


class Worker:
    """Run one member's process; its orders' argument is the size of a batch.

    Args:
        number, url: as a `WorkFactory` has them.
    """

    def __init__(self, number: int, url: str) -> None:
        self._memory = Memory(url, pool=1, durability="relaxed").open()
        self._group = self._memory.groups.create(LABEL, stream=LABEL, exist_ok=True)
        self._consumer = f"member-{number}"
        self._rng = random.Random(number)  # noqa: S311  # no secret

    def go(self, order: str, start: float, argument: float) -> list[int]:
        """Work until no event is delivered any more; return the acknowledged numbers."""
        done: list[int] = []
        held: list[Delivery] = []
        while True:
            deliveries = self._group.read(
                self._consumer,
                limit=int(argument),
                timeout=0.0 if held else IDLE,
                lease=LEASE,
                ack=held,
            )
            done += [delivery.event.payload["n"] for delivery in held]
            if not deliveries and not held:
                break
            held = []
            for delivery in deliveries:
                if self._rng.random() < GIVEN_BACK:
                    delivery.nack()
                else:
                    held.append(delivery)
        with self._memory.transaction() as tx:
            # Otherwise the server reports the last statistics only after a while.
            tx.connection.execute("SELECT pg_stat_force_next_flush()")
        return done

    def close(self) -> None:
        """Close the memory."""
        self._memory.close()


class Measure:
    """Send a round's events through a group, and measure its tables.

    Args:
        url: of the group's database.
        workers: its members.
        batch, step: the size of a batch, and the events of a round.
        stack: closes what is opened.
    """

    def __init__(
        self, url: str, workers: Crew, batch: int, step: int, stack: contextlib.ExitStack
    ) -> None:
        self._workers = workers
        self._batch = batch
        self._step = step
        self._connection = stack.enter_context(bare(url))
        memory = stack.enter_context(Memory(url, pool=1, durability="relaxed"))
        self._store = PgmemStore(memory, End("pgmem", url, "relaxed"))
        self._last = 0
        self._sizes: list[int] = []

    def __call__(self) -> Sample:
        """Run one round."""
        numbers = range(self._last + 1, self._last + self._step + 1)
        self._last = numbers[-1]
        fill(self._connection, numbers[:-1])
        self._store.append(LABEL, numbers[-1:])  # The notification that wakes waiting members.
        answers: list[list[int]] = self._workers.run("work", self._batch)
        done = [number for answer in answers for number in answer]
        faults = compare_once(numbers, done, self._store.left(LABEL))
        figures = look(self._connection)
        size = round(sum(figures[f"{table}, kB"] for table in TABLES))
        self._sizes.append(size)
        figures[GREW] = size / self._sizes[:SETTLED][-1]
        return Sample(size, faults, figures)


def fill(connection: Bare, numbers: range) -> None:
    """Append events with these numbers."""
    values = {"stream": LABEL, "type": TYPE, "payload": encoded(0), "agent": AGENT}
    connection.execute(_FILL, {**values, "first": numbers[0], "last": numbers[-1]})


def look(connection: Bare) -> dict[str, float]:
    """Return the figures of the tables of all groups."""
    figures: dict[str, float] = {DEAD: 0.0}
    updated = in_place = vacuumed = 0
    for table, size, dead, updates, hot, vacuums in connection.execute(_TABLES, [list(TABLES)]):
        figures[f"{table}, kB"] = size / 1024
        figures[f"{table}, dead rows"] = dead
        figures[DEAD] += dead
        updated, in_place, vacuumed = updated + updates, in_place + hot, vacuumed + vacuums
    figures["updates in place (HOT), %"] = 100 * in_place / max(1, updated)
    figures["autovacuums so far"] = vacuumed
    return figures


@contextlib.contextmanager
def growth(bench: Bench) -> Iterator[Sequence[Scenario]]:
    """Run batches of 100, 10 and 1, each with a group and a database of its own."""
    with contextlib.ExitStack() as stack:
        yield [_scenario(bench, stack, batch, step) for batch, step in STEPS.items()]


def _scenario(bench: Bench, stack: contextlib.ExitStack, batch: int, step: int) -> Scenario:
    url = stack.enter_context(bench.postgres.database())
    workers = stack.enter_context(crew(Worker, MEMBERS, url))
    measure = Measure(url, workers, batch, step, stack)
    name = "pgmem relaxed"
    rounds = bench.counted(ROUNDS, 3)
    note = f"group.read(ack=…), one in {1 / GIVEN_BACK:,.0f} given back"
    return Scenario(
        f"group_growth/batches of {batch}",
        f"the tables of a group after each {step:,} deliveries: {MEMBERS} members, batches of "
        f"{batch} ({rounds * step:,} deliveries in all)",
        "kB",
        [Arm(name, measure, note, tier="relaxed")],
        limits=[Limit(name, GREW, 1.5, always=True), Limit(name, DEAD, 10_000, always=True)],
        rounds=rounds,
        warmup=0,
        course=Course(step, "deliveries"),
    )


ENTRIES = (
    Entry(
        "group_growth",
        "1,000,000 deliveries through a group: do its tables keep their size?",
        growth,
        (420, 60),
        named=True,
    ),
)
