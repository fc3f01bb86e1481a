"""The few things that differ between threads and tasks, in pairs.

`pgmem._async` uses the names that begin with `a` or `A`; `tools/generate_sync.py` replaces them
with their twins when it makes `pgmem._sync`. Nothing else in pgmem imports asyncio.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections.abc import Awaitable
from typing import Any

import psycopg

from pgmem.errors import InvalidOption

ALock = asyncio.Lock
Lock = threading.Lock

asleep = asyncio.sleep
sleep = time.sleep


async def maybe_await(value: Any) -> Any:
    """What a user's function gave, awaited if it is awaitable."""
    return await value if isinstance(value, Awaitable) else value


def passthrough(value: Any) -> Any:
    """What a user's function gave.

    Raises:
        InvalidOption: it is a coroutine, which nobody would ever run.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise InvalidOption("Memory was given an async function: use AsyncMemory for those")
    return value


_USING = (
    "using() takes a psycopg {connection}, or a SQLAlchemy {alchemy} on the psycopg driver "
    "(postgresql+psycopg://), got {got}"
)


async def adriver_connection(source: Any) -> psycopg.AsyncConnection[Any]:
    """The psycopg connection below what a caller gave to `AsyncMemory.using`.

    Raises:
        InvalidOption: there is none below it.
    """
    found = source
    alchemy = sys.modules.get("sqlalchemy.ext.asyncio")
    if alchemy is not None:
        # A Session takes its connection, and begins its transaction, when first asked.
        if isinstance(source, alchemy.AsyncSession | alchemy.async_scoped_session):
            source = await source.connection()
        if isinstance(source, alchemy.AsyncConnection):
            found = (await source.get_raw_connection()).driver_connection
    if not isinstance(found, psycopg.AsyncConnection):
        raise InvalidOption(
            _USING.format(
                connection="AsyncConnection",
                alchemy="AsyncConnection or AsyncSession",
                got=type(found).__name__,
            )
        )
    return found


def driver_connection(source: Any) -> psycopg.Connection[Any]:
    """The psycopg connection below what a caller gave to `Memory.using`.

    Raises:
        InvalidOption: there is none below it.
    """
    found = source
    if "sqlalchemy.orm" in sys.modules:
        orm = sys.modules["sqlalchemy.orm"]
        if isinstance(source, orm.Session | orm.scoped_session):
            found = source = source.connection()
    if "sqlalchemy" in sys.modules:
        alchemy = sys.modules["sqlalchemy"]
        if isinstance(source, alchemy.Connection):
            found = source.connection.driver_connection
    if not isinstance(found, psycopg.Connection):
        raise InvalidOption(
            _USING.format(
                connection="Connection",
                alchemy="Connection or Session",
                got=type(found).__name__,
            )
        )
    return found
