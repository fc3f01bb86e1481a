"""`memory.events`: append to the log, read from it, follow it.

What to run is `pgmem.events.ops`; what is final, `pgmem.events.reader` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar, overload

from pydantic import BaseModel

from pgmem.core.execution import AsyncExecutor, AsyncTransactionExecutor, serialization_conflict
from pgmem.core.op import Op, RetryStatement
from pgmem.core.retry import MAX_RACES
from pgmem.core.validation import MAX_POSITION, Seconds, check_count, check_seconds
from pgmem.errors import InvalidInput
from pgmem.events import ops
from pgmem.events.codec import Codec
from pgmem.events.durable import DEFAULT_LEASE, AsyncConsumerSubscription
from pgmem.events.filter import Selection
from pgmem.events.models import Appended, Event, RecordedEvent
from pgmem.events.page import ALWAYS, NEVER
from pgmem.events.reader import AsyncLogReader
from pgmem.events.subscription import AsyncSubscription, Start

M = TypeVar("M", bound=BaseModel)

DEFAULT_KEY_TTL: Seconds = 7 * 86_400.0
"""How long an idempotency key holds: 7 days."""


class Page(NamedTuple):
    """What a forward read found.

    Attributes:
        events: final events, in order.
        complete_to: no event of the selection up to this position is missing or still to come.
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
            expected_version: append only if this is the stream's version: the number of events
                that were appended to it in this way. 0 for the first.
            idempotency_key: names this append. Used again with the same stream, types and
                payloads, nothing is appended and the first receipt comes back.
            ttl: how long the key holds, in seconds or as a timedelta; None for ever.

        Returns:
            A receipt for each event.

        Raises:
            InvalidInput: a name, payload or option that is not allowed; nothing was sent.
            VersionConflict: the stream's version is another one.
            IdempotencyMismatch: the key was used for something else.
            OutcomeUnknown: the connection was lost, and neither a key nor an expected version
                makes a second try safe.
        """
        plain = expected_version is None and idempotency_key is None
        if isinstance(event, Event):
            if plain:
                return await self._executor.execute(ops.append(stream, event, self._codec))
            events: Sequence[Event] = [event]
        elif isinstance(event, Sequence) and not isinstance(event, str | bytes):
            events = event
        else:
            raise InvalidInput(
                f"append takes an Event or a sequence of them, got {type(event).__name__}"
            )
        op = ops.append_many(
            stream,
            events,
            self._codec,
            expected_version=expected_version,
            idempotency_key=idempotency_key,
            ttl=None if ttl is None else check_seconds(ttl, "ttl"),
        )
        if isinstance(self._executor, AsyncTransactionExecutor) and not plain:
            receipts = await self._append_in_transaction(self._executor, op)
        else:
            receipts = await self._executor.execute(op)
        return receipts[0] if isinstance(event, Event) else receipts

    async def _append_in_transaction(
        self, executor: AsyncTransactionExecutor, op: Op[list[Appended]]
    ) -> list[Appended]:
        """Keep a version conflict from aborting the caller's transaction."""
        for _ in range(MAX_RACES):
            try:
                async with executor.savepoint():
                    return await executor.execute(op)
            except RetryStatement:
                continue
        raise serialization_conflict(op.action)

    async def read(
        self,
        stream: str | Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        type: str | None = None,
        agent_id: str | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        timeout: Seconds | None = None,
        model: type[BaseModel] | None = None,
    ) -> list[RecordedEvent]:
        """Read events in the order of the log.

        A forward read returns only events that are final: no event of the selection will ever
        appear below the last one returned. So `after=` the last position read misses nothing,
        whatever order the writers commit in. For that it waits up to a quarter of a second for
        writers that are under way, and may return fewer events than are visible. A reverse read,
        and a read inside a transaction, return what is visible.

        Args:
            stream: only this stream, or only these.
            prefix: only streams whose name begins so.
            type: only events of this type.
            agent_id: only events of this agent.
            after: only positions above this one.
            until: only positions up to this one.
            limit: at most so many events, 1 to 100,000.
            reverse: newest first.
            timeout: wait so long for a first event, in seconds or as a timedelta; None returns at
                once. Not in a transaction, not with `reverse`.
            model: a pydantic model to validate the payloads with.

        Raises:
            InvalidInput: a name or option that is not allowed.
            InvalidValue: a stored payload does not fit the model.
        """
        selection = replace(
            Selection.of(stream, prefix=prefix, type=type, agent_id=agent_id),
            after=after,
            until=MAX_POSITION if until is None else until,
        )
        if timeout is not None and (reverse or self._reader is None):
            raise InvalidInput(
                "timeout= waits for new events: not with reverse=True, and not in a transaction"
            )
        if reverse or self._reader is None:
            return await self._executor.execute(
                ops.read(selection, self._codec, limit=limit, reverse=reverse, model=model)
            )
        check_count(limit, "limit", minimum=1, maximum=100_000)
        wait = 0.0 if timeout is None else check_seconds(timeout, "timeout", zero=True)
        if wait:
            found = await self._first_events(self._reader, selection, limit, wait, model)
            if found:
                return found
        page = await self._reader.read_now(selection, limit=limit, since=ALWAYS if after else NEVER)
        return ops.parse_events(self._codec, model)(page.rows)

    async def _first_events(
        self,
        reader: AsyncLogReader,
        selection: Selection,
        limit: int,
        timeout: float,
        model: type[BaseModel] | None,
    ) -> list[RecordedEvent]:
        """Wait for the first event, as a subscription does."""
        waiting = AsyncSubscription(
            reader, selection, selection.after, ops.event_maker(self._codec, model)
        )
        try:
            found = await waiting.receive(min(limit, 10_000), timeout=timeout)
        finally:
            await waiting.close()
        return [event for event in found if event.position <= selection.until]

    async def read_page(self, selection: Selection, *, limit: int) -> Page:
        """Read final events, and tell up to where the answer is complete.

        Raises:
            PositionTrimmed: retention has removed events behind `selection.after`.
        """
        reader = self._require_reader("fold")
        page = await reader.read_now(selection, limit=limit, since=ALWAYS)
        if not page.rows:
            # Nothing of the selection: complete up to whatever is final.
            await reader.settle()
            page = await reader.read_now(selection, limit=limit, since=ALWAYS)
        return Page(ops.parse_events(self._codec, None)(page.rows), page.complete_to)

    async def settle(self) -> int:
        """Wait, at most a quarter of a second, until what is drawn now is final; tells how far."""
        return await self._require_reader("settle").settle()

    def _require_reader(self, what: str) -> AsyncLogReader:
        if self._reader is None:
            raise InvalidInput(
                f"{what} follows the log, and a transaction sees it as it was: not in a "
                f"transaction, use the memory itself"
            )
        return self._reader

    @overload
    def subscribe(
        self,
        stream: str | Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        type: str | None = None,
        agent_id: str | None = None,
        after: Start = 0,
        model: type[BaseModel] | None = None,
        consumer: None = None,
    ) -> AsyncSubscription[RecordedEvent]: ...

    @overload
    def subscribe(
        self,
        stream: str | Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        type: str | None = None,
        agent_id: str | None = None,
        after: Start = 0,
        model: type[BaseModel] | None = None,
        consumer: str,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
    ) -> AsyncConsumerSubscription[RecordedEvent]: ...

    def subscribe(
        self,
        stream: str | Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        type: str | None = None,
        agent_id: str | None = None,
        after: Start = 0,
        model: type[BaseModel] | None = None,
        consumer: str | None = None,
        lease: Seconds = DEFAULT_LEASE,
        auto_commit: bool = True,
    ) -> AsyncSubscription[RecordedEvent] | AsyncConsumerSubscription[RecordedEvent]:
        """Follow the log: first what is there, then what comes, for as long as it lives.

        Every event of the selection is handed out once, in the order of the log, whatever order
        its writers commit in; none is skipped. Lost connections, restarts of the server and lost
        notifications only delay events.

        >>> receipt = await memory.events.append("payments", Event(type="received"))
        >>> async with memory.events.subscribe("payments", after=0) as events:
        ...     async for event in events:
        ...         print(event.position, event.type)
        ...         break
        1 received

        Args:
            stream: only this stream, or only these; None for all.
            prefix: only streams whose name begins so.
            type: only events of this type.
            agent_id: only events of this agent.
            after: only positions above this one; 0 begins with the oldest event that is kept,
                "now" with the next one to be written.
            model: a pydantic model to validate the payloads with.
            consumer: the name under which the position is stored: the next subscription of this
                name goes on from there (`after` counts only the first time). One process at a
                time has it, others stand by.
            lease: seconds after which another process may take over from one that gives no sign
                of life; at most a day.
            auto_commit: store the position of what was handed out when more is asked for. Without
                it, call `commit`, alone or in the transaction of your effects.

        Returns:
            A context manager and iterator; with `consumer`, one that has `commit`.

        Raises:
            InvalidInput: a name or option that is not allowed.
        """
        reader = self._require_reader("subscribe")
        selection = Selection.of(stream, prefix=prefix, type=type, agent_id=agent_id)
        decode = ops.event_maker(self._codec, model)
        if consumer is None:
            return AsyncSubscription(reader, selection, after, decode)
        return AsyncConsumerSubscription(
            reader,
            selection,
            after,
            decode,
            consumer=consumer,
            lease=lease,
            auto_commit=auto_commit,
            agent_id=self._codec.agent_id,
        )

    async def count(
        self,
        stream: str | None = None,
        *,
        type: str | None = None,
        agent_id: str | None = None,
        after: int = 0,
        until: int | None = None,
    ) -> int:
        """Count the events that are visible now.

        Args:
            stream, type, agent_id, after, until: as for `read`.
        """
        selection = Selection(
            stream, type, agent_id, after, MAX_POSITION if until is None else until
        )
        return await self._executor.execute(ops.count(selection))

    async def version(self, stream: str) -> int:
        """The version of a versioned stream: what `expected_version` must be now; 0 if new."""
        return await self._executor.execute(ops.stream_version(stream))
