# Generated from pgmem/core/listener.py by tools/generate_sync.py. Do not edit.
"""Hold the connection of a memory that listens for notifications and polls the log.

Each statement on it has a deadline, so that a connection that went silent is noticed. The follower
decides when to connect and what to execute.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from typing import TypeVar

import psycopg

from pgmem._sync.core.connection import Connection
from pgmem._sync.core.database import Database
from pgmem._sync.core.notifications import TARGETED_PREFIX, TargetedNotifications
from pgmem.core import statements as sql
from pgmem.core.concurrency import Readable
from pgmem.core.history import History, read_history
from pgmem.core.op import Op

T = TypeVar("T")

ANSWER_TIMEOUT = 5.0
"""Seconds in which the server must answer. After that the connection counts as lost."""

MAX_INLINE = 1_000
"""How many inline events are kept. Above that one poll is cheaper."""

_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5_000,
}


def register_listener(listener_id: int) -> Op[None]:
    """Take the advisory lock by which others see that this process listens."""
    params = {"listener_id": listener_id}
    return Op("listener_register", params, lambda rows: None, "register the listening session")


class Listener:
    """Listen, wait and execute statements, in one session after another.

    Attributes:
        notified: True if a notification came since the follower last set it to False.
        inlined: the payloads that came with notifications.
    """

    def __init__(self, database: Database, notifications: TargetedNotifications) -> None:
        self._database = database
        self._notifications = notifications
        self._readable = Readable()
        self._connection: Connection | None = None
        self.notified = False
        self.inlined: deque[str] = deque(maxlen=MAX_INLINE)

    def _session(self) -> Connection:
        if self._connection is None:
            raise psycopg.OperationalError("the listener is not connected")
        return self._connection

    def connect(self) -> History:
        """Connect, LISTEN if the role knows the channel, and return the log's history.

        Where no pooler is in between, the server knows from now on that this process listens.

        Raises:
            psycopg.OperationalError: no connection.
            psycopg.Error: the server refused.
        """
        database = self._database
        timeout = {"connect_timeout": max(2, int(ANSWER_TIMEOUT))}
        options = {**database.listen_options, **_KEEPALIVE, **timeout}
        prepare = None if database.listens_pooled else 1
        connection = Connection.connect(**options, autocommit=True, prepare_threshold=prepare)
        self._connection = connection
        connection.answer_timeout = ANSWER_TIMEOUT
        connection.prepare_for_use(database.background)
        connection.add_notify_handler(self._on_notify)
        history = self.execute(read_history())
        if database.may_listen and history.timeline is not None:  # A standby refuses LISTEN.
            # A new id for each session: a lost session may exist on the server for a while.
            listener_id = None if database.listens_pooled else secrets.randbits(62)
            if listener_id is not None:
                self.execute(register_listener(listener_id))
            listen = sql.statement("schema_listen", sql.Dialect(database.schema))
            connection.execute(listen, prepare=False)
            self._notifications.listener_id = listener_id
        return history

    def _on_notify(self, notify: psycopg.Notify) -> None:
        self._accept(notify.payload)

    def _accept(self, payload: str) -> None:
        if payload.startswith(TARGETED_PREFIX):
            self._notifications.deliver(payload)
            return
        self.notified = True
        if payload:
            self.inlined.append(payload)

    def execute(self, op: Op[T]) -> T:
        """Execute an op.

        Raises:
            psycopg.Error: the server refused, or the connection is lost.
        """
        query = self._database.statement(op, "never", relaxed=False)
        return op.parse(self._session().run(query, op.params))

    def wait(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for a notification.

        `wake` ends the wait early. A targeted notification does not.

        Raises:
            psycopg.Error: the connection is lost.
        """
        deadline = time.monotonic() + timeout
        self._receive()
        while not self.notified:
            self._readable.wait(self._session().lend_socket(), deadline - time.monotonic())
            if not self._receive() or time.monotonic() >= deadline:
                return

    def _receive(self) -> int:
        """Accept the notifications that have arrived, and return their number."""
        pgconn = self._session().pgconn
        pgconn.consume_input()
        count = 0
        while notify := pgconn.notifies():
            count += 1
            self._accept(notify.extra.decode())
        return count

    def wake(self) -> None:
        """End a wait, from any thread."""
        self._readable.set()

    def disconnect(self) -> None:
        """Close the session."""
        connection, self._connection = self._connection, None
        self._notifications.listener_id = None
        self.inlined.clear()
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Release the wakeup's descriptors. Nothing may wait any more."""
        self._readable.close()
