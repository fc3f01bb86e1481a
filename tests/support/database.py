"""Run statements on a test's database, outside of pgmem."""

from __future__ import annotations

import psycopg


def sql(url: str, query: str, *params):
    """Run a statement and commit; return its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, params or None)
        return cursor.fetchall() if cursor.description else []


def lock_waits(connection) -> list[int]:
    """Return the sessions of this database that wait for a lock.

    The server has the databases of other tests, too, and a row lock does not say its database.
    """
    rows = connection.execute(
        "SELECT DISTINCT pid FROM pg_locks WHERE NOT granted AND pid IN ("
        "SELECT pid FROM pg_locks WHERE database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()))"
    ).fetchall()
    return [pid for (pid,) in rows]
