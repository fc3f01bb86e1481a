"""`memory.events`: append to the log, read from it, follow it.

What to run is `pgmem.events.ops`. How far reads may go is decided by `pgmem.events.reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, overload

from pydantic import BaseModel

from pgmem.core.execution import AsyncExecutor, AsyncTransactionExecutor, serialization_conflict
from pgmem.core.op import Op, RetryStatement
from pgmem.core.retry import MAX_RACES
from pgmem.core.validation import MAX_POSITION, Seconds, check_count, check_seconds
from pgmem.errors import InvalidInput
from pgmem.events import ops
from pgmem.events.codec import Codec, event_maker, parse_events
from pgmem.events.durable import DEFAULT_LEASE, AsyncDurableSubscription
from pgmem.events.filter import EventFilter, Names
from pgmem.events.models import Append, Appended, Event, RecordedEvent
from pgmem.events.page import ALWAYS, NEVER
from pgmem.events.reader import AsyncLogReader
from pgmem.events.subscription import AsyncSubscription, Start

M = TypeVar("M", bound=BaseModel)

DEFAULT_KEY_TTL: Seconds = 7 * 86_400.0
"""Lifetime of an idempotency key: 7 days."""


class Page(NamedTuple):
    """The result of a forward read.

    Attributes:
        events: stable events, in order.
        complete_to: no selected event up to this position is missing or still to come.
    """

    events: list[RecordedEvent]
    complete_to: int


class AsyncEvents:
    """The log: an append-only sequence of events, in streams.

    Reached as `memory.events`, `tx.events` or `bound.events`.
    """

    def __init__(
        self, executor: AsyncExecutor, codec: Codec, reader: AsyncLogReader | None = None
    ) -> None:
        self._executor = executor
        self._codec = codec
        self._reader = reader

    @overload
    async def append(
        self,
        stream: str,
        event: Event,
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> Appended: ...

    @overload
    async def append(
        self,
        stream: str,
        event: Sequence[Event],
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> list[Appended]: ...

    async def append(
        self,
        stream: str,
        event: Event | Sequence[Event],
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> Appended | list[Appended]:
        """Append one event, or several in one statement: all of them or none.

        Args:
            stream: the stream's name, 1 to 512 bytes; `state:` at its beginning is reserved.
            event: an event, or a sequence of 1 to 10,000.
            expected_version: append only if this is the stream's version, which is the number of
                events that were appended to it with `expected_version`. 0 for the first.
            idempotency_key: names this append. If it was used before with the same stream, types
                and payloads, nothing is appended and the first receipt comes back.
            ttl: lifetime of the key, in seconds or as a timedelta, 7 days by default; None for
                ever.

        Returns:
            A receipt for each event.

        Raises:
            InvalidInput: a name, payload or option that is not allowed; nothing was sent.
            VersionConflict: the stream has another version.
            IdempotencyMismatch: the key was used for something else.
            OutcomeUnknown: the connection was lost, and neither a key nor an expected version
                makes a second try safe.
        """
        plain = expected_version is None and idempotency_key is None
        if plain and isinstance(event, Event):
            return await self._executor.execute(ops.append(stream, event, self._codec))
        op = ops.append_many(
            stream,
            ops.sequence_of(event, "append"),
            self._codec,
            expected_version=expected_version,
            idempotency_key=idempotency_key,
            ttl=None if ttl is None else check_seconds(ttl, "ttl"),
        )
        receipts = await self._execute_append(op, conditional=not plain)
        return receipts[0] if isinstance(event, Event) else receipts

    async def append_all(
        self,
        appends: Sequence[Append],
        *,
        idempotency_key: str | None = None,
        ttl: Seconds | None = DEFAULT_KEY_TTL,
    ) -> list[Appended]:
        """Append events to several streams in one statement: all of them or none.

        The events get positions in the order given. Streams are locked in the order of their
        names, so calls that share streams do not deadlock.

        >>> from pgmem import Append
        >>> receipts = await memory.events.append_all([
        ...     Append("order:1", Event(type="placed"), expected_version=0),
        ...     Append("customer:7", [Event(type="ordered"), Event(type="charged")]),
        ... ])
        >>> [receipt.version for receipt in receipts]
        [1, None, None]

        Args:
            appends: an `Append(stream, events, expected_version=None)` for each stream. Together
                1 to 10,000 events; each stream once.
            idempotency_key: names this call. If it was used before with the same streams, types
                and payloads, nothing is appended and the first receipts come back.
            ttl: lifetime of the key, in seconds or as a timedelta, 7 days by default; None for
                ever.

        Returns:
            A receipt for each event, in the order given.

        Raises:
            InvalidInput: a name, payload or option that is not allowed; nothing was sent.
            VersionConflict: a stream has another version; the message names the stream.
            IdempotencyMismatch: the key was used for something else.
            OutcomeUnknown: the connection was lost, and neither a key nor an expected version
                makes a second try safe.
        """
        op = ops.append_all(
            appends,
            self._codec,
            idempotency_key=idempotency_key,
            ttl=None if ttl is None else check_seconds(ttl, "ttl"),
        )
        return await self._execute_append(op, conditional=True)

    async def _execute_append(self, op: Op[list[Appended]], *, conditional: bool) -> list[Appended]:
        """Execute an append. In a transaction, a lost race is undone and run again."""
        executor = self._executor
        if not (conditional and isinstance(executor, AsyncTransactionExecutor)):
            return await executor.execute(op)
        for _ in range(MAX_RACES):
            try:
                async with executor.savepoint():
                    return await executor.execute(op)
            except RetryStatement:
                continue
        raise serialization_conflict(op.action)

    @overload
    async def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        timeout: Seconds | None = 0,
        model: None = None,
    ) -> list[RecordedEvent[Any]]: ...

    @overload
    async def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        timeout: Seconds | None = 0,
        model: type[M],
    ) -> list[RecordedEvent[M]]: ...

    async def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        timeout: Seconds | None = 0,
        model: type[M] | None = None,
    ) -> list[RecordedEvent[Any]] | list[RecordedEvent[M]]:
        """Read events in the order of the log.

        A forward read returns only stable events: no selected event will ever appear below the
        last one returned. So reading on with `after=` that position misses nothing, whatever
        order the writers commit in. The read waits up to a quarter of a second for open writing
        transactions, and may return fewer events than are visible. A reverse read, and a read
        inside a transaction, return what is visible.

        Args:
            stream: only this stream, or only these.
            prefix: only streams whose name begins with it. Not together with `stream`.
            type: only events of this type, or of these.
            agent_id: only events of this agent, or of these.
            after: only positions above this one.
            until: only positions up to this one.
            limit: maximum number of events, 1 to 100,000, 100 by default.
            reverse: newest first.
            timeout: maximum wait for a first event, in seconds or as a timedelta. 0 does not
                wait, None waits for ever. Must be 0 in a transaction and with `reverse`.
            model: a pydantic model to validate the payloads with.

        Raises:
            InvalidInput: a name or option that is not allowed.
            InvalidValue: a stored payload does not fit the model.
        """
        wanted = EventFilter.of(stream, prefix=prefix, type=type, agent_id=agent_id)
        last = MAX_POSITION if until is None else until
        wait = None if timeout is None else check_seconds(timeout, "timeout", zero=True)
        if reverse or self._reader is None:
            if wait != 0:
                raise InvalidInput(
                    "timeout= waits for new events: not with reverse=True, and not in a transaction"
                )
            op = ops.read(
                wanted,
                self._codec,
                after=after,
                until=last,
                limit=limit,
                reverse=reverse,
                model=model,
            )
            return await self._executor.execute(op)
        check_count(limit, "limit", minimum=1, maximum=ops.MAX_LIMIT)
        if wait != 0:
            waiting = AsyncSubscription(
                self._reader, wanted, after, event_maker(self._codec, model), until=last
            )
            try:
                found = await waiting.receive(min(limit, 10_000), timeout=wait)
            finally:
                await waiting.close()
            if found:
                return [event for event in found if event.position <= last]
        page = await self._reader.read_now(
            wanted, after=after, until=last, limit=limit, since=ALWAYS if after else NEVER
        )
        return parse_events(self._codec, model)(page.rows)

    async def read_page(self, wanted: EventFilter, *, after: int, limit: int) -> Page:
        """Read stable events, and return up to where the answer is complete.

        Raises:
            PositionTrimmed: retention has removed events above `after`.
        """
        reader = self._require_reader("fold")
        page = await reader.read_now(wanted, after=after, limit=limit, since=ALWAYS)
        if not page.rows:
            # No event is selected: the answer is complete up to the stable position.
            await reader.wait_until_stable()
            page = await reader.read_now(wanted, after=after, limit=limit, since=ALWAYS)
        return Page(parse_events(self._codec, None)(page.rows), page.complete_to)

    async def wait_until_stable(self) -> int:
        """Wait up to a quarter of a second until all positions drawn by now are stable.

        Returns:
            The stable position.
        """
        return await self._require_reader("waiting").wait_until_stable()

    def _require_reader(self, what: str) -> AsyncLogReader:
        if self._reader is None:
            raise InvalidInput(
                f"{what} follows the log, and a transaction sees it as it was: not in a "
                f"transaction, use the memory itself"
            )
        return self._reader

    @overload
    async def read_stream(
        self,
        stream: str,
        *,
        after_version: int = 0,
        until_version: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        model: None = None,
    ) -> list[RecordedEvent[Any]]: ...

    @overload
    async def read_stream(
        self,
        stream: str,
        *,
        after_version: int = 0,
        until_version: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        model: type[M],
    ) -> list[RecordedEvent[M]]: ...

    async def read_stream(
        self,
        stream: str,
        *,
        after_version: int = 0,
        until_version: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        model: type[M] | None = None,
    ) -> list[RecordedEvent[Any]] | list[RecordedEvent[M]]:
        """Read the events of a versioned stream, by version.

        It returns what is visible, also what this process has just appended. Events that were
        appended without `expected_version` have no version and are left out.

        Args:
            stream: the stream's name.
            after_version: only versions above this one.
            until_version: only versions up to this one.
            limit: maximum number of events, 1 to 100,000, 100 by default.
            reverse: highest version first.
            model: a pydantic model to validate the payloads with.

        Raises:
            InvalidInput: a name or option that is not allowed.
            InvalidValue: a stored payload does not fit the model.
        """
        return await self._executor.execute(
            ops.read_stream(
                stream,
                self._codec,
                after_version=after_version,
                until_version=until_version,
                limit=limit,
                reverse=reverse,
                model=model,
            )
        )

    @overload
    async def get(self, position: int, *, model: None = None) -> RecordedEvent[Any] | None: ...

    @overload
    async def get(self, position: int, *, model: type[M]) -> RecordedEvent[M] | None: ...

    async def get(
        self, position: int, *, model: type[M] | None = None
    ) -> RecordedEvent[Any] | RecordedEvent[M] | None:
        """Read the event at a position.

        Args:
            position: the event's position.
            model: a pydantic model to validate the payload with.

        Returns:
            The event, or None if there is none: its transaction rolled back or is still open, or
            retention has removed it.
        """
        return await self._executor.execute(ops.get(position, self._codec, model=model))

    async def head(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
    ) -> int:
        """Return the position of the newest visible event; 0 if there is none.

        Args:
            stream, prefix, type, agent_id: as for `read`.
        """
        wanted = EventFilter.of(stream, prefix=prefix, type=type, agent_id=agent_id)
        return await self._executor.execute(ops.head(wanted))

    async def count(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: int = 0,
        until: int | None = None,
    ) -> int:
        """Count the events that are visible now.

        Args:
            stream, prefix, type, agent_id, after, until: as for `read`.
        """
        wanted = EventFilter.of(stream, prefix=prefix, type=type, agent_id=agent_id)
        last = MAX_POSITION if until is None else until
        return await self._executor.execute(ops.count(wanted, after=after, until=last))

    async def version(self, stream: str) -> int:
        """Return the version of a versioned stream, for `expected_version`; 0 if it is new."""
        return await self._executor.execute(ops.stream_version(stream))

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: Start = 0,
        model: None = None,
        durable: None = None,
    ) -> AsyncSubscription[RecordedEvent[Any]]: ...

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: Start = 0,
        model: type[M],
        durable: None = None,
    ) -> AsyncSubscription[RecordedEvent[M]]: ...

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: Start = 0,
        model: None = None,
        durable: str,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
    ) -> AsyncDurableSubscription[RecordedEvent[Any]]: ...

    @overload
    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: Start = 0,
        model: type[M],
        durable: str,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
    ) -> AsyncDurableSubscription[RecordedEvent[M]]: ...

    def subscribe(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        after: Start = 0,
        model: type[BaseModel] | None = None,
        durable: str | None = None,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
    ) -> AsyncSubscription[Any] | AsyncDurableSubscription[Any]:
        """Follow the log: first the events that are there, then each new one.

        Every selected event is handed out once, in the order of the log, whatever order its
        writers commit in; none is skipped. Lost connections, restarts of the server and lost
        notifications only delay events.

        >>> receipt = await memory.events.append("payments", Event(type="received"))
        >>> async with memory.events.subscribe("payments", after=0) as events:
        ...     async for event in events:
        ...         print(event.position, event.type)
        ...         break
        1 received

        Args:
            stream: only this stream, or only these.
            prefix: only streams whose name begins with it. Not together with `stream`.
            type: only events of this type, or of these.
            agent_id: only events of this agent, or of these.
            after: only positions above this one; 0 begins with the oldest event that is kept,
                "now" with the next one to be written. Above the head it waits for them.
            model: a pydantic model to validate the payloads with.
            durable: name under which the position is stored, 1 to 512 bytes. The next
                subscription of this name goes on from there, and `after` counts only the first
                time. One process at a time holds it, others stand by.
            lease: seconds without a renewal after which another process may take over, 30 by
                default, at most a day.
            auto_commit: store the position of what was handed out when more is asked for. If
                False, call `commit`, alone or in the transaction of your effects.

        Returns:
            A context manager and iterator; with `durable`, one that has `commit`.

        Raises:
            InvalidInput: a name or option that is not allowed.
        """
        reader = self._require_reader("subscribe")
        wanted = EventFilter.of(stream, prefix=prefix, type=type, agent_id=agent_id)
        decode = event_maker(self._codec, model)
        if durable is None:
            return AsyncSubscription(reader, wanted, after, decode)
        return AsyncDurableSubscription(
            reader,
            wanted,
            after,
            decode,
            name=durable,
            lease=lease,
            auto_commit=auto_commit,
            agent_id=self._codec.agent_id,
        )
