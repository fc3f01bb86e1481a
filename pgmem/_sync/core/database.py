# Generated from pgmem/core/database.py by tools/generate_sync.py. Do not edit.
"""The way to the server: the handshake, the text of the statements, the state of the bell.

Knows nothing of events or state. Nothing that it sets outlives a transaction, so that a pooler may
stand between.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from pgmem._sync.core.pool import Connection, Pool
from pgmem.core import statements as sql
from pgmem.core.arrays import has_columns, register
from pgmem.core.history import History, read_history, rewritten_error
from pgmem.core.names import SCHEMA_REVISION
from pgmem.core.op import Op, Retry, Row
from pgmem.core.sqlstates import translate
from pgmem.core.url import redacted
from pgmem.errors import (
    NotOpen,
    OutcomeUnknown,
    SchemaError,
    SchemaMissing,
    SchemaTooNew,
    SchemaTooOld,
    Unavailable,
)

log = logging.getLogger("pgmem")

MINIMUM_SERVER = 150000

_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "fallback_application_name": "pgmem",
}

_QUEUE_FULL_PAUSE = 5.0


def fetch(
    connection: psycopg.Connection[Any], query: bytes, params: dict[str, Any]
) -> Sequence[Row]:
    """Run one statement on any connection and fetch its rows (none, where it gives none), whatever
    row factory it has."""
    cursor = connection.cursor(row_factory=tuple_row)
    if has_columns(params):
        register(cursor.adapters)  # of this cursor alone: the connection may be the user's
    cursor.execute(query, params)
    return cursor.fetchall() if cursor.description else []


class Database:
    """One process's connections to one schema.

    Attributes:
        history: the history of the log that this memory was opened on.
        pooled: whether a pooler stands between.
        sessions: how many connections the pool has made.
        commit_wait: the statement that waits for what was committed without waiting.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str,
        relaxed: bool,
        sizes: tuple[int, int],
        timeout: float,
        listen_conninfo: str | None = None,
    ) -> None:
        self.conninfo = conninfo
        # Who gives a way to listen beside the pooler has a pooler; others are probed for one.
        self.pooled = self._listens_beside = listen_conninfo is not None
        self.history = History(0, None)
        self._found: History | None = None
        self.sessions = 0
        self.schema = schema
        self.relaxed = relaxed
        self.timeout = timeout
        self._channel = ""
        self._bell_pause = 0.0
        self._told_full = False
        self._statements: dict[tuple[Any, ...], bytes] = {}
        self.commit_wait = sql.statement("commit_wait", sql.Dialect(schema))
        self._options: dict[str, Any] = {
            **_KEEPALIVE,
            "connect_timeout": max(2, int(timeout)),
            **conninfo_to_dict(conninfo),
        }
        self.listen_options = {
            **self._options,
            "fallback_application_name": "pgmem listener",  # so that somebody can count them
            **conninfo_to_dict(listen_conninfo or conninfo),
        }
        self._links = Pool(
            self._options,
            where=self.where,
            sizes=sizes,
            timeout=timeout,
            on_connect=self._meet,
        )
        self.acquire = self._links.acquire
        self.require_open = self._links.require_open
        self.give_back = self._links.give_back

    @property
    def where(self) -> str:
        """The server and database, for messages: without the password."""
        return redacted(self.conninfo)

    def open(self) -> None:
        """Connect, check that schema and library fit, and fill the pool.

        Raises:
            Unavailable: the server could not be reached in time.
            SchemaError: the schema is missing, older or newer.
        """
        if self._links.opened:
            raise NotOpen("open() was called twice: one Memory is opened once")
        self._handshake()
        # A pooler older than PgBouncer 1.21 mixes up the prepared statements of its clients.
        self._links.open(prepare=not self.pooled)

    def close(self) -> None:
        """Close every connection."""
        self._links.close()

    def _handshake(self) -> None:
        with self.connect() as link:
            self._check_schema(link)
            self._channel = self._find_channel(link)
            self.history = self._read_history(link)
            self._statements.clear()

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of its own, beside the pool's. Whoever makes it closes it.

        Raises:
            Unavailable: the server was not reached.
        """
        try:
            return psycopg.Connection.connect(**self._options, autocommit=True)
        except psycopg.OperationalError as error:
            raise self._unreachable(error) from None

    def _read_history(self, link: psycopg.Connection[Any]) -> History:
        op = read_history()
        try:
            return op.parse(fetch(link, self.statement(op, "silent", relaxed=False), {}))
        except psycopg.Error as error:
            raise translate(error, op.action) from None

    def _meet(self, link: psycopg.Connection[Any]) -> None:
        self.sessions += 1
        self.meet(self._read_history(link))

    def meet(self, history: History) -> None:
        """Take in which history a connection has found.

        A standby has no timeline of its own: its history goes on when it is promoted.
        """
        known = self.history
        if history.system_identifier == known.system_identifier:
            if history.timeline is None or history.timeline == known.timeline:
                return
            if known.timeline is None:
                self.history = history
                return
        self._found = history

    def check_history(self, position: int | None = None) -> None:
        """Refuse to go on from a position of another history.

        Raises:
            HistoryRewritten: the log is not the one that this memory was opened on.
        """
        if self._found is not None:
            raise rewritten_error(self.history, self._found, position)

    def check_timeline(self, timeline: int | None, position: int | None = None) -> None:
        """Take in which timeline a page of the log came from, and refuse another one.

        Raises:
            HistoryRewritten: as `check_history`.
        """
        if timeline != self.history.timeline:
            self.meet(History(self.history.system_identifier, timeline))
        self.check_history(position)

    def _unreachable(self, error: psycopg.OperationalError) -> Unavailable:
        # The message may repeat the URL's parameters, but never the password: libpq leaves it out.
        reason = " ".join(str(error).split()) or "no answer in time"
        return Unavailable(
            f"cannot connect to {self.where} (waited up to {self._options['connect_timeout']} s): "
            f"{reason}. Check that the server runs and that the URL is right"
        )

    def _check_schema(self, link: psycopg.Connection[Any]) -> None:
        query = sql.statement("schema_revision", sql.Dialect(self.schema))
        advice = f"`pgmem migrate up --schema {self.schema}`"
        try:
            rows = fetch(link, query, {})
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            rows = []
        except psycopg.Error as error:
            raise translate(error, f"read the schema revision at {self.where}") from None
        if not rows:
            raise SchemaMissing(
                f"{self.where} has no pgmem tables in the schema {self.schema!r}: run {advice}, "
                f"or give the schema= that they are in"
            )
        revision, server, session = rows[0]
        self.pooled = self._listens_beside or session != link.info.backend_pid
        if server < MINIMUM_SERVER:
            raise SchemaError(f"{self.where} runs PostgreSQL {server // 10000}: 15 is the oldest")
        if revision < SCHEMA_REVISION:
            raise SchemaTooOld(
                f"the schema {self.schema!r} at {self.where} has revision {revision}, this "
                f"library needs {SCHEMA_REVISION}: run {advice}"
            )
        if revision > SCHEMA_REVISION:
            raise SchemaTooNew(
                f"the schema {self.schema!r} at {self.where} has revision {revision}, this "
                f"library knows {SCHEMA_REVISION}: upgrade pgmem-agents"
            )

    def _find_channel(self, link: psycopg.Connection[Any]) -> str:
        query = sql.statement("schema_channel", sql.Dialect(self.schema))
        try:
            rows = fetch(link, query, {})
        except psycopg.errors.InsufficientPrivilege:
            return ""  # A role that may only read is not told where to ring.
        except psycopg.Error as error:
            raise translate(error, f"read the doorbell's channel at {self.where}") from None
        return str(rows[0][0])

    def statement(self, op: Op[Any], bell: sql.NotifyMode, *, relaxed: bool) -> bytes:
        """The text of an op's statement."""
        if not self._channel or (self._bell_pause and time.monotonic() < self._bell_pause):
            bell = "silent"
        known = (op.statement, bell, relaxed, op.fragments)
        found = self._statements.get(known)
        if found is None:
            dialect = sql.Dialect(self.schema, self._channel, bell, relaxed)
            found = self._statements[known] = sql.statement(op.statement, dialect, op.fragments)
        return found

    def params(self, op: Op[Any]) -> dict[str, Any]:
        """The parameters of an op's statement."""
        return op.params if op.retry is Retry.READS else {**op.params, "channel": self._channel}

    @property
    def listens_pooled(self) -> bool:
        """Whether the listener's connection goes through a pooler."""
        return self.pooled and not self._listens_beside

    @property
    def hears(self) -> bool:
        """Whether this role knows the doorbell."""
        return self._channel != ""

    def bell_answered(self, rows: Sequence[Row]) -> None:
        """Leave the bell alone for a while if the notification queue is filling up."""
        if rows and rows[0]:
            if rows[0][-1] == "full":
                self.rest_bell()
            elif self._told_full and rows[0][-1] == "rung":
                # While the bell rests, this is the answer of one who rang before.
                self._told_full = time.monotonic() < self._bell_pause

    def rest_bell(self) -> None:
        """Do not ring for a while: readers find new events by their safety poll."""
        if not self._told_full:
            self._told_full = True
            log.warning(
                "the notification queue of %s is filling up: some session LISTENs and never "
                "reads (see pg_stat_activity). Events are written, readers see them later",
                self.where,
            )
        self._bell_pause = time.monotonic() + _QUEUE_FULL_PAUSE

    def check_confirmed(self, link: Connection, action: str) -> None:
        """Raise if the last commit was not confirmed by the standby that it must wait for.

        Raises:
            OutcomeUnknown: the commit is on this server, and perhaps nowhere else.
        """
        if link.unconfirmed:
            link.unconfirmed = False
            raise OutcomeUnknown(
                f"{action}: committed on this server, but the wait for its synchronous standby "
                f"was cancelled: a failover may lose it. Read back after the failover"
            )
