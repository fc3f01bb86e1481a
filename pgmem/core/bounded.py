"""Execute a statement on the caller's own connection, for a bounded time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.generators import fetch_many
from psycopg.pq import TransactionStatus

from pgmem.core.connection import CANCEL_TIMEOUT, AnswerTimeoutError, run_within
from pgmem.core.libpq import execute_on
from pgmem.core.op import Row


async def fetch_within(
    connection: psycopg.AsyncConnection[Any], query: bytes, params: dict[str, Any], seconds: float
) -> Sequence[Row]:
    """Execute a statement on the caller's own connection, for at most `seconds`.

    Then the server is asked to cancel it, so that the caller can roll back. If the server is
    silent, or has executed the statement, the connection is closed: nothing may be committed.

    Raises:
        AnswerTimeoutError: the server did not answer in time.
    """
    pgconn = connection.pgconn
    async with connection.lock:
        work = execute_on(connection, query, params)
        try:
            rows: Sequence[Row] = await connection.wait(run_within(work, seconds))
        except AnswerTimeoutError:
            work.close()
            try:
                await connection.cancel_safe(timeout=CANCEL_TIMEOUT)
                await connection.wait(run_within(fetch_many(pgconn), CANCEL_TIMEOUT))
            except (psycopg.Error, OSError):
                pgconn.finish()
            if pgconn.transaction_status != TransactionStatus.INERROR:
                pgconn.finish()
            raise
    return rows
