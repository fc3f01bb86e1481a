"""Define the ways from writers to readers that fan-out compares, and their processes.

A way is a promise (its tier), a method to append, and a method to follow. The processes of a shape
hold all of its ways, and connections for each.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.crew import Crew, Work, WorkFactory, crew, together
from benchmarks.harness import Kind, Tier
from benchmarks.meter import Store
from benchmarks.scenarios._base import Bench
from benchmarks.scenarios._following import (
    AsyncReader,
    BareReader,
    Lane,
    Received,
    SyncReader,
    Writer,
)
from benchmarks.scenarios._following_redis import PublishedReader, RedisReader


class Shape(NamedTuple):
    """Hold how many processes write and how many follow.

    Attributes:
        writers, readers: the numbers of processes.
        rate: events a second of all writers, if they are paced.
        rounds: the number of rounds that count: most where there are targets.
    """

    writers: int
    readers: int
    rate: int
    rounds: int

    @property
    def name(self) -> str:
        """The part of `Scenario.name` for it."""
        return f"{self.writers}-{self.readers}"

    @property
    def text(self) -> str:
        """The shape in words."""
        return f"{_processes(self.writers, 'writer')}, {_processes(self.readers, 'reader')}"


def _processes(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"


ONE, TO_TEN, FROM_16, ALL = SHAPES = (
    Shape(1, 1, 400, 5),
    Shape(1, 10, 200, 3),
    Shape(16, 1, 1_700, 4),
    Shape(16, 16, 400, 3),
)
REHEARSED, REHEARSAL = 6, 0.01
"""Events of each writer before the first round of a shape, and the seconds between them.

psycopg prepares a statement after five executions.
"""


@dataclass(frozen=True, slots=True)
class Way:
    """Define one way from writers to readers.

    Attributes:
        name: of the arm.
        kind, tier: as an `Arm` has them.
        note: a description for the report.
        reader: its class, if it does not follow from the kind.
    """

    name: str
    kind: Kind
    tier: Tier
    note: str
    reader: WorkFactory | None = None

    def lane(self, url: str, key: str) -> Lane:
        """Return how its writers append."""
        if self.kind == "redis":
            return Lane("redis", url, key=key)
        if self.kind == "published":
            return Lane("published", url, key=key)
        if self.kind == "floor":
            return Lane("notifying", url)
        return Lane("pgmem", url, "relaxed" if self.tier == "relaxed" else "strict")

    def follower(self, key: str) -> WorkFactory:
        """Return the factory of its readers."""
        if self.kind == "redis":
            return functools.partial(RedisReader, key=key)
        if self.kind == "published":
            return functools.partial(PublishedReader, prefix=key)
        return self.reader or SyncReader


_BLOCKED = "XADD, each reader blocked in XREAD, "
STRICT = Way("pgmem", "pgmem", "strict", "events.append, `for event in subscribe()`, strict")
ALWAYS = Way("redis always", "redis", "strict", f"{_BLOCKED}appendfsync always")
RELAXED = Way("pgmem relaxed", "pgmem", "relaxed", 'the same, durability="relaxed"')
EVERYSEC = Way("redis everysec", "redis", "relaxed", f"{_BLOCKED}appendfsync everysec")
NONE = Way("redis none", "redis", "none", f"{_BLOCKED}no persistence")
PUBLISHED = Way(
    "published",
    "published",
    "none",
    "write_event (XADD maxlen=10000, HSET), read_events; no persistence",
)
ASYNC = Way("pgmem async", "pgmem", "strict", "strict, followed by an AsyncMemory", AsyncReader)
FLOOR = Way(
    "bare", "floor", "strict", "psycopg: pgmem's statement, LISTEN, poll(), strict", BareReader
)
EQUAL = (STRICT, ALWAYS, RELAXED, EVERYSEC)
FURTHER = {ONE: (NONE, ASYNC, FLOOR), FROM_16: (NONE,)}
"""Further ways of the paced rounds, by shape."""


def compared(bench: Bench, shape: Shape) -> Sequence[Way]:
    """Return the compared ways; a quick run leaves out relaxed ones without a target.

    Args:
        bench: the settings of the run.
        shape: targets exist for shapes with one reader.
    """
    return EQUAL if shape.readers == 1 or not bench.quick else EQUAL[:2]


class Reader:
    """Run one reader process, with a follower for each way; see `_following` for the orders.

    Args:
        followers: the factory and the address of each follower, by the name of the way.
        number, url: as a `WorkFactory` has them.
    """

    def __init__(
        self, followers: Mapping[str, tuple[WorkFactory, str]], number: int, url: str
    ) -> None:
        self._works: dict[str, Work] = {
            name: make(number, at) for name, (make, at) in followers.items()
        }

    def go(self, order: str, start: float, argument: float) -> Received:
        """Follow by the way that the order names, until every writer has sent its last event."""
        received: Received = self._works[order].go(order, start, argument)
        return received

    def close(self) -> None:
        """Close all of them."""
        for work in self._works.values():
            work.close()


class Cast(NamedTuple):
    """Hold the processes of a shape, and the stores by the names of the ways."""

    writers: Crew
    readers: Crew
    stores: Mapping[str, Store]


class Stage:
    """Keep the processes and databases of one shape at a time, and start them on demand.

    All shapes at once would slow each other down: each idle Memory polls once a second.
    """

    def __init__(self, bench: Bench, stack: contextlib.ExitStack) -> None:
        self._bench = bench
        self._stack = stack.enter_context(contextlib.ExitStack())
        self._shape: Shape | None = None
        self._cast: Cast | None = None

    def cast(self, shape: Shape) -> Cast:
        """Return the processes of a shape; those of the shape before end."""
        if self._cast is None or self._shape != shape:
            self._stack.close()
            self._shape, self._cast = shape, self._enter(shape)
        return self._cast

    def _enter(self, shape: Shape) -> Cast:
        lanes: dict[str, Lane] = {}
        followers: dict[str, tuple[WorkFactory, str]] = {}
        stores: dict[str, Store] = {}
        for way in (*compared(self._bench, shape), *FURTHER.get(shape, ()), PUBLISHED):
            if way.kind in ("redis", "published"):
                redis = self._bench.redis(way.tier)
                url, key = redis.url, redis.key(f"fanout-{shape.name}-{way.kind}")
                stores[way.name] = redis
            else:
                url, key = self._stack.enter_context(self._bench.postgres.database()), ""
                stores[way.name] = self._bench.postgres
            lanes[way.name] = way.lane(url, key)
            followers[way.name] = way.follower(key), url
        writers = self._stack.enter_context(crew(functools.partial(Writer, lanes), shape.writers))
        readers = self._stack.enter_context(
            crew(functools.partial(Reader, followers), shape.readers)
        )
        for name in lanes:
            # A connection's first statements are slow, and a short round could not absorb them.
            together(
                (readers, name, shape.writers), (writers, f"pace/{name}/{REHEARSED}", REHEARSAL)
            )
        return Cast(writers, readers, stores)
