"""Put the verb groups together: `AsyncMemory`.

Groups of verbs that few programs use are imported when they are first used, because importing them
takes as long as a quarter of the library. Two threads at that moment may both make one. That is
harmless, because a group of verbs holds no state that must exist once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pgmem.core.context import WriteContext
from pgmem.core.database import AsyncDatabase
from pgmem.core.encoding import DEFAULT_MAX_BYTES, check_default
from pgmem.core.execution import AsyncPoolExecutor
from pgmem.core.names import check_schema_name
from pgmem.core.notifications import AsyncTargetedNotifications
from pgmem.core.transaction import AsyncTransactionExecutor
from pgmem.core.url import connection_string
from pgmem.core.validation import Seconds, check_count, check_seconds
from pgmem.dedupe.renewer import AsyncClaimRenewer
from pgmem.dedupe.verbs import AsyncDedupe
from pgmem.errors import InvalidInput
from pgmem.events.buffer import AsyncEventBuffer
from pgmem.events.codec import Codec
from pgmem.events.event_classes import event_registry
from pgmem.events.follower import AsyncLogFollower
from pgmem.events.history_check import AsyncHistoryCheck
from pgmem.events.models import Event
from pgmem.events.reader import AsyncLogReader
from pgmem.events.subscriptions import AsyncSubscriptions
from pgmem.events.verbs import AsyncEvents
from pgmem.leases.limits import AsyncLimits
from pgmem.leases.renewer import AsyncLeaseRenewer
from pgmem.leases.verbs import AsyncLeases
from pgmem.state.cache import StateCache
from pgmem.state.schemas import add_schema
from pgmem.state.verbs import AsyncState
from pgmem.transaction import AsyncBoundMemory, AsyncTransactions

# ruff: noqa: PLC0415  # the imports inside properties

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pgmem.admin.stats_models import Stats
    from pgmem.digest.models import Digest
    from pgmem.folds.verbs import AsyncFolds
    from pgmem.groups.verbs import AsyncGroups
    from pgmem.retention.janitor import AsyncJanitor
    from pgmem.retention.verbs import AsyncRetention

Durability = Literal["strict", "relaxed"]

DEFAULT_POOL = (1, 10)


def _sizes(pool: int | tuple[int, int] | None) -> tuple[int, int]:
    """Return the least and the most connections of a pool."""
    if pool is None:
        return DEFAULT_POOL
    if isinstance(pool, int):
        pool = (min(1, pool), pool)
    if not (isinstance(pool, tuple) and len(pool) == 2):
        raise InvalidInput(f"pool= takes the most connections, or (least, most), got {pool!r}")
    least = check_count(pool[0], "pool's least", minimum=0)
    return least, check_count(pool[1], "pool's most", minimum=max(1, least))


class AsyncMemory(AsyncTransactions):
    """Share events and state between agents, in a schema of a PostgreSQL database.

    Use it as a context manager, one for each process:

    >>> from pgmem import AsyncMemory, Event
    >>> async with AsyncMemory(url) as memory:
    ...     receipt = await memory.events.append("payments", Event(type="received"))
    ...     entry = await memory.state.put("account:1", {"balance": 0})
    >>> entry.version
    1

    Args:
        url: a libpq URI or DSN, or a SQLAlchemy URL. None takes PGMEM_DATABASE_URL, then
            DATABASE_URL, then libpq's PG* variables.
        schema: the schema with pgmem's tables.
        durability: "strict" leaves synchronous_commit as the server has it. "relaxed" turns it
            off for pgmem's own transactions. That is much faster, and a crash of the server may
            lose the last fraction of a second, never more and never out of order.
        pool: the most connections, or the least and the most. None for 1 to 10.
        agent_id: the writing agent, for events that do not name one.
        run_id: the agent's run. It is written into the metadata of events as "run_id".
        events: subclasses of `Event`. Events of their types are read as their instances.
        max_payload_bytes: limit of one payload, value, result or metadata as JSON text.
        default: a function that returns a JSON value for an object that is none, as `default=` of
            `json.dumps`. What it returns is stored, and comes back. Without it, such an object is
            refused. Pydantic models are not given to it.
        timeout: how long the database may take for a call, in seconds or as a timedelta: the wait
            for a connection, and for the answers. A write that is given up raises `OutcomeUnknown`,
            unless a second one is harmless. In a transaction, the caller's own too, it ends the
            transaction. It does not bound snapshots, trims and statistics of much data, nor the
            caller's own statements.
        listen_url: a direct way to the server if `url` goes through a pooler in transaction mode
            (PgBouncer), which delivers no notifications. Statements are not prepared through a
            pooler, with or without this.
        safety_poll: how often subscriptions poll without a notification, in seconds or as a
            timedelta. If a notification is lost, an event is late by at most this much, or by ten
            times this after 10 s without an event on a connection that receives notifications.
        cache: how many state entries to cache in this process for `state.get`. None for no cache.
            The process sees its own writes at once. Writes of others, and its own through
            `using()`, are seen after a notification, at most `safety_poll` late. While the log
            cannot be followed, every read asks the server. Entries with a TTL and entries written
            with `record=False` are not cached.
        janitor: apply the retention policies in the background, about every 15 seconds, while no
            other process does.

    Raises:
        InvalidInput: an argument is not allowed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        schema: str = "pgmem",
        durability: Durability = "strict",
        pool: int | tuple[int, int] | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        events: Sequence[type[Event]] = (),
        max_payload_bytes: int = DEFAULT_MAX_BYTES,
        default: Callable[[Any], Any] | None = None,
        timeout: Seconds = 10.0,
        listen_url: str | None = None,
        safety_poll: Seconds = 1.0,
        cache: int | None = None,
        janitor: bool = False,
    ) -> None:
        if durability not in ("strict", "relaxed"):
            raise InvalidInput(f"durability is 'strict' or 'relaxed', got {durability!r}")
        self._database = AsyncDatabase(
            connection_string(url),
            schema=check_schema_name(schema),
            relaxed=durability == "relaxed",
            sizes=_sizes(pool),
            timeout=check_seconds(timeout, "timeout"),
            listen_conninfo=None if listen_url is None else connection_string(listen_url),
        )
        self._codec = Codec(
            check_count(max_payload_bytes, "max_payload_bytes", minimum=1, maximum=2**28 - 1),
            WriteContext(agent_id, run_id),
            event_registry(tuple(events)),
            check_default(default),
        )
        self._agent_id = agent_id
        self._executor = AsyncPoolExecutor(self._database)
        # Empty until the follower keeps it current.
        self._cache = None if cache is None else StateCache(check_count(cache, "cache", minimum=1))
        buffer = AsyncEventBuffer()
        check = AsyncHistoryCheck(self._database, buffer)
        self._notifications = AsyncTargetedNotifications()
        self._safety_poll = check_seconds(safety_poll, "safety_poll")
        self._follower = AsyncLogFollower(
            self._database,
            buffer,
            self._cache,
            self._notifications,
            check,
            safety_poll=self._safety_poll,
        )
        self._renewer = AsyncLeaseRenewer(
            self._executor, self._notifications, self._follower, safety_poll=self._safety_poll
        )
        self._reader = AsyncLogReader(self._executor, buffer, self._follower, check)
        self._claims = AsyncClaimRenewer(self._executor)
        self._is_view = False
        self._make_verbs()
        self._janitor = self._make_janitor() if janitor else None

    def _make_verbs(self) -> None:
        """Make the verb groups that write in the name of this memory's agent."""
        self.events = AsyncEvents(self._executor, self._codec, self._reader)
        self.state = AsyncState(self._executor, self._codec, self._cache, self.events, self._reader)
        self.dedupe = AsyncDedupe(self._executor, self._codec, self._claims)
        self.subscriptions = AsyncSubscriptions(self._executor)
        self.leases = AsyncLeases(
            self._executor, self._notifications, self._renewer, self._agent_id
        )
        self.limits = AsyncLimits(self._executor)

    @cached_property
    def groups(self) -> AsyncGroups:
        """Consumer groups."""
        from pgmem.groups.claims import AsyncGroupContext
        from pgmem.groups.verbs import AsyncGroups

        return AsyncGroups(
            AsyncGroupContext(
                self._reader,
                self._codec,
                self._notifications,
                self._safety_poll,
                self.transaction,
                self.dedupe,
            )
        )

    @cached_property
    def folds(self) -> AsyncFolds:
        """Values that are computed from events."""
        from pgmem.folds.verbs import AsyncFolds

        return AsyncFolds(self._executor, self._codec, self.events)

    @cached_property
    def retention(self) -> AsyncRetention:
        """Retention policies, trims and archives."""
        from pgmem.retention.verbs import AsyncRetention

        return AsyncRetention(self._executor, self._reader, self._database.schema, self._agent_id)

    def _make_janitor(self) -> AsyncJanitor:
        from pgmem.retention.janitor import AsyncJanitor

        return AsyncJanitor(self.leases, self.retention)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._database.where} schema={self._database.schema}>"

    async def open(self) -> Self:
        """Connect and check the schema. The context manager does it.

        Raises:
            Unavailable: the server could not be reached within `timeout`.
            SchemaError: schema and library do not fit.
        """
        if self._is_view:
            return self
        await self._database.open()
        self._follower.reopen()
        self._renewer.reopen()
        if self._cache is not None:
            self._follower.start()
        if self._janitor is not None:
            self._janitor.start()
        return self

    async def close(self) -> None:
        """End the subscriptions and close every connection. The context manager does it."""
        if self._is_view:
            return
        if self._cache is not None:
            self._cache.fresh_until = 0.0
        if self._janitor is not None:
            await self._janitor.close()
        await self._claims.close()
        await self._renewer.close()
        await self._follower.close()
        await self._database.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def stats(self) -> Stats:
        """Return statistics for operators. `pgmem stats` prints them.

        It takes 0.1 to 0.2 s however long the log is, because large tables are sampled. A count
        from a sample says so. A figure that the role may not see is None and named in `hidden`.

        >>> stats = await memory.stats()
        >>> stats.log and stats.log.events, stats.hidden
        (Count(value=0, exact=True), ())
        """
        from pgmem.admin.stats import AsyncStatistics

        durability: Durability = "relaxed" if self._database.relaxed else "strict"
        return await AsyncStatistics(self._executor).read(self._database.schema, durability)

    async def digest(
        self,
        since: int,
        *,
        keys: Sequence[str] | None = None,
        prefix: str | None = None,
        streams: str | Sequence[str] | None = None,
        budget: int = 2_000,
        count: Callable[[str], int] = len,
    ) -> Digest:
        """Return what changed while an agent was thinking, as data and as text for its prompt.

        All changes of an entry are merged into one: what it was, and what it is. Payloads of events
        are as they are stored. The text takes the newest and largest changes first and says how
        much it leaves out.

        >>> entry = await memory.state.put("order:1", {"status": "open"})
        >>> since = await memory.events.head()
        >>> entry = await memory.state.put("order:1", {"status": "paid"})
        >>> print((await memory.digest(since, keys=["order:1"])).text)
        Changes since position 1:
        - order:1 changed: $.status "open" -> "paid"

        Without `keys`, `prefix` and `streams` it tells of everything. Writes with `record=False`
        are not in the log, and so not in a digest.

        Args:
            since: the position after which it begins: of the last event that the agent knows, or
                `position` of the digest before.
            keys: entries to tell of, at most 10,000.
            prefix: tell of the entries whose key begins with it.
            streams: streams to tell of.
            budget: the longest text, as `count` measures it.
            count: measures a text. Characters by default; give the counter of a model's tokens.

        Raises:
            InvalidInput: an option is not allowed, or the budget is too small for any text.
            PositionTrimmed: retention has removed events after `since`.
        """
        from pgmem.digest.verbs import read_digest

        return await read_digest(
            self._executor,
            self._reader,
            since,
            keys=keys,
            prefix=prefix,
            streams=streams,
            budget=budget,
            count=count,
        )

    def context(
        self, *, agent_id: str | None = None, run_id: str | None = None, cause: int | None = None
    ) -> AbstractContextManager[None]:
        """Set the agent, the run and the cause of every event that is written in the block.

        It applies to this memory's writes, through its transactions and handlers too, in the task
        or thread that entered the block. A task that is started in the block inherits it, a thread
        does not. What is not given stays as it is outside the block.

        The agent is the event's `agent_id`. The run and the cause are in its metadata as "run_id"
        and "cause". A value that the event itself has, in `agent_id` or under these names in its
        metadata, takes precedence.

        >>> with memory.context(agent_id="planner", run_id="run-7"):
        ...     receipt = await memory.events.append("orders", Event(type="planned"))
        >>> (event,) = await memory.events.read(after=receipt.position - 1)
        >>> event.agent_id, event.metadata
        ('planner', {'run_id': 'run-7'})

        Args:
            agent_id: the writing agent, 1 to 512 bytes.
            run_id: the agent's run, 1 to 512 bytes.
            cause: the position of the event that the writes follow from.

        Raises:
            InvalidInput: a value is not allowed.
        """
        return self._codec.context.use(agent_id=agent_id, run_id=run_id, cause=cause)

    def validate(self, *, prefix: str, model: type[BaseModel]) -> None:
        """Refuse writes of state entries under a prefix whose value does not fit a model.

        It holds for every write through this memory, its transactions and its views, from now on.
        The value is stored as it is given. An increment under the prefix is refused, because the
        server computes the value. Restored snapshots and imports are not checked.

        >>> from pydantic import BaseModel
        >>> class Order(BaseModel):
        ...     status: str
        >>> memory.validate(prefix="order:", model=Order)
        >>> entry = await memory.state.put("order:1", {"status": 7})
        Traceback (most recent call last):
        pgmem.errors.InvalidValue: the value of state 'order:1' does not fit Order: ...

        Args:
            prefix: the beginning of the keys; "" for all. A second model for it replaces the first.
                A key with several such prefixes must fit the model of each.
            model: a pydantic model.

        Raises:
            InvalidInput: the prefix or the model is not allowed.
        """
        add_schema(self._codec, prefix, model)

    def as_agent(self, agent_id: str, *, run_id: str | None = None) -> Self:
        """Return a view of this memory that writes in the name of another agent.

        It shares the connections, the cache and everything else, so a process may have one for each
        of its agents. It works while this memory is open; opening and closing it does nothing.
        Blocks of `context` of this memory apply to it too, except for what it sets itself.

        >>> researcher = memory.as_agent("researcher-1", run_id="run-7")
        >>> receipt = await researcher.events.append("notes", Event(type="noted"))
        >>> [event.agent_id for event in await memory.events.read("notes")]
        ['researcher-1']

        Args:
            agent_id: the agent, 1 to 512 bytes.
            run_id: its run, 1 to 512 bytes; None for this memory's.

        Raises:
            InvalidInput: a value is not allowed.
        """
        view = copy(self)
        for name in ("groups", "folds", "retention"):
            view.__dict__.pop(name, None)  # They are made when they are first used.
        view._codec = replace(self._codec, context=self._codec.context.as_agent(agent_id, run_id))
        view._agent_id = agent_id
        view._is_view = True
        view._make_verbs()
        return view

    def using(self, connection: Any) -> AsyncBoundMemory:
        """Use the memory inside the caller's own transaction, which the caller ends.

        pgmem does not see when it ends. So its writes reach the entries of `cache=` through the
        log, as the writes of other processes do.

        Args:
            connection: a psycopg AsyncConnection, or a SQLAlchemy AsyncConnection or AsyncSession
                on the psycopg driver, in the database of this memory. `Memory` also takes Django's
                `connection`, inside `transaction.atomic()`.

        Raises (at the first call on what it returns):
            InvalidInput: it is none of these, it commits each statement by itself, or it is in
                psycopg's pipeline mode.
        """
        executor = AsyncTransactionExecutor(self._database, connection)
        return AsyncBoundMemory(executor, self._codec, self._transaction_cache(remembers=False))
