"""Connect to one schema: the handshake, the texts of the statements, the state of notifications.

Nothing that it sets outlives a transaction, so a pooler may be in between.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgmem.core import statements as sql
from pgmem.core.concurrency import async_sleep, run_in_thread
from pgmem.core.connection import AnswerTimeoutError, AsyncConnection
from pgmem.core.history import History, read_history
from pgmem.core.libpq import execute_on
from pgmem.core.op import Op, Retry, Row
from pgmem.core.outage import Outage
from pgmem.core.pool import AsyncPool
from pgmem.core.schema_fit import check_fit, check_positions
from pgmem.core.silence import FORCED_SECONDS, Silence
from pgmem.core.sqlstates import translate
from pgmem.core.starting import RETRY_SECONDS, is_starting
from pgmem.core.url import redacted
from pgmem.errors import (
    HistoryRewritten,
    NotOpen,
    OutcomeUnknown,
    SchemaError,
    Unavailable,
)

log = logging.getLogger("pgmem")


_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "fallback_application_name": "pgmem",
}

_ENCODING = {"client_encoding": "UTF8"}
"""Poolers know this setting and keep it apart for each client. What the URL, PGCLIENTENCODING, the
role or the database say could not carry every text."""

_QUEUE_FULL_PAUSE = 5.0


async def fetch(
    connection: psycopg.AsyncConnection[Any], query: bytes, params: dict[str, Any]
) -> Sequence[Row]:
    """Execute one statement on a connection outside the pool, or the caller's; return the rows.

    Raises:
        psycopg.Error: the server refused the statement, or the connection was lost.
        InvalidInput: the connection's encoding cannot be used.
    """
    async with connection.lock:
        rows: Sequence[Row] = await connection.wait(execute_on(connection, query, params))
    return rows


class AsyncDatabase:
    """The connections of one process to one schema.

    Attributes:
        history: the history of the log that the readers of the memory follow.
        found: another history that a connection has found, and that is to be checked; or None.
        pooled: True if a pooler is in between.
        outage: is told when a part of the memory loses the server, and when it has it again.
        background: runs what is left to do after a call was cancelled.
        sessions: how many connections the pool has made.
        channel: the notification channel; empty if this role does not know it.
        statements: the texts of statements that were used, by what `statement` takes.
        notify_altered: True if `statement` may choose another way to notify than it is asked for.
        notify_watched: True if `check_notify_result` needs the next result, whatever it is.
        inline: whether small events travel in notifications; the schema's owner decides.
        queue_warned: True from when the notification queue fills up until it has room again.
        commit_wait: the statement that waits for the WAL flush of earlier commits.
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
        # listen_url= implies a pooler. Without it the handshake looks for one.
        self.pooled = self._listens_beside = listen_conninfo is not None
        self.history = History(0, None)
        self.found: History | None = None
        self._rewritten: HistoryRewritten | None = None
        self._refused: SchemaError | None = None
        self.sessions = 0
        self.schema = schema
        self.relaxed = relaxed
        self.timeout = timeout
        self.channel = ""
        self.notify_altered = self.notify_watched = False
        self._notify_paused_until = self._notify_forced_until = 0.0
        self._silence = Silence()
        self.inline = False
        self.queue_warned = False
        self.statements: dict[tuple[Any, ...], bytes] = {}
        self.commit_wait = sql.statement("commit_wait", sql.Dialect(schema))
        self._options: dict[str, Any] = {
            **_KEEPALIVE,
            "connect_timeout": max(2, int(timeout)),
            **conninfo_to_dict(conninfo),
            **_ENCODING,
        }
        self.listen_options = {
            **self._options,
            "fallback_application_name": "pgmem listener",  # visible in pg_stat_activity
            **conninfo_to_dict(listen_conninfo or conninfo),
            **_ENCODING,
        }
        self.outage = Outage(self.where)
        self._pool = AsyncPool(
            self._options,
            where=self.where,
            sizes=sizes,
            timeout=timeout,
            on_connect=self._record_history,
            outage=self.outage,
        )
        self.background = self._pool.background
        self.acquire = self._pool.acquire
        self.take_idle = self._pool.take_idle
        self.require_open = self._pool.require_open
        self.release = self._pool.release
        self.discard_unused = self._pool.discard_unused

    @property
    def pool_size(self) -> int:
        """The most connections of the pool."""
        return self._pool.size

    @property
    def where(self) -> str:
        """The server and database, without the password, for messages."""
        return redacted(self.conninfo)

    def _warn_of_hosts(self) -> None:
        """Warn if one of several hosts may be a standby."""
        several = "," in str(self._options.get("host") or self._options.get("hostaddr") or "")
        chosen = self._options.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS")
        if several and chosen in (None, "any"):
            log.warning(
                "the URL of %s has several hosts, and connections may go to a standby, which takes "
                "no writes. Add target_session_attrs=read-write",
                self.where,
            )

    async def open(self) -> None:
        """Connect, check that schema and library fit, and fill the pool.

        Raises:
            Unavailable: the server could not be reached in time.
            SchemaError: the schema is missing, older or newer.
        """
        if self._pool.opened:
            raise NotOpen("open() was called twice: a Memory is opened once")
        self._warn_of_hosts()
        await self._handshake()
        # A pooler older than PgBouncer 1.21 mixes up the prepared statements of its clients.
        await self._pool.open(prepare=not self.pooled)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def _handshake(self) -> None:
        connection = await self._first_connection()
        connection.answer_timeout = self.timeout
        try:
            await self._check_schema(connection)
            self.channel, self.inline = await self._find_channel(connection)
            self.history = await self._read_history(connection)
            self.found = self._rewritten = None
            self._refused = await self._check_positions(connection)
            self.statements.clear()
        finally:
            connection.give_up()

    async def _first_connection(self) -> AsyncConnection:
        """Connect, and wait up to `timeout` seconds for a server that is not up yet."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return await self.connect()
            except Unavailable:
                if time.monotonic() >= deadline or not await run_in_thread(
                    is_starting, self._options
                ):
                    raise
            await async_sleep(RETRY_SECONDS)

    async def connect(self) -> AsyncConnection:
        """Open a connection outside the pool. The caller gives it up.

        Raises:
            Unavailable: the server was not reached.
        """
        try:
            connection = await AsyncConnection.connect(
                **self._options, autocommit=True, prepare_threshold=None
            )
        except psycopg.OperationalError as error:
            raise self._unreachable(error) from None
        connection.prepare_for_use(self.background)
        connection.check_after = self.timeout / 2
        return connection

    async def check_alive(self, connection: AsyncConnection) -> float:
        """Check that the server works on a long statement. Return the seconds until the next check.

        Nothing on the statement's own connection tells a busy server from a silent one.

        Raises:
            AnswerTimeoutError: the server does not answer on another connection, or it has ended
                the statement and its answer did not come.
        """
        seconds = self.timeout / 2
        states: list[str | None] = []
        await self.background.run_for(
            seconds, self._read_state, connection.info.backend_pid, states
        )
        if not states:
            raise AnswerTimeoutError(f"{self.where} does not answer")
        working = self.pooled or states[0] in (None, "active")
        if not working and connection.found_idle:
            raise AnswerTimeoutError(f"{self.where} has ended the statement and does not answer")
        # Its answer may be on its way.
        connection.found_idle = not working
        return seconds

    async def _read_state(self, pid: int, states: list[str | None]) -> None:
        """Add the state of a session, which is None if the role may not see it."""
        query = b"SELECT state FROM pg_catalog.pg_stat_activity WHERE pid = %(pid)s"
        try:
            other = await self.connect()
        except Unavailable:
            return
        try:
            other.answer_timeout = self.timeout / 2
            rows = await other.run(query, {"pid": pid})
            states.append(rows[0][0] if rows else "ended")
        except psycopg.Error as error:
            log.debug("the state of a session could not be read: %s", error)
        finally:
            other.give_up()

    async def _read_history(self, connection: psycopg.AsyncConnection[Any]) -> History:
        op = read_history()
        try:
            return op.parse(await fetch(connection, self.statement(op, "never", relaxed=False), {}))
        except psycopg.Error as error:
            raise translate(error, op.action) from None

    async def _record_history(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.sessions += 1
        self.record_history(await self._read_history(connection))

    def record_history(self, history: History) -> None:
        """Record the history that a connection found, to check it if it is not the known one."""
        known = self.history
        if history.system_identifier == known.system_identifier and history.timeline is None:
            return  # A standby has no timeline of its own. Its history goes on when it is promoted.
        self.found = None if history == known else history

    def go_on(self, known: History, found: History) -> bool:
        """Follow another history. Return False if another reader has done it before."""
        if self.history != known:
            return False
        self.history, self.found = found, None
        return True

    def lose(self, error: HistoryRewritten) -> None:
        """Follow another history, which does not hold what the readers have seen."""
        self.history, self.found, self._rewritten = error.found, None, error

    def check_position(self, position: int) -> None:
        """Raise if a caller's position may belong to a history that this memory has lost.

        Raises:
            HistoryRewritten: it may.
        """
        error = self._rewritten
        if error is not None and position > 0:
            raise HistoryRewritten(
                f"go on after position {position}: {error}. To use this position in the present "
                f"history, open a new Memory",
                position=position,
                expected=error.expected,
                found=error.found,
                agrees_up_to=error.agrees_up_to,
                lost=error.lost,
            )

    def _unreachable(self, error: psycopg.OperationalError) -> Unavailable:
        # The message may repeat the URL's parameters, but never the password: libpq leaves it out.
        reason = " ".join(str(error).split()) or "no answer in time"
        return Unavailable(
            f"cannot connect to {self.where} (waited up to {self._options['connect_timeout']} s): "
            f"{reason}. Check that the server runs and that the URL is right"
        )

    async def _check_schema(self, connection: psycopg.AsyncConnection[Any]) -> None:
        query = sql.statement("schema_revision", sql.Dialect(self.schema))
        try:
            rows = await fetch(connection, query, {})
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            rows = []
        except psycopg.Error as error:
            raise translate(error, f"read the schema revision at {self.where}") from None
        session = check_fit(rows, self.where, self.schema)
        self.pooled = self._listens_beside or session != connection.info.backend_pid

    async def _check_positions(self, connection: AsyncConnection) -> SchemaError | None:
        """Return the error for writes if the sequence of positions is behind the log."""
        query = sql.statement("schema_positions", sql.Dialect(self.schema))
        try:
            rows = await fetch(connection, query, {})
        except psycopg.errors.InsufficientPrivilege:
            return None  # The role may not read the log.
        except psycopg.Error as error:
            raise translate(error, f"read the last position at {self.where}") from None
        return check_positions(rows, self.where, self.schema)

    async def _find_channel(self, connection: psycopg.AsyncConnection[Any]) -> tuple[str, bool]:
        query = sql.statement("schema_channel", sql.Dialect(self.schema))
        try:
            rows = await fetch(connection, query, {})
        except psycopg.errors.InsufficientPrivilege:
            return "", False  # The role may only read.
        except psycopg.Error as error:
            raise translate(error, f"read the notification channel at {self.where}") from None
        channel, inline = rows[0]
        return str(channel), bool(inline)

    def statement(self, op: Op[Any], notify: sql.NotifyMode, *, relaxed: bool) -> bytes:
        """Return the text of an op's statement."""
        if not self.channel:
            notify = "never"
        elif self.notify_altered:
            now = time.monotonic()
            if now < self._notify_paused_until:
                notify = "never"
            elif notify == "if_free" and now < self._notify_forced_until:
                notify = "always"
        known = (op.statement, notify, relaxed, op.fragments)
        found = self.statements.get(known)
        if found is None:
            if self._refused is not None and op.retry is not Retry.READ:
                raise SchemaError(f"{op.action}: {self._refused}")
            dialect = sql.Dialect(self.schema, self.channel, notify, relaxed, self.inline)
            found = self.statements[known] = sql.statement(op.statement, dialect, op.fragments)
        return found

    def params(self, op: Op[Any]) -> dict[str, Any]:
        """Return the parameters of an op's statement."""
        return op.params if op.retry is Retry.READ else {**op.params, "channel": self.channel}

    @property
    def listens_pooled(self) -> bool:
        """True if the listener's connection goes through a pooler."""
        return self.pooled and not self._listens_beside

    @property
    def may_listen(self) -> bool:
        """True if this role knows the notification channel."""
        return self.channel != ""

    def check_notify_result(self, rows: Sequence[Row]) -> None:
        """Stop notifying while the queue fills up. Take no lock if the locks are never free."""
        result = rows[0][-1] if rows and rows[0] else None
        now = time.monotonic()
        if result == "full":
            self.pause_notify()
        elif result == "busy" and now >= self._notify_forced_until:
            if self._silence.add(now):
                self._notify_forced_until = now + FORCED_SECONDS
                self.notify_altered = True
        elif result == "sent":
            # During the pause, this is the answer of an earlier notification.
            self.queue_warned = self.queue_warned and now < self._notify_paused_until
            if now >= self._notify_forced_until:
                self._silence = Silence()
        self.notify_watched = self.queue_warned or self._silence.number > 0

    def pause_notify(self) -> None:
        """Stop notifying for a while. Readers find new events by their safety poll."""
        if not self.queue_warned:
            self.queue_warned = True
            log.warning(
                "the notification queue of %s is filling up: a session LISTENs and never reads "
                "(see pg_stat_activity). Events are written, readers see them later",
                self.where,
            )
        self._notify_paused_until = time.monotonic() + _QUEUE_FULL_PAUSE
        self.notify_altered = self.notify_watched = True

    def check_confirmed(self, connection: AsyncConnection, action: str) -> None:
        """Raise if the last commit was not confirmed by its synchronous standby.

        Raises:
            OutcomeUnknown: the commit is on this server and may be on no other.
        """
        if connection.unconfirmed:
            connection.unconfirmed = False
            raise self.unconfirmed(action)

    @staticmethod
    def unconfirmed(action: str) -> OutcomeUnknown:
        """Return the error for a commit that its synchronous standby has not confirmed."""
        return OutcomeUnknown(
            f"{action}: committed on this server, but the wait for its synchronous standby was "
            f"cancelled: a failover may lose it. Read back after the failover"
        )
