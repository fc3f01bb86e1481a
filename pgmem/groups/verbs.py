"""`memory.groups` and `tx.groups`: create, find, list and delete consumer groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar, overload

from pydantic import BaseModel

from pgmem.core.execution import AsyncExecutor
from pgmem.core.validation import check_count
from pgmem.errors import InvalidInput
from pgmem.events.codec import Codec
from pgmem.events.durable_ops import OnFailover
from pgmem.events.filter import EventFilter, Names
from pgmem.groups import ops
from pgmem.groups.claims import AsyncGroupContext
from pgmem.groups.group import AsyncGroup, OnInvalid
from pgmem.groups.models import GroupInfo
from pgmem.groups.retry import DEFAULT_RETRY, RetryPolicy
from pgmem.groups.transaction_group import AsyncTransactionGroup

M = TypeVar("M", bound=BaseModel)


class AsyncGroups:
    """Consumer groups: members share the events of a selection. Reached as `memory.groups`."""

    def __init__(self, context: AsyncGroupContext) -> None:
        self._context = context
        self._executor = context.reader.executor

    @overload
    async def create(
        self,
        name: str,
        *,
        stream: Names | None = ...,
        prefix: str | None = ...,
        type: Names | None = ...,
        agent_id: Names | None = ...,
        run_id: Names | None = ...,
        cause: int | None = ...,
        after: int | Literal["now"] = ...,
        ordered_by: str | None = ...,
        max_attempts: int = ...,
        retry: RetryPolicy = ...,
        on_invalid: OnInvalid = ...,
        on_failover: OnFailover = ...,
        exist_ok: bool = ...,
        model: None = ...,
    ) -> AsyncGroup[Any]: ...

    @overload
    async def create(
        self,
        name: str,
        *,
        stream: Names | None = ...,
        prefix: str | None = ...,
        type: Names | None = ...,
        agent_id: Names | None = ...,
        run_id: Names | None = ...,
        cause: int | None = ...,
        after: int | Literal["now"] = ...,
        ordered_by: str | None = ...,
        max_attempts: int = ...,
        retry: RetryPolicy = ...,
        on_invalid: OnInvalid = ...,
        on_failover: OnFailover = ...,
        exist_ok: bool = ...,
        model: type[M],
    ) -> AsyncGroup[M]: ...

    async def create(
        self,
        name: str,
        *,
        stream: Names | None = None,
        prefix: str | None = None,
        type: Names | None = None,
        agent_id: Names | None = None,
        run_id: Names | None = None,
        cause: int | None = None,
        after: int | Literal["now"] = 0,
        ordered_by: str | None = None,
        max_attempts: int = 5,
        retry: RetryPolicy = DEFAULT_RETRY,
        on_invalid: OnInvalid = "dead_letter",
        on_failover: OnFailover = "continue",
        exist_ok: bool = False,
        model: Any = None,
    ) -> AsyncGroup[Any]:
        """Create a group.

        >>> from pgmem import Event
        >>> receipt = await memory.events.append("orders", Event(type="placed", payload={"n": 1}))
        >>> group = await memory.groups.create("billing", stream="orders")
        >>> for delivery in await group.read(member="worker-1"):
        ...     print(delivery.event.payload, delivery.attempts)
        ...     await delivery.ack()
        {'n': 1} 1

        Args:
            name: the group's name, 1 to 512 bytes.
            stream: a stream or several; None for all.
            prefix: streams whose names begin with it.
            type: events of this type, or of these.
            agent_id: events of this agent, or of these.
            run_id: events of this run, or of these.
            cause: events whose cause is the event at this position.
            after: 0 for the oldest event that is kept, "now" for the next one that is written, or
                the position after which to begin. Ignored if the group exists.
            ordered_by: "stream", or a key of the payload. Events with the same value are never with
                two members at once, and are delivered in the order of the log.
            max_attempts: attempts of an event before it becomes a dead letter.
            retry: how failed events are delivered again.
            on_invalid: what happens to an event that does not fit its class or `model`:
                "dead_letter", "skip" (acknowledge it), or "raise" `InvalidEvent` and give back all
                events. An option of the object returned, and not of the stored group.
            on_failover: what happens after a promotion of a standby. "continue", the default, keeps
                what is held and delayed, which was replicated together with the events. "refuse"
                raises `HistoryRewritten` until `reset`, for effects elsewhere that must be compared
                first. An option of the object returned, too.
            exist_ok: return the group if it exists with the same options.
            model: a pydantic model to validate payloads with.

        Raises:
            AlreadyExists: the group exists and `exist_ok` is False, or it has other options.
            InvalidInput: a name or option is not allowed, or `after` is above the head.
            PositionTrimmed: retention has removed events after `after`.
        """
        group = ops.Group(
            name,
            EventFilter.of(
                stream, prefix=prefix, type=type, agent_id=agent_id, run_id=run_id, cause=cause
            ),
            ordered_by,
            max_attempts,
            _check_retry(retry),
        )
        op = ops.create(group, start=_check_start(after), exist_ok=exist_ok)
        revision = await self._executor.execute(op)
        return AsyncGroup(
            self._context, replace(group, revision=revision), model, on_invalid, on_failover
        )

    @overload
    async def get(
        self,
        name: str,
        *,
        model: None = ...,
        on_invalid: OnInvalid = ...,
        on_failover: OnFailover = ...,
    ) -> AsyncGroup[Any]: ...

    @overload
    async def get(
        self,
        name: str,
        *,
        model: type[M],
        on_invalid: OnInvalid = ...,
        on_failover: OnFailover = ...,
    ) -> AsyncGroup[M]: ...

    async def get(
        self,
        name: str,
        *,
        model: Any = None,
        on_invalid: OnInvalid = "dead_letter",
        on_failover: OnFailover = "continue",
    ) -> AsyncGroup[Any]:
        """Return a group that exists, with the options that it was created with.

        Args:
            name: the group's name, 1 to 512 bytes.
            model: a pydantic model to validate payloads with.
            on_invalid: what happens to an event that does not fit its class or `model`; see
                `create`.
            on_failover: what happens after a promotion; see `create`.

        Raises:
            NotFound: there is no group of that name.
            AlreadyExists: a newer version of pgmem created it with a selection that this version
                does not know.
        """
        group = await self._executor.execute(ops.get(name))
        return AsyncGroup(self._context, group, model, on_invalid, on_failover)

    async def list(self) -> list[GroupInfo]:
        """Return all groups, ordered by name."""
        return await self._executor.execute(ops.list_groups())

    async def delete(self, name: str) -> bool:
        """Delete a group, with its open events and dead letters. The log keeps its events.

        Args:
            name: the group's name, 1 to 512 bytes.

        Returns:
            True if the group existed.

        Raises:
            OutcomeUnknown: the connection was lost while the statement ran.
        """
        deleted = await self._executor.execute(ops.delete(name))
        if name in self._context.progress:
            self._context.progress[name].forget()
        return deleted


class AsyncTransactionGroups:
    """Consumer groups inside a transaction. Reached as `tx.groups`."""

    def __init__(self, executor: AsyncExecutor, codec: Codec) -> None:
        self._executor = executor
        self._codec = codec

    async def get(self, name: str) -> AsyncTransactionGroup:
        """Return a group, to end deliveries or inspect it inside the transaction.

        >>> group = await memory.groups.create("invoices", stream="orders")
        >>> deliveries = await group.read(member="worker-1")
        >>> async with memory.transaction() as tx:
        ...     await tx.state.put("invoiced", len(deliveries))
        ...     await (await tx.groups.get("invoices")).ack(deliveries)

        Args:
            name: the group's name, 1 to 512 bytes.

        Raises:
            NotFound: there is no group of that name.
        """
        group = await self._executor.execute(ops.get(name))
        return AsyncTransactionGroup(self._executor, self._codec, group)

    async def list(self) -> list[GroupInfo]:
        """Return all groups, ordered by name."""
        return await self._executor.execute(ops.list_groups())


def _check_retry(retry: RetryPolicy) -> RetryPolicy:
    if not isinstance(retry, RetryPolicy):
        raise InvalidInput(f"retry is a RetryPolicy, got {type(retry).__name__}")
    return retry


def _check_start(after: int | Literal["now"]) -> int | None:
    if isinstance(after, str) and after != "now":
        raise InvalidInput(f"after is a position or 'now', got {after[:40]!r}")
    return None if after == "now" else check_count(after, "after", minimum=0)
