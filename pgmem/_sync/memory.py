# Generated from pgmem/memory.py by tools/generate_sync.py. Do not edit.
"""`Memory`: the shared memory, and its face inside a transaction.

Puts the verb groups together; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import psycopg

from pgmem._sync.admin.stats import Statistics
from pgmem._sync.core.database import Database
from pgmem._sync.core.execution import PoolExecutor, TransactionExecutor
from pgmem._sync.core.notifications import TargetedNotifications
from pgmem._sync.dedupe.verbs import Dedupe, TransactionDedupe
from pgmem._sync.events.buffer import EventBuffer
from pgmem._sync.events.durable_lease import Consumers
from pgmem._sync.events.follower import LogFollower
from pgmem._sync.events.reader import LogReader
from pgmem._sync.events.verbs import Events
from pgmem._sync.folds.verbs import Snapshots
from pgmem._sync.groups.claims import GroupContext
from pgmem._sync.groups.verbs import Groups, TransactionGroups
from pgmem._sync.leases.limits import Limits
from pgmem._sync.leases.renewer import LeaseRenewer
from pgmem._sync.leases.verbs import Leases
from pgmem._sync.retention.janitor import Janitor
from pgmem._sync.retention.verbs import Retention
from pgmem._sync.state.verbs import State
from pgmem.admin.stats_models import Stats
from pgmem.core.encoding import DEFAULT_MAX_BYTES
from pgmem.core.names import check_schema_name
from pgmem.core.url import connection_string
from pgmem.core.validation import Seconds, check_count, check_name, check_seconds
from pgmem.errors import InvalidInput
from pgmem.events.codec import Codec, event_registry
from pgmem.events.models import Event
from pgmem.events.stable_position import StablePosition
from pgmem.state.cache import BoundCache, StateCache

Durability = Literal["strict", "relaxed"]

DEFAULT_POOL = (1, 10)


def _sizes(pool: int | tuple[int, int] | None) -> tuple[int, int]:
    """The least and the most connections of a pool."""
    if pool is None:
        return DEFAULT_POOL
    if isinstance(pool, int):
        pool = (min(1, pool), pool)
    if not (isinstance(pool, tuple) and len(pool) == 2):
        raise InvalidInput(f"pool= takes the most connections, or (least, most), got {pool!r}")
    least = check_count(pool[0], "pool's least", minimum=0)
    return least, check_count(pool[1], "pool's most", minimum=max(1, least))


class Memory:
    """A memory that several agents share, in a schema of a PostgreSQL database.

    Use it as a context manager, one for each process:

    >>> from pgmem import Memory, Event
    >>> with Memory(url) as memory:
    ...     receipt = memory.events.append("payments", Event(type="received"))
    ...     entry = memory.state.put("account:1", {"balance": 0})
    >>> entry.version
    1

    Args:
        url: a libpq URI or DSN, or a SQLAlchemy URL; None takes PGMEM_DATABASE_URL, then
            DATABASE_URL, then libpq's PG* variables.
        schema: the schema with pgmem's tables.
        durability: "strict" leaves synchronous_commit as the server has it; "relaxed" turns it
            off for pgmem's own transactions: much faster, and a crash of the server may lose the
            last fraction of a second (never more, never in another order).
        pool: the most connections, or the least and the most; None for 1 to 10.
        agent_id: who writes, for events that do not say.
        events: subclasses of `Event`: what is read of their types comes back as their instances.
        max_payload_bytes: limit of one payload, value, result or metadata as JSON text.
        timeout: how long to wait for a connection, in seconds or as a timedelta.
        listen_url: a direct way to the server where `url` goes through a pooler in transaction
            mode (PgBouncer), which delivers no notifications. Statements are not prepared through a
            pooler, with or without this.
        safety_poll: how often subscriptions look for events without having heard the doorbell,
            in seconds or as a timedelta: how late an event may be when a notification is lost.
        cache: keep copies of so many state entries in this process for `state.get`; None for
            none. The process sees its own writes at once; those of others, and its own inside
            `using()`, once the doorbell arrives, at most the safety poll late. While the log
            cannot be followed, every read asks the server. Entries with an end, and what was
            written with `record=False`, are never kept.
        janitor: apply the rules of retention in the background, every quarter of a minute or so,
            while no other process does.

    Raises:
        InvalidInput: an argument that is not allowed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        schema: str = "pgmem",
        durability: Durability = "strict",
        pool: int | tuple[int, int] | None = None,
        agent_id: str | None = None,
        events: Sequence[type[Event]] = (),
        max_payload_bytes: int = DEFAULT_MAX_BYTES,
        timeout: Seconds = 10.0,
        listen_url: str | None = None,
        safety_poll: Seconds = 1.0,
        cache: int | None = None,
        janitor: bool = False,
    ) -> None:
        if durability not in ("strict", "relaxed"):
            raise InvalidInput(f"durability is 'strict' or 'relaxed', got {durability!r}")
        self._database = Database(
            connection_string(url),
            schema=check_schema_name(schema),
            relaxed=durability == "relaxed",
            sizes=_sizes(pool),
            timeout=check_seconds(timeout, "timeout"),
            listen_conninfo=None if listen_url is None else connection_string(listen_url),
        )
        self._codec = Codec(
            check_count(max_payload_bytes, "max_payload_bytes", minimum=1, maximum=2**28 - 1),
            None if agent_id is None else check_name(agent_id, "agent_id"),
            event_registry(tuple(events)),
        )
        self._executor = PoolExecutor(self._database)
        # Whoever follows the log tells it what changes; until then it serves nothing.
        self._cache = None if cache is None else StateCache(check_count(cache, "cache", minimum=1))
        buffer, stable, notifications = (
            EventBuffer(),
            StablePosition(),
            TargetedNotifications(),
        )
        poll = check_seconds(safety_poll, "safety_poll")
        self._follower = LogFollower(
            self._database, buffer, stable, self._cache, notifications, safety_poll=poll
        )
        self._renewer = LeaseRenewer(
            self._executor, notifications, self._follower, safety_poll=poll
        )
        reader = LogReader(self._executor, stable, buffer, self._follower)
        self.events = Events(self._executor, self._codec, reader)
        self.state = State(self._executor, self._codec, self._cache, reader)
        self.dedupe = Dedupe(self._executor, self._codec)
        self.snapshots = Snapshots(self._executor, self._codec, self.events, self._cache)
        self.consumers = Consumers(self._executor)
        self.groups = Groups(
            GroupContext(reader, self._codec, notifications, poll, self.transaction, self.dedupe)
        )
        self.limits = Limits(self._executor)
        self.leases = Leases(self._executor, notifications, self._renewer, agent_id)
        self.retention = Retention(self._executor, reader, schema, self._codec.agent_id)
        self._janitor = Janitor(self.leases, self.retention) if janitor else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._database.where} schema={self._database.schema}>"

    def open(self) -> Self:
        """Connect and check the schema; the context manager does it.

        Raises:
            Unavailable: the server could not be reached within `timeout`.
            SchemaError: schema and library do not fit.
        """
        self._database.open()
        if self._cache is not None:
            self._follower.start()
        if self._janitor is not None:
            self._janitor.start()
        return self

    def close(self) -> None:
        """End the subscriptions and close every connection; the context manager does it."""
        if self._cache is not None:
            self._cache.fresh_until = 0.0
        if self._janitor is not None:
            self._janitor.close()
        self._renewer.close()
        self._follower.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def stats(self) -> Stats:
        """How the memory stands, for whoever runs the database; `pgmem stats` prints it.

        It costs a tenth of a second or two, however long the log is: what is large is counted in a
        sample, and says so. What the role may not see is None, and named in `hidden`.

        >>> stats = memory.stats()
        >>> stats.log.events, stats.hidden
        (Count(value=0, exact=True), ())
        """
        durability: Durability = "relaxed" if self._database.relaxed else "strict"
        return Statistics(self._executor).read(self._database.schema, durability)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction: all that is done in the block commits at its end, or nothing does.

        >>> with memory.transaction() as tx:
        ...     tx.state.put("order:1", {"paid": True})
        ...     tx.connection.execute("INSERT INTO invoices (order_id) VALUES (1)")

        Raises:
            TransactionConflict: the server undid it: run the whole block again.
            OutcomeUnknown: the connection was lost during the commit.
        """
        cache = self._bound_cache(settles=True)
        try:
            with self._executor.transaction("transaction") as executor:
                yield Transaction(executor, self._codec, cache, executor.connection())
        finally:
            if cache is not None:
                cache.settle()

    def using(self, connection: Any) -> BoundMemory:
        """The same face inside the caller's own transaction: the caller ends it.

        When that is, nobody tells: what it writes reaches the copies of `cache=` by the feed, as
        the writes of others do.

        Args:
            connection: a psycopg Connection, or a SQLAlchemy Connection or Session
                on the psycopg driver, in the database of this memory.

        Raises (at the first call on what it returns):
            InvalidInput: it is none of these, or it commits each statement by itself.
        """
        executor = TransactionExecutor(self._database, connection)
        return BoundMemory(executor, self._codec, self._bound_cache(settles=False))

    def _bound_cache(self, *, settles: bool) -> BoundCache | None:
        return None if self._cache is None else BoundCache(self._cache, settles=settles)


class BoundMemory:
    """The memory's face inside a transaction that somebody else ends."""

    def __init__(
        self, executor: TransactionExecutor, codec: Codec, cache: BoundCache | None
    ) -> None:
        self._executor = executor
        self.events = Events(executor, codec)
        self.state = State(executor, codec, cache)
        self.dedupe = TransactionDedupe(executor, codec)
        self.groups = TransactionGroups(executor, codec)
        self.limits = Limits(executor)
        self.snapshots = Snapshots(executor, codec, self.events, cache)


class Transaction(BoundMemory):
    """The memory's face inside `memory.transaction()`.

    Attributes:
        connection: the psycopg connection, for the caller's own rows.
    """

    def __init__(
        self,
        executor: TransactionExecutor,
        codec: Codec,
        cache: BoundCache | None,
        connection: psycopg.Connection[Any],
    ) -> None:
        super().__init__(executor, codec, cache)
        self.connection = connection
