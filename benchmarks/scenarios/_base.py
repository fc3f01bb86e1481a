"""What scenarios share: the bench they run on, the payload, and reading back what was written.

The statements' texts come from `pgmem.sql`: the bare arms must do the same work in the server as
pgmem's own statement, bell and all, and a copy of the text here would drift from it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg

from benchmarks.audit import Faults, compare
from benchmarks.harness import Scenario
from benchmarks.servers import Postgres, Redis
from pgmem import sql

STREAM = "payments"
TYPE = "payment.validated"
AGENT = "validator"

Bare = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario runs on.

    Attributes:
        postgres: the server; `postgres.database()` makes a fresh database.
        redis: the Redis of this run; None if no chosen scenario needs it.
        quick: shorter rounds, fewer of them.
        rounds: how many rounds the caller wants; None leaves it to the scenario.
    """

    postgres: Postgres
    redis: Redis | None = None
    quick: bool = False
    rounds: int | None = None

    def counted(self, full: int, quick: int) -> int:
        """The number of rounds that count."""
        return self.rounds or (quick if self.quick else full)


Setup = Callable[[Bench], AbstractContextManager[Sequence[Scenario]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A scenario group as it is listed.

    Attributes:
        name: as given to `--only`.
        title: what it compares, in a line.
        setup: makes its tables, connections and processes, and gives its scenarios.
        seconds: a guess of how long it takes, full and quick; for the time left.
        redis: whether it needs a Redis.
    """

    name: str
    title: str
    setup: Setup
    seconds: tuple[float, float]
    redis: bool = False


def payload(number: int) -> dict[str, Any]:
    """A payment of about 200 bytes as JSON text."""
    return {
        "n": number,
        "payment_id": f"PAY-2026-{number:010d}",
        "account": "account:4711",
        "amount": 1_500_000,
        "currency": "VND",
        "checks": ["limit", "balance", "fraud"],
        "note": "monthly rent for the flat in District 3",
    }


def encoded(number: int) -> str:
    """`payload` as JSON text, made as a program without pgmem would."""
    return orjson.dumps(payload(number)).decode()


def params(number: int) -> dict[str, Any]:
    """The parameters of the append statement for a bare connection."""
    return {
        "stream": STREAM,
        "type": TYPE,
        "payload": encoded(number),
        "agent_id": AGENT,
        "metadata": None,
    }


def bare(url: str) -> Bare:
    """A psycopg connection at its best practice: autocommit, statements prepared at once."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=0)


def append_statement(connection: Bare, bell: sql.Bell) -> bytes:
    """The text of pgmem's append of a small event, with the bell ("try") or without ("silent").

    The channel, which pgmem sends as a parameter, is written into it.
    """
    row = connection.execute(sql.statement("schema_channel", sql.Dialect("pgmem"))).fetchone()
    assert row is not None
    dialect = sql.Dialect("pgmem", str(row[0]), bell)
    text = sql.statement("event_append", dialect, (sql.INLINE,))
    return text.replace(b"%(channel)s", f"'{row[0]}'".encode())


# Without the bell, and without the CTE that pgmem needs for it: the least that an append can be.
PLAIN_INSERT = (
    b"INSERT INTO pgmem.events (stream, type, payload, agent_id, metadata) VALUES"
    b" (%(stream)s, %(type)s, %(payload)s, %(agent_id)s, %(metadata)s) RETURNING position"
)


class Log:
    """Reads back, on a connection of its own, what a round has written, and says what is wrong."""

    def __init__(self, url: str) -> None:
        self._connection = bare(url)
        self._numbers = itertools.count(1)

    def take(self, count: int) -> list[int]:
        """Numbers that no event has yet."""
        return list(itertools.islice(self._numbers, count))

    def head(self) -> int:
        """The last position."""
        row = self._connection.execute("SELECT max(position) FROM pgmem.events").fetchone()
        return int(row[0] or 0) if row else 0

    def audit(self, after: int, acknowledged: Sequence[int]) -> Faults:
        """What became of the events that were appended behind a position."""
        rows = self._connection.execute(
            "SELECT (payload->>'n')::bigint FROM pgmem.events WHERE position > %s"
            " ORDER BY position",
            (after,),
        )
        return compare(acknowledged, [row[0] for row in rows])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def log_of(url: str) -> Iterator[Log]:
    """A `Log`, closed after the block."""
    log = Log(url)
    try:
        yield log
    finally:
        log.close()
