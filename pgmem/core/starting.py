"""Tell a server that is not up yet from one that refuses this client."""

from __future__ import annotations

from typing import Any

from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

RETRY_SECONDS = 0.1
"""Seconds between two tries to connect to a server that is not up yet."""

PING_SECONDS = 2
"""Seconds, at most, that a ping takes. It is the least that libpq allows."""


def is_starting(options: dict[str, Any]) -> bool:
    """Return True if the server may be up soon: there is none, or it refuses every client.

    A wrong password or database is refused by a server that is up, so waiting would not help.

    Args:
        options: psycopg's connection parameters.
    """
    conninfo = make_conninfo("", **{**options, "connect_timeout": PING_SECONDS})
    return PGconn.ping(conninfo.encode()) in (Ping.REJECT, Ping.NO_RESPONSE)
