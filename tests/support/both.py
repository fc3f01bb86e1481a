"""Await a synchronous memory, so that one test covers both forms."""

from __future__ import annotations

import asyncio
import functools
import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import psycopg

from pgmem import AsyncMemory, Lease, Memory
from pgmem._sync.groups.delivery import Delivery
from pgmem.redis import AsyncImports, Imports

_GROUPS = (
    "events", "state", "snapshots", "dedupe", "folds", "subscriptions", "limits", "leases",
    "retention",
)  # fmt: skip
_SUBSCRIBE = ("subscribe", "watch")

_MANY_WAIT = ThreadPoolExecutor(100)
"""For threads that wait for each other: asyncio's default pool has too few."""


class Both:
    """Opens memories in one form on one database.

    Attributes:
        name: "async" or "sync".
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    @asynccontextmanager
    async def memory(self, url: str | None = None, **options):
        """Open a memory that is awaited in either form."""
        if self.name == "async":
            async with AsyncMemory(url or self.url, **options) as memory:
                yield memory
        else:
            with Memory(url or self.url, **options) as memory:
                yield Awaited(memory)


def imports(memory):
    """Return the steps of an import into a memory of either form."""
    if isinstance(memory, Awaited):
        return Awaited(Imports(memory.wrapped))
    return Imports(memory) if isinstance(memory, Memory) else AsyncImports(memory)


def context(memory, **values):
    """Set the attribution of what a memory of either form writes in a block."""
    return getattr(memory, "wrapped", memory).context(**values)


async def state_values(memory, *keys):
    """Return the values under some keys; None for a key without an entry."""
    entries = await memory.state.get_many(keys)
    return [entries[key].value if key in entries else None for key in keys]


class Awaited:
    """Wraps a synchronous object: each call returns an awaitable."""

    def __init__(self, wrapped) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str):
        found = getattr(self.wrapped, name)
        if name in _GROUPS:
            return Awaited(found)
        if name == "groups":
            return AwaitedGroups(found)
        if name in ("connection", "committed"):
            return found
        if name == "optimistic":
            return lambda **options: _entered(found(**options))
        if name == "run_transaction":
            return functools.partial(_run_transaction, found)
        if name == "transaction":
            return lambda: _entered(found())
        if name == "using":
            return lambda source: Awaited(found(source))
        if name == "hold":
            return lambda *args, **kwargs: _held(found(*args, **kwargs))
        if name == "entries":
            return lambda *args: _iterated(found(*args))
        if name in _SUBSCRIBE:
            return lambda *args, **kwargs: AwaitedSubscription(found(*args, **kwargs))

        async def call(*args, **kwargs):
            args, kwargs = map(_plain, args), {key: _plain(kwargs[key]) for key in kwargs}
            if name == "acquire":
                call = functools.partial(found, *args, **kwargs)
                loop = asyncio.get_running_loop()
                result = await loop.run_in_executor(_MANY_WAIT, call)
                return AwaitedLease(result) if isinstance(result, Lease) else result
            if kwargs.get("timeout") is not None or name == "close":
                return await asyncio.to_thread(found, *args, **kwargs)  # It waits.
            return found(*args, **kwargs)

        return call


async def _run_transaction(run, fn, **options):
    """Call a sync `run_transaction` with an async function whose calls are those of `Awaited`."""

    def call(tx):
        steps = fn(Awaited(tx))
        try:
            steps.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("the function waits for something else")

    if isinstance(options.get("fence"), AwaitedLease):
        options["fence"] = options["fence"].wrapped
    return await asyncio.to_thread(run, call, **options)


class AwaitedLease:
    """A synchronous lease whose calls are awaited."""

    def __init__(self, wrapped) -> None:
        self.wrapped = wrapped

    def __repr__(self) -> str:
        return repr(self.wrapped)

    def __getattr__(self, name: str):
        found = getattr(self.wrapped, name)
        if name not in ("release", "renew"):
            return found
        return lambda: asyncio.to_thread(found)


class AwaitedGroups(Awaited):
    """`memory.groups` whose calls are awaited."""

    async def create(self, name, **options):
        return AwaitedGroup(await asyncio.to_thread(self.wrapped.create, name, **options))

    async def get(self, name, **options):
        return AwaitedGroup(await asyncio.to_thread(self.wrapped.get, name, **options))


class AwaitedGroup:
    """A synchronous group or delivery whose calls run in a thread, as they may wait."""

    def __init__(self, wrapped) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str):
        found = getattr(self.wrapped, name)
        if not callable(found):
            return found

        async def call(*args, **kwargs):
            args, kwargs = map(_plain, args), {key: _plain(kwargs[key]) for key in kwargs}
            result = await asyncio.to_thread(found, *args, **kwargs)
            if isinstance(result, list):
                return [AwaitedGroup(x) if isinstance(x, Delivery) else x for x in result]
            return result

        return call


def _plain(given):
    """Return the object behind an awaitable one, also for each item of a list."""
    if isinstance(given, list):
        return [_plain(one) for one in given]
    return given.wrapped if isinstance(given, _FACES) else given


class AwaitedSubscription:
    """A synchronous subscription whose calls run in a thread, as they may wait."""

    def __init__(self, wrapped) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str):
        found = getattr(self.wrapped, name)
        if not callable(found) or name == "stop":
            return found
        return lambda *args, **kwargs: asyncio.to_thread(found, *map(_plain, args), **kwargs)

    async def __aenter__(self):
        await asyncio.to_thread(self.wrapped.__enter__)
        return self

    async def __aexit__(self, *error):
        await asyncio.to_thread(self.wrapped.__exit__, *error)

    def __aiter__(self):
        return self

    async def __anext__(self):
        event = await asyncio.to_thread(next, self.wrapped, None)
        if event is None:
            raise StopAsyncIteration
        return event


_FACES = (Awaited, AwaitedGroup, AwaitedLease, AwaitedSubscription)


@asynccontextmanager
async def _entered(block):
    with block as entered:
        yield Awaited(entered)


@asynccontextmanager
async def _held(block):
    lease = await asyncio.get_running_loop().run_in_executor(_MANY_WAIT, block.__enter__)
    try:
        yield AwaitedLease(lease)
    except BaseException as error:  # A block's exit gets every error.
        if not await asyncio.to_thread(block.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(block.__exit__, None, None, None)


async def _iterated(items):
    for item in items:
        yield item


async def execute(connection, query, params=None):
    """Run a statement on a psycopg connection of either form; return its rows."""
    cursor = connection.execute(query, params)
    if inspect.isawaitable(cursor):
        cursor = await cursor
        return await cursor.fetchall() if cursor.description else []
    return cursor.fetchall() if cursor.description else []


def is_async(connection) -> bool:
    """Return True if a psycopg connection is asynchronous."""
    return isinstance(connection, psycopg.AsyncConnection)


def module_name(form: str, name: str) -> str:
    """Return the dotted name of a module of one form.

    Args:
        form: "async" or "sync", with or without the underscore before it.
        name: the module below `pgmem`, such as "events.reader".
    """
    return f"pgmem.{name}" if form.lstrip("_") == "async" else f"pgmem._sync.{name}"
