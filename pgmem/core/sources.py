"""Find the psycopg connection in what a caller gives to `using()`, and nest blocks in its own way.

A caller gives a connection of psycopg, SQLAlchemy or Django, or a session of SQLAlchemy. Its
framework keeps books on savepoints: which objects a rollback made stale, which callbacks a rollback
dropped. So a block of the caller's code gets a savepoint that the framework knows.

The functions stand in pairs, as in `pgmem.core.concurrency`. A framework is looked up among the
loaded modules and never imported.
"""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

import psycopg

from pgmem.errors import InvalidInput

_USING = (
    "using() takes a psycopg {connection}, {others} on the psycopg driver, version 3, got {got}"
)


async def async_driver_connection(source: Any) -> psycopg.AsyncConnection[Any]:
    """Return the psycopg connection below what a caller gave to `AsyncMemory.using`.

    Raises:
        InvalidInput: there is none below it.
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
        raise InvalidInput(
            _USING.format(
                connection="AsyncConnection",
                others="or a SQLAlchemy AsyncConnection or AsyncSession (postgresql+psycopg://)",
                got=type(found).__name__,
            )
        )
    return found


def driver_connection(source: Any) -> psycopg.Connection[Any]:
    """Return the psycopg connection below what a caller gave to `Memory.using`.

    Raises:
        InvalidInput: there is none below it.
    """
    found = source
    if isinstance(source, psycopg.Connection):
        return source
    if "sqlalchemy.orm" in sys.modules:
        orm = sys.modules["sqlalchemy.orm"]
        if isinstance(source, orm.Session | orm.scoped_session):
            found = source = source.connection()
    if "sqlalchemy" in sys.modules:
        alchemy = sys.modules["sqlalchemy"]
        if isinstance(source, alchemy.Connection):
            found = source.connection.driver_connection
    if _is_django(source):
        source.ensure_connection()
        found = source.connection
    if not isinstance(found, psycopg.Connection):
        raise InvalidInput(
            _USING.format(
                connection="Connection",
                others="a SQLAlchemy Connection or Session (postgresql+psycopg://), or a Django "
                "connection",
                got=type(found).__name__,
            )
        )
    return found


def _is_django(source: Any) -> bool:
    """Return True for a wrapper in `django.db.connections`, or the proxy `django.db.connection`."""
    if "django.db" in sys.modules and source is sys.modules["django.db"].connection:
        return True  # It passes on every attribute but its class.
    base = sys.modules.get("django.db.backends.base.base")
    return base is not None and isinstance(source, base.BaseDatabaseWrapper)


def async_begin_nested(source: Any) -> AbstractAsyncContextManager[Any] | None:
    """Return a savepoint block of the caller's framework; None for a connection of psycopg."""
    alchemy = sys.modules.get("sqlalchemy.ext.asyncio")
    if alchemy is not None and isinstance(
        source, alchemy.AsyncSession | alchemy.async_scoped_session | alchemy.AsyncConnection
    ):
        block: AbstractAsyncContextManager[Any] = source.begin_nested()
        return block
    return None


def begin_nested(source: Any) -> AbstractContextManager[Any] | None:
    """Return a savepoint block of the caller's framework; None for a connection of psycopg."""
    block: AbstractContextManager[Any] | None = None
    if "sqlalchemy.orm" in sys.modules:
        orm = sys.modules["sqlalchemy.orm"]
        if isinstance(source, orm.Session | orm.scoped_session):
            block = source.begin_nested()
    if "sqlalchemy" in sys.modules:
        alchemy = sys.modules["sqlalchemy"]
        if isinstance(source, alchemy.Connection):
            block = source.begin_nested()
    if _is_django(source):
        block = sys.modules["django.db.transaction"].atomic(using=source.alias)
    return block
