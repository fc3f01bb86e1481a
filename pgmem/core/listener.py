"""The one connection of a memory that hears the doorbell, and reads what it rings for.

It says when it is lost, also when nobody tells it so: each statement on it has a deadline. It
reconnects by nobody's will but the tailer's, and knows nothing of events.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from datetime import tzinfo
from typing import TypeVar

import psycopg

from pgmem.core import statements as sql
from pgmem.core.concurrency import AsyncReadable
from pgmem.core.database import AsyncDatabase
from pgmem.core.history import History, read_history
from pgmem.core.notifications import MARK, AsyncTargetedNotifications
from pgmem.core.op import Op
from pgmem.core.pool import AsyncConnection
from pgmem.leases.ops import mark_session

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds in which the server must answer: longer, and the connection counts as lost."""

MAX_LETTERS = 1_000
"""More letters than this are worth no more than a bell."""

_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5_000,
}


class AsyncListener:
    """Listens, waits, and runs statements; one session after the other. Hands on signals.

    Attributes:
        heard: whether the bell rang since it was last set to False.
        letters: what came with it.
    """

    def __init__(self, database: AsyncDatabase, notifications: AsyncTargetedNotifications) -> None:
        self._database = database
        self._notifications = notifications
        self._readable = AsyncReadable()
        self._link: AsyncConnection | None = None
        self.heard = False
        self.letters: deque[str] = deque(maxlen=MAX_LETTERS)

    @property
    def zone(self) -> tzinfo:
        """The time zone of the times that statements give."""
        return self._session().info.timezone

    def _session(self) -> AsyncConnection:
        if self._link is None:
            raise psycopg.OperationalError("the listener is not connected")
        return self._link

    async def connect(self) -> History:
        """Connect, and listen if the channel is known; tells which history the log has.

        Where no pooler is between, others can see from now on that this process listens.

        Raises:
            psycopg.OperationalError: no connection.
            psycopg.Error: the server refused.
        """
        database = self._database
        answer_timeout = {"connect_timeout": max(2, int(PATIENCE))}
        options = {**database.listen_options, **_KEEPALIVE, **answer_timeout}
        prepare = None if database.listens_pooled else 1
        link = await AsyncConnection.connect(**options, autocommit=True, prepare_threshold=prepare)
        self._link = link
        link.answer_timeout = PATIENCE
        link.prepare_for_use()
        link.add_notify_handler(self._hear)
        history = await self.execute(read_history())
        if database.hears and history.timeline is not None:  # A standby refuses to LISTEN.
            # A new one each time: a session that was lost may be there for a while yet.
            mark = None if database.listens_pooled else secrets.randbits(62)
            if mark is not None:
                await self.execute(mark_session(mark))
            listen = sql.statement("schema_listen", sql.Dialect(database.schema))
            await link.execute(listen, prepare=False)
            self._notifications.mark = mark
        return history

    def _hear(self, notify: psycopg.Notify) -> None:
        self._take_in(notify.payload)

    def _take_in(self, payload: str) -> None:
        if payload.startswith(MARK):
            self._notifications.tell(payload)
            return
        self.heard = True
        if payload:
            self.letters.append(payload)

    async def execute(self, op: Op[T]) -> T:
        """Run a statement.

        Raises:
            psycopg.Error: the server refused, or the connection is lost.
        """
        query = self._database.statement(op, "silent", relaxed=False)
        return op.parse(await self._session().run(query, op.params))

    async def wait(self, timeout: float) -> None:
        """Wait for the bell, at most `timeout` seconds; `wake` ends it early, a signal does not.

        Raises:
            psycopg.Error: the connection is lost.
        """
        deadline = time.monotonic() + timeout
        self._collect()
        while not self.heard:
            await self._readable.wait(self._session().pgconn.socket, deadline - time.monotonic())
            if not self._collect() or time.monotonic() >= deadline:
                return

    def _collect(self) -> int:
        """Take in what has arrived; tells how much it was."""
        pgconn = self._session().pgconn
        pgconn.consume_input()
        count = 0
        while notify := pgconn.notifies():
            count += 1
            self._take_in(notify.extra.decode())
        return count

    def wake(self) -> None:
        """End a wait, from any thread."""
        self._readable.set()

    async def disconnect(self) -> None:
        """Give the session up."""
        link, self._link = self._link, None
        self._notifications.mark = None
        self.letters.clear()
        if link is not None:
            await link.close()

    def close(self) -> None:
        """Nobody waits any more."""
        self._readable.close()
