"""`tx.state` of an optimistic transaction: remember what is read, keep what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic import BaseModel

from pgmem.core.encoding import decode, decoder
from pgmem.core.validation import Seconds
from pgmem.events.models import Event
from pgmem.state import read_ops
from pgmem.state.models import StateEntry
from pgmem.state.reads import search_entries
from pgmem.state.verbs import AsyncTransactionState

if TYPE_CHECKING:
    from pgmem.optimistic.transaction import AsyncOptimistic

M = TypeVar("M", bound=BaseModel)


class AsyncOptimisticState:
    """State entries in an optimistic transaction. Reached as `tx.state`.

    What `get`, `get_many` and `search` return is compared at the end. New keys under a prefix that
    was searched are not noticed.
    """

    def __init__(self, tx: AsyncOptimistic) -> None:
        self._tx = tx
        self._writes = AsyncTransactionState(tx._recorder, tx._codec)

    @overload
    async def get(self, key: str, *, model: None = None) -> StateEntry[Any] | None: ...

    @overload
    async def get(self, key: str, *, model: type[M]) -> StateEntry[M] | None: ...

    async def get(
        self, key: str, *, model: type[BaseModel] | None = None
    ) -> StateEntry[Any] | None:
        """Read an entry, and remember its version, or that there is none.

        After `put` or `delete` in this transaction it returns what was written. The version of such
        an entry is 0, because it is not known before the commit.

        Args:
            key: the entry's key.
            model: a pydantic model to validate the value with.

        Raises:
            StaleRead: it was read before in this transaction, and has changed since.
        """
        self._tx._check_open()
        entry = await self._tx._reads.execute(read_ops.get(key, model=model))
        await self._tx._remember(("state", key), entry.version if entry else 0)
        if key not in self._tx._written:
            return entry
        text = self._tx._written[key]
        if text is None:
            return None
        value = decode(text) if model is None else decoder(model, "value")(text)
        now = datetime.now(UTC)
        return (entry or StateEntry(key, value, 0, now, now))._replace(value=value, version=0)

    @overload
    async def get_many(
        self, keys: Sequence[str], *, model: None = None
    ) -> dict[str, StateEntry[Any]]: ...

    @overload
    async def get_many(
        self, keys: Sequence[str], *, model: type[M]
    ) -> dict[str, StateEntry[M]]: ...

    async def get_many(
        self, keys: Sequence[str], *, model: type[BaseModel] | None = None
    ) -> dict[str, StateEntry[Any]]:
        """Read several entries as they are at one moment, and remember their versions.

        A write of this transaction is not in the result.

        Args:
            keys: up to 10,000 keys.
            model: as for `get`.

        Raises:
            StaleRead: as for `get`.
        """
        self._tx._check_open()
        entries = await self._tx._reads.execute(read_ops.get_many(keys, model=model))
        for key in keys:
            await self._tx._remember(("state", key), entries[key].version if key in entries else 0)
        return entries

    @overload
    async def search(
        self,
        prefix: str = "",
        *,
        where: Mapping[str, Any] | None = None,
        order: read_ops.Order = "key",
        reverse: bool = False,
        offset: int = 0,
        limit: int | None = None,
        model: None = None,
    ) -> list[StateEntry[Any]]: ...

    @overload
    async def search(
        self,
        prefix: str = "",
        *,
        where: Mapping[str, Any] | None = None,
        order: read_ops.Order = "key",
        reverse: bool = False,
        offset: int = 0,
        limit: int | None = None,
        model: type[M],
    ) -> list[StateEntry[M]]: ...

    async def search(
        self,
        prefix: str = "",
        *,
        where: Mapping[str, Any] | None = None,
        order: read_ops.Order = "key",
        reverse: bool = False,
        offset: int = 0,
        limit: int | None = None,
        model: type[BaseModel] | None = None,
    ) -> list[StateEntry[Any]]:
        """Read the entries under a prefix, and remember their versions.

        A write of this transaction is not in the result, and an entry that another writer creates
        under the prefix is not noticed.

        Args:
            prefix, where, order, reverse, offset, limit, model: as for `memory.state.search`.

        Raises:
            StaleRead: as for `get`.
        """
        self._tx._check_open()
        entries = await search_entries(
            self._tx._reads,
            prefix,
            where=where,
            order=order,
            reverse=reverse,
            offset=offset,
            limit=limit,
            model=model,
        )
        for entry in entries:
            await self._tx._remember(("state", entry.key), entry.version)
        return entries

    async def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: Seconds | None = None,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> None:
        """Write an entry at the end of the transaction.

        The value and the event are encoded now, so a later change of the object has no effect.

        Args:
            key, value, ttl, event, stream, record: as for `memory.state.put`.

        Raises:
            InvalidInput: a key, value or option is not allowed.
        """
        self._tx._check_open()
        absent = self._tx._versions.get(("state", key)) == 0 and key not in self._tx._written
        write = self._writes.create if absent else self._writes.put
        await write(key, value, ttl=ttl, event=event, stream=stream, record=record)
        self._tx._written[key] = self._tx._recorder.ops[-1].params["value"]

    async def delete(
        self,
        key: str,
        *,
        event: Event | None = None,
        stream: str | None = None,
        record: bool = True,
    ) -> None:
        """Delete an entry at the end of the transaction, if there is one.

        Args:
            key, event, stream, record: as for `memory.state.delete`.

        Raises:
            InvalidInput: a key or option is not allowed.
        """
        self._tx._check_open()
        await self._writes.delete(key, event=event, stream=stream, record=record)
        self._tx._written[key] = None
