"""Share what scenarios need: their servers, the payload, and reading back what was written.

The statements' texts come from `pgmem.core.statements`. The bare arms must do the same work in the
server as pgmem's own statement, with its notification, and a copy of the text would drift from it.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import orjson
import psycopg

from benchmarks import redis_server
from benchmarks.arms import right
from benchmarks.audit import Faults, compare
from benchmarks.figures import histogram
from benchmarks.harness import Arm, Kind, Sample, Scenario, Tier, of_times
from benchmarks.meter import Store, costs, timed
from benchmarks.redis_server import TIER_NAMES, Redis
from benchmarks.servers import Postgres
from pgmem import Memory
from pgmem.core import statements as sql

NOTE = "monthly rent for the flat in District 3"
STREAM = "payments"
TYPE = "payment.validated"
AGENT = "validator"

T = TypeVar("T")

Bare = psycopg.Connection[tuple[Any, ...]]


class Bench:
    """Provide what a group of scenarios runs on: servers with fresh data.

    Attributes:
        postgres: the server; `postgres.database()` makes a fresh database.
        quick: shorter rounds, fewer of them.
        rounds: the caller's number of rounds; None leaves it to the scenario.
        missing: what could not be measured, with the reason; see `leave_out`.
    """

    def __init__(
        self,
        postgres: Postgres,
        stack: contextlib.ExitStack,
        *,
        redis_url: str | None = None,
        quick: bool = False,
        rounds: int | None = None,
    ) -> None:
        self.postgres = postgres
        self.quick = quick
        self.rounds = rounds
        self.missing: dict[str, str] = {}
        self._stack = stack
        self._redis_url = redis_url
        self._redis: dict[Tier, Redis] = {}

    def counted(self, full: int, quick: int) -> int:
        """Return the number of rounds that count."""
        return self.rounds or (quick if self.quick else full)

    def redis(self, tier: Tier) -> Redis:
        """Return the Redis of a tier, which starts on first use.

        An arm that uses it has `prepare=redis.prepare`; see `Side.arm`.

        Raises:
            ServerError: it cannot be started or reached.
        """
        if tier not in self._redis:
            self._redis[tier] = self._stack.enter_context(redis_server.redis(tier, self._redis_url))
        return self._redis[tier]

    def store(self, side: Side) -> Store:
        """Return the server that works for a side."""
        return self.redis(side.tier) if side.kind in ("redis", "published") else self.postgres

    def leave_out(self, what: str, why: str) -> None:
        """Record that something is not measured, with the reason, for the report."""
        self.missing[what] = why


class Side(NamedTuple):
    """Describe an arm for the report; see `Arm`."""

    name: str
    kind: Kind
    tier: Tier
    note: str

    def arm(self, run: Callable[[], Sample], store: Store, *, excused: Sequence[str] = ()) -> Arm:
        """Return the arm that runs this on a server."""
        prepare = store.prepare if isinstance(store, Redis) else None
        return Arm(self.name, run, self.note, self.kind, self.tier, prepare, excused)


Setup = Callable[[Bench], AbstractContextManager[Sequence[Scenario]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """Describe a scenario group for the list.

    Attributes:
        name: as given to `--only`.
        title: what it compares, in a line.
        setup: makes its tables, connections and processes, and yields its scenarios.
        seconds: an estimate of its duration, full and quick, for the time left.
        peers: True if it compares with a peer, which `--peers` asks for.
        quick: True if a quick run includes it without its name.
        named: True if it runs only by name, because it takes long.
    """

    name: str
    title: str
    setup: Setup
    seconds: tuple[float, float]
    peers: bool = False
    quick: bool = True
    named: bool = False


SIZES = {"100 B": 100, "1 kB": 1_000, "10 kB": 10_000}
"""Payload sizes, as JSON text, for the scenarios that are about size."""


def median_time(call: Callable[[T], object], arguments: Sequence[T]) -> float:
    """Return the median time of calls one after another, in microseconds."""
    return statistics.median(timed(call, arguments)) / 1_000


def calling(
    store: Store,
    call: Callable[[T], object],
    arguments: Sequence[T],
    audit: Callable[[], Faults],
    *,
    each: int = 1,
) -> Sample:
    """Make calls one after another, timed and metered, and audit their results.

    Args:
        store: the server that works for them.
        call: the function to time.
        arguments: one for each call, made before the first call, outside of all times.
        audit: reads back what the calls did, outside of all figures.
        each: the number of events or entries of a call.
    """
    with costs(store) as spent:
        times = timed(call, arguments)
    return of_times(histogram(times), audit(), spent.figures(each * len(arguments)))


def payload(number: int, size: int = 0) -> dict[str, Any]:
    """Return a payment of about 200 bytes as JSON text, or of exactly `size` (100 or more)."""
    if size:
        short = {"n": number, "payment_id": f"PAY-2026-{number:010d}", "amount": 1_500_000}
        # The text of the filler's own key, quotes, colon and comma: `,"note":""`.
        filler = size - len(orjson.dumps(short)) - 10
        return {**short, "note": (NOTE * (filler // len(NOTE) + 1))[:filler]}
    return {
        "n": number,
        "payment_id": f"PAY-2026-{number:010d}",
        "account": "account:4711",
        "amount": 1_500_000,
        "currency": "VND",
        "checks": ["limit", "balance", "fraud"],
        "note": NOTE,
    }


def encoded(number: int) -> str:
    """Return `payload` as JSON text, as a program without pgmem would encode it."""
    return orjson.dumps(payload(number)).decode()


def params(value: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the append statement for a bare connection."""
    return {
        "stream": STREAM,
        "type": TYPE,
        "payload": orjson.dumps(value).decode(),
        "agent_id": AGENT,
        "metadata": None,
    }


