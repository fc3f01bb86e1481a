"""`tx.events`: append to the log, and read what is visible.

What to run is in `pgmem.events.ops` and `pgmem.events.read_ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from pgmem.core.execution import AsyncExecutor
from pgmem.core.op import Op, RetryStatement, Row
from pgmem.core.paging import read_pages
from pgmem.core.retry import MAX_RACES
from pgmem.core.transaction import AsyncTransactionExecutor, serialization_conflict
from pgmem.core.validation import MAX_POSITION, Seconds, check_seconds
from pgmem.events import ops, read_ops
from pgmem.events.codec import Codec, parse_events
from pgmem.events.columns import POSITION, VERSION
from pgmem.events.event_classes import OnInvalid
from pgmem.events.filter import EventFilter, Names
from pgmem.events.models import Append, Appended, Event, RecordedEvent

M = TypeVar("M", bound=BaseModel)

DEFAULT_KEY_TTL: Seconds = 7 * 86_400.0
"""Lifetime of an idempotency key: 7 days."""


async def read_versions(
    executor: AsyncExecutor,
    stream: str,
    after_version: int,
    until_version: int | None,
    *,
    limit: int | None,
    reverse: bool,
) -> list[Row]:
    """Read the rows of a versioned stream; see `AsyncTransactionEvents.read_stream`."""
    if reverse:
        return await read_pages(
            lambda last, most: executor.execute(
                read_ops.read_stream(
                    stream,
                    after_version=after_version,
                    until_version=last,
                    limit=most,
                    reverse=True,
                )
            ),
            until_version,
            lambda row: row[VERSION] - 1,
            limit=limit,
        )
    return await read_pages(
        lambda first, most: executor.execute(
            read_ops.read_stream(
                stream, after_version=first, until_version=until_version, limit=most
            )
        ),
        after_version,
        itemgetter(VERSION),
        limit=limit,
    )


class AsyncTransactionEvents:
    """The log: an append-only sequence of events, in streams. Reached as `tx.events`."""

    def __init__(self, executor: AsyncExecutor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

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
            idempotency_key: names this append to the stream. If it was used before with the same
                types and payloads, nothing is appended and the first receipt comes back.
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
        run_id: Names | None = None,
        cause: int | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        model: None = None,
        on_invalid: OnInvalid = "skip",
    ) -> list[RecordedEvent[Any]]: ...

    @overload
    async def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        model: type[M],
        on_invalid: OnInvalid = "skip",
    ) -> list[RecordedEvent[M]]: ...

    async def read(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        model: type[M] | None = None,
        on_invalid: OnInvalid = "skip",
    ) -> list[RecordedEvent[Any]] | list[RecordedEvent[M]]:
        """Read the visible events in the order of the log.

        Args:
            stream: only this stream, or only these.
            prefix: only streams whose name begins with it. Not together with `stream`.
            type: only events of this type, or of these.
            agent_id: only events of this agent, or of these.
            run_id: only events of this run, or of these.
            cause: only events whose cause is the event at this position.
            after: only positions above this one.
            until: only positions up to this one.
            limit: maximum number of events, 1 to 100,000; None, the default, reads all of them,
                with a statement for each thousand.
            reverse: newest first.
            model: a pydantic model to validate the payloads with.
            on_invalid: what becomes of an event that does not fit its class or `model`. "skip", the
                default, leaves it out and logs it as an error; "raise" raises `InvalidEvent`.

        Raises:
            InvalidInput: a name or option that is not allowed.
            InvalidEvent: with `on_invalid="raise"`, a stored payload does not fit.
        """
        parse = parse_events(self._codec, model, on_invalid=on_invalid)
        wanted = EventFilter.of(
            stream, prefix=prefix, type=type, agent_id=agent_id, run_id=run_id, cause=cause
        )
        last = MAX_POSITION if until is None else until
        return parse(await self._read_visible(wanted, after, last, limit=limit, reverse=reverse))

    async def _read_visible(
        self, wanted: EventFilter, after: int, until: int, *, limit: int | None, reverse: bool
    ) -> list[Row]:
        """Read visible events in either direction."""
        execute = self._executor.execute
        if reverse:
            return await read_pages(
                lambda last, most: execute(
                    read_ops.read(wanted, after=after, until=last, limit=most, reverse=True)
                ),
                until,
                lambda row: row[POSITION] - 1,
                limit=limit,
            )
        return await read_pages(
            lambda first, most: execute(
                read_ops.read(wanted, after=first, until=until, limit=most)
            ),
            after,
            itemgetter(POSITION),
            limit=limit,
        )

    @overload
    async def read_stream(
        self,
        stream: str,
        *,
        after_version: int = 0,
        until_version: int | None = None,
        limit: int | None = None,
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
        limit: int | None = None,
        reverse: bool = False,
        model: type[M],
    ) -> list[RecordedEvent[M]]: ...

    async def read_stream(
        self,
        stream: str,
        *,
        after_version: int = 0,
        until_version: int | None = None,
        limit: int | None = None,
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
            limit: maximum number of events, 1 to 100,000; None, the default, reads all of them,
                with a statement for each thousand.
            reverse: highest version first.
            model: a pydantic model to validate the payloads with.

        Raises:
            InvalidInput: a name or option that is not allowed.
            InvalidEvent: a stored payload does not fit its class or `model`. What is computed from
                a stream needs all of its events, so none is left out.
        """
        rows = await read_versions(
            self._executor,
            stream,
            after_version,
            until_version,
            limit=limit,
            reverse=reverse,
        )
        return parse_events(self._codec, model)(rows)

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
        return await self._executor.execute(read_ops.get(position, self._codec, model=model))

    async def head(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
    ) -> int:
        """Return the position of the newest visible event; 0 if there is none.

        Args:
            stream, prefix, type, agent_id, run_id, cause: as for `read`.
        """
        wanted = EventFilter.of(
            stream, prefix=prefix, type=type, agent_id=agent_id, run_id=run_id, cause=cause
        )
        return await self._executor.execute(read_ops.head(wanted))

    async def count(
        self,
        stream: Names | None = None,
        *,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: int = 0,
        until: int | None = None,
    ) -> int:
        """Count the events that are visible now.

        Args:
            stream, prefix, type, agent_id, run_id, cause, after, until: as for `read`.
        """
        wanted = EventFilter.of(
            stream, prefix=prefix, type=type, agent_id=agent_id, run_id=run_id, cause=cause
        )
        last = MAX_POSITION if until is None else until
        return await self._executor.execute(read_ops.count(wanted, after=after, until=last))

    async def version(self, stream: str) -> int:
        """Return the version of a versioned stream, for `expected_version`; 0 if it is new."""
        return await self._executor.execute(read_ops.stream_version(stream))
