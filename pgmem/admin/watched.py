"""A connection for migrations that notices a server which went silent.

A statement of a migration may take long, or wait for another process that migrates. So its time is
not bounded. Instead a second connection asks now and then if the server works on it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, Self, TypeVar

import psycopg

from pgmem.core.connection import run_within

R = TypeVar("R")

_NOT_READY = 0  # psycopg's Ready.NONE: nothing came for a tenth of a second


class WatchedConnection(psycopg.Connection[Any]):
    """Raises OperationalError if the server is silent, and is closed then."""

    _conninfo = ""
    _seconds = 0.0

    @classmethod
    def open(cls, conninfo: str, seconds: float) -> Self:
        """Connect. Statements are not prepared: the server may be behind PgBouncer.

        Args:
            conninfo: the database.
            seconds: how long to wait for the connection, and how long the server may be silent
                before it is asked. It must answer in the same time.
        """
        found = cls.connect(
            conninfo,
            prepare_threshold=None,
            connect_timeout=int(seconds),
            client_encoding="UTF8",
        )
        found._conninfo, found._seconds = conninfo, seconds
        return found

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one of psycopg's generators, and watch the server meanwhile."""
        return super().wait(self._watch(gen) if self._conninfo else gen, *args, **kwargs)

    def _watch(self, generator: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
        due, idle = time.monotonic() + self._seconds, 0
        try:
            wanted = next(generator)
            while True:
                ready = yield wanted
                if ready == _NOT_READY and time.monotonic() > due:
                    # An answer may be on its way, but not for long.
                    idle = 0 if self._is_worked_on() else idle + 1
                    if idle > 1:
                        raise self._silent()
                    due = time.monotonic() + self._seconds
                wanted = generator.send(ready)
        except StopIteration as end:
            result: R = end.value
            return result

    def _is_worked_on(self) -> bool:
        """Ask on another connection. False if the server has ended the statement."""
        query = "SELECT state FROM pg_catalog.pg_stat_activity WHERE pid = %s"
        try:
            with _Bounded.open(self._conninfo, self._seconds) as other:
                # A pooler may be in between: then the process is not this one.
                row = other.execute(query, [self.info.backend_pid]).fetchone()
        except psycopg.OperationalError as error:
            raise self._silent() from error
        return row is None or row[0] in (None, "active")

    def _silent(self) -> psycopg.OperationalError:
        self.pgconn.finish()
        return psycopg.OperationalError(
            f"the server did not answer within {self._seconds:g} s. Run it again"
        )


class _Bounded(WatchedConnection):
    """A connection whose statements take no longer than its `seconds`."""

    def _watch(self, generator: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
        return run_within(generator, self._seconds)
