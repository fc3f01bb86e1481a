"""The reads of `memory.state`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from pgmem.core.encoding import decode, decoder
from pgmem.core.execution import AsyncExecutor
from pgmem.core.op import Op, Row
from pgmem.core.paging import PAGE, read_pages
from pgmem.core.validation import check_count
from pgmem.events.codec import Codec
from pgmem.events.columns import STATE_VERSION
from pgmem.events.models import RecordedEvent
from pgmem.state import read_ops as ops
from pgmem.state.blame import blame_fields
from pgmem.state.cache import Cache, StateCache
from pgmem.state.models import FieldBlame, StateEntry
from pgmem.state.read_ops import Order

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


async def search_entries(
    executor: AsyncExecutor,
    prefix: str,
    *,
    where: Mapping[str, Any] | None = None,
    after: str = "",
    order: Order = "key",
    reverse: bool = False,
    offset: int = 0,
    limit: int | None,
    model: type[BaseModel] | None,
) -> list[StateEntry[Any]]:
    """Read the entries under a prefix; see `AsyncStateReads.search`."""

    def page(last: str, most: int | None, skip: int = 0) -> Op[list[StateEntry[Any]]]:
        return ops.search(
            prefix,
            where=where,
            after=last,
            order=order,
            reverse=reverse,
            offset=skip,
            limit=most,
            model=model,
        )

    if limit is not None or order != "key" or reverse:
        # The place of an entry may change between two pages in another order. So it is one.
        return await executor.execute(page(after, limit, offset))
    entries = await executor.execute(page(after, PAGE, offset))
    if len(entries) < PAGE:
        return entries
    return entries + await read_pages(
        lambda last, most: executor.execute(page(last, most)),
        entries[-1].key,
        attrgetter("key"),
        limit=None,
    )


class AsyncStateReads:
    """Read state entries."""

    def __init__(
        self,
        executor: AsyncExecutor,
        codec: Codec,
        cache: Cache | None = None,
    ) -> None:
        self._executor = executor
        self._codec = codec
        self._cache = cache
        self._copies = cache if isinstance(cache, StateCache) else None

    @overload
    async def get(self, key: str, *, refresh: bool = False) -> StateEntry[Any] | None: ...

    @overload
    async def get(
        self, key: str, *, model: type[M], refresh: bool = False
    ) -> StateEntry[M] | None: ...

    async def get(
        self, key: str, *, model: type[BaseModel] | None = None, refresh: bool = False
    ) -> StateEntry[Any] | None:
        """Return the entry under a key, or None if there is none or it has expired.

        With `Memory(cache=…)` it may be a copy, except in a transaction and with `refresh=True`.

        Args:
            key: the entry's key, 1 to 512 bytes.
            model: validate the value with this pydantic model and return an instance of it.
            refresh: renew the end of the entry by its own `ttl`. This is a write. An entry without
                a lifetime is only read.

        Raises:
            InvalidInput: a key or option that is not allowed.
            InvalidValue: the stored value does not fit the model.
        """
        if refresh:
            return await self._change(ops.refresh(key, model=model))
        copies = self._copies
        if copies is None:
            return await self._executor.execute(ops.get(key, model=model))
        copy = copies.lookup(key)
        if copy is None:
            return await self._load(copies, key, model)
        value = decode(copy.text) if model is None else decoder(model, "value")(copy.text)
        return StateEntry(key, value, copy.version, copy.updated_at, copy.created_at)

    async def _load(
        self, copies: StateCache, key: str, model: type[BaseModel] | None
    ) -> StateEntry | None:
        """Read an entry from the server and keep a copy if it may be kept."""
        op = ops.load(key, model=model)
        with copies.loading(key) as load:
            found = await self._executor.execute(op)
            if found is None:
                return None
            entry, copy = found
            load.keep(copy)
        return entry

    async def _change(self, op: Op[T]) -> T:
        """Execute a write of one entry of which the cache may keep nothing."""
        if self._cache is None:
            return await self._executor.execute(op)
        with self._cache.writing(op.params["key"]):
            return await self._executor.execute(op)

    @overload
    async def get_many(self, keys: Sequence[str]) -> dict[str, StateEntry[Any]]: ...

    @overload
    async def get_many(
        self, keys: Sequence[str], *, model: type[M]
    ) -> dict[str, StateEntry[M]]: ...

    async def get_many(
        self, keys: Sequence[str], *, model: type[BaseModel] | None = None
    ) -> dict[str, StateEntry[Any]]:
        """Return the entries under several keys, as they are at one moment.

        The result has no item for a key without an entry. It never comes from the cache.

        Args:
            keys: up to 10,000 keys.
            model: as for `get`.
        """
        return await self._executor.execute(ops.get_many(keys, model=model))

    @overload
    async def search(
        self,
        prefix: str = "",
        *,
        where: Mapping[str, Any] | None = None,
        order: Order = "key",
        reverse: bool = False,
        offset: int = 0,
        limit: int | None = None,
    ) -> list[StateEntry[Any]]: ...

    @overload
    async def search(
        self,
        prefix: str = "",
        *,
        where: Mapping[str, Any] | None = None,
        order: Order = "key",
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
        order: Order = "key",
        reverse: bool = False,
        offset: int = 0,
        limit: int | None = None,
        model: type[BaseModel] | None = None,
    ) -> list[StateEntry[Any]]:
        """Return the entries whose key begins with a prefix and whose value has certain fields.

        >>> entry = await memory.state.put("doc:1", {"status": "open", "pages": 3})
        >>> entry = await memory.state.put("doc:2", {"status": "done", "pages": 3})
        >>> [entry.key for entry in await memory.state.search("doc:", where={"status": "open"})]
        ['doc:1']

        The server reads every entry under the prefix, because no index covers the values: it takes
        about a millisecond for 3,000 entries.

        Args:
            prefix: the beginning of the keys; "" for all.
            where: fields that the value must have, with their values. All must match. Numbers
                compare as numbers. An object matches if it contains the given fields, a list if it
                contains the given items.
            order: sort by the key's bytes, or by when the entry was written or created.
            reverse: sort in descending order.
            offset: skip this many entries, 0 or more.
            limit: the most entries to return, 1 to 100,000; None, the default, returns all of them,
                with a statement for each thousand.
            model: as for `get`.
        """
        return await search_entries(
            self._executor,
            prefix,
            where=where,
            order=order,
            reverse=reverse,
            offset=offset,
            limit=limit,
            model=model,
        )

    async def keys(
        self,
        prefix: str = "",
        *,
        after: str = "",
        depth: int | None = None,
        separator: str | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Return the keys that begin with a prefix, ordered by their bytes.

        >>> entry = await memory.state.put("team:1:plan", "draft")
        >>> entry = await memory.state.put("team:1:goal", "ship")
        >>> await memory.state.keys("team", separator=":", depth=2)
        ['team:1']

        Args:
            prefix: the beginning of the keys; "" for all. No character of it is a wildcard.
            after: return keys above this one. Give the last key of the page before.
            depth: cut each key after this many segments, counted from its start, and return each
                result once. Needs `separator`.
            separator: divides keys into segments. The prefix then ends where a segment ends:
                "team" matches "team" and "team:1", not "teams".
            limit: the most keys to return, 1 to 100,000; None, the default, returns all of them,
                with a statement for each thousand.
        """
        return await read_pages(
            lambda last, most: self._executor.execute(
                ops.keys(prefix, after=last, depth=depth, separator=separator, limit=most)
            ),
            after,
            str,
            limit=limit,
        )

    @overload
    async def history(
        self, key: str, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent[Any]]: ...

    @overload
    async def history(
        self, key: str, *, after: int = 0, limit: int | None = None, model: type[M]
    ) -> list[RecordedEvent[M]]: ...

    async def history(
        self,
        key: str,
        *,
        after: int = 0,
        limit: int | None = None,
        model: type[BaseModel] | None = None,
    ) -> list[RecordedEvent[Any]]:
        """Return the events of an entry's recorded changes, oldest first.

        `event.change` holds the value, also where the write was given an event of its own.

        Args:
            key: the entry's key.
            after: return versions above this one.
            limit: the most events to return, 1 to 100,000; None, the default, returns all of them,
                with a statement for each thousand.
            model: validate the payloads with this pydantic model.
        """
        return await read_pages(
            lambda last, most: self._executor.execute(
                ops.history(key, self._codec, after=last, limit=most, model=model)
            ),
            after,
            attrgetter("state_version"),
            limit=limit,
        )

    async def blame(self, key: str, *, depth: int | None = None) -> list[FieldBlame]:
        """Return which change made each field of an entry's value what it is.

        >>> with memory.context(agent_id="planner"):
        ...     entry = await memory.state.put("plan", {"goal": "ship", "steps": 3})
        >>> with memory.context(agent_id="critic"):
        ...     entry = await memory.state.put("plan", {"goal": "ship", "steps": 5})
        >>> for field in await memory.state.blame("plan"):
        ...     print(field.path, field.value, field.before, field.agent_id)
        $.goal ship None planner
        $.steps 5 3 critic

        An item of a list is known by its index. So an item that is inserted changes all after it.

        Args:
            key: the entry's key.
            depth: how many levels of objects and lists to look into, 0 or more. What lies deeper
                counts as one field. None, the default, looks into all.

        Returns:
            The fields in the order of the value. Empty if there is no entry, or it has expired.
        """
        if depth is not None:
            check_count(depth, "depth", minimum=0)
        # First the entry: every recorded change up to its version is then visible.
        entry = await self._executor.execute(ops.get(key))
        if entry is None:
            return []
        rows: Sequence[Row] = await read_pages(
            lambda last, most: self._executor.execute(
                ops.history_rows(key, after=last, limit=most)
            ),
            0,
            itemgetter(STATE_VERSION),
            limit=None,
        )
        return blame_fields(entry, rows, depth)

    @overload
    async def list(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StateEntry[Any]]: ...

    @overload
    async def list(
        self, prefix: str = "", *, after: str = "", limit: int | None = None, model: type[M]
    ) -> list[StateEntry[M]]: ...

    async def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        limit: int | None = None,
        model: type[BaseModel] | None = None,
    ) -> list[StateEntry[Any]]:
        """Return a page of the entries whose key begins with a prefix, ordered by the key's bytes.

        Args:
            prefix: the beginning of the keys; "" for all.
            after: return keys above this one. Give the last key of the page before.
            limit: the most entries to return, 1 to 100,000; None, the default, returns all of them,
                with a statement for each thousand.
            model: as for `get`.
        """
        return await search_entries(self._executor, prefix, after=after, limit=limit, model=model)
