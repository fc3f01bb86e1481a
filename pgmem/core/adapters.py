"""Choose how parameters and rows travel, whatever the connection is set to.

psycopg's adapters dump the parameters and load the rows. They are pgmem's own copy, and rows travel
in binary form. So no setting of a role or a database changes a value (DateStyle, IntervalStyle,
TimeZone, bytea_output, extra_float_digits), nor does what a caller has registered on a connection.
Times are in UTC.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import psycopg
from psycopg import postgres
from psycopg.adapt import AdaptersMap
from psycopg.types.array import register_all_arrays
from psycopg.types.datetime import TimestamptzBinaryLoader
from psycopg.types.json import set_json_loads

from pgmem.core.arrays import register
from pgmem.errors import InvalidInput


class Adaptation(NamedTuple):
    """The adapters of statements, and the connection whose encoding they use; None for UTF-8."""

    adapters: AdaptersMap
    connection: psycopg.BaseConnection[Any] | None


class _UtcLoader(TimestamptzBinaryLoader):
    """Load times in UTC, whatever the time zone of the connection."""

    def __init__(self, oid: int, context: object = None) -> None:
        super().__init__(oid)


def _utf8() -> Adaptation:
    context = Adaptation(AdaptersMap(types=postgres.types), None)
    postgres.register_default_adapters(context)
    register_all_arrays(context)
    set_json_loads(json.loads, context)  # A caller may have set another one for the process.
    register(context.adapters)
    return context


_UTF8 = _utf8()

# psycopg's C loader replaces its own class, not a subclass. So only the rare case is slower.
_OTHER_ADAPTERS = AdaptersMap(_UTF8.adapters)
_OTHER_ADAPTERS.register_loader("timestamptz", _UtcLoader)


def adaptation(connection: psycopg.BaseConnection[Any]) -> Adaptation:
    """Return how texts travel on a connection.

    A database in SQL_ASCII stores the bytes that it is sent, so they are UTF-8 for every client. A
    client in SQL_ASCII is sent the bytes that the database stores.

    Raises:
        InvalidInput: the two encodings do not go together.
    """
    client = connection.pgconn.parameter_status(b"client_encoding")
    server = connection.pgconn.parameter_status(b"server_encoding")
    if client == b"UTF8" or server == b"SQL_ASCII" or (client, server) == (b"SQL_ASCII", b"UTF8"):
        return _UTF8
    if client == b"SQL_ASCII":
        raise InvalidInput(
            f"the connection has client_encoding SQL_ASCII and its database is in "
            f"{(server or b'another encoding').decode()}, so texts would be stored wrongly. "
            f"Connect with client_encoding=UTF8"
        )
    return Adaptation(_OTHER_ADAPTERS, connection)