def bare(url: str) -> Bare:
    """Open a psycopg connection with the best settings: autocommit, statements prepared at once."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=0)


def clients_of(bench: Bench, stack: contextlib.ExitStack) -> dict[Tier, Any]:
    """Open a client of the Redis of each tier; it is closed with the stack."""
    return {
        tier: stack.enter_context(contextlib.closing(right.connect(bench.redis(tier).url)))
        for tier in TIER_NAMES
    }


def memories_of(url: str, stack: contextlib.ExitStack) -> dict[Tier, Memory]:
    """Open a memory of each tier; it is closed with the stack."""
    return {
        "relaxed": stack.enter_context(Memory(url, durability="relaxed")),
        "strict": stack.enter_context(Memory(url)),
    }


def append_statement(connection: Bare, notify: sql.NotifyMode, *, small: bool = True) -> bytes:
    """Return the text of pgmem's append, with a notification ("if_free") or without ("never").

    The notification carries a small event as inline payload. The channel, which pgmem sends as a
    parameter, is part of the text.
    """
    row = connection.execute(sql.statement("schema_channel", sql.Dialect("pgmem"))).fetchone()
    assert row is not None
    dialect = sql.Dialect("pgmem", str(row[0]), notify)
    text = sql.statement("event_append", dialect, (sql.INLINE,) if small else ())
    return text.replace(b"%(channel)s", f"'{row[0]}'".encode())


# Without the notification and its CTE: the least that an append can be.
PLAIN_INSERT = (
    b"INSERT INTO pgmem.events (stream, type, payload, agent_id, metadata) VALUES"
    b" (%(stream)s, %(type)s, %(payload)s, %(agent_id)s, %(metadata)s) RETURNING position"
)


class Log:
    """Read back, on a connection of its own, what a round has written, and count its faults."""

    def __init__(self, url: str) -> None:
        self._connection = bare(url)
        self._numbers = itertools.count(1)

    def take(self, count: int) -> list[int]:
        """Return numbers that no event has yet."""
        return list(itertools.islice(self._numbers, count))

    def head(self) -> int:
        """Return the last position."""
        row = self._connection.execute("SELECT max(position) FROM pgmem.events").fetchone()
        return int(row[0] or 0) if row else 0

    def audit(self, after: int, acknowledged: Sequence[int]) -> Faults:
        """Count the faults of the events that were appended after a position."""
        return compare(acknowledged, self.found(after))

    def found(self, after: int) -> list[int]:
        """Return the numbers of the events after a position, in the order of the log."""
        rows = self._connection.execute(
            "SELECT (payload->>'n')::bigint FROM pgmem.events WHERE position > %s"
            " ORDER BY position",
            (after,),
        )
        return [row[0] for row in rows]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def log_of(url: str) -> Iterator[Log]:
    """Open a `Log` for the block."""
    log = Log(url)
    try:
        yield log
    finally:
        log.close()
