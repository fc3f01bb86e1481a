"""Run statements on a test's database, outside of pgmem."""

from __future__ import annotations

import psycopg


def sql(url: str, query: str, *params):
    """Run a statement and commit; return its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query, params or None)
        return cursor.fetchall() if cursor.description else []
