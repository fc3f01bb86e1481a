# Generated from pgmem/core/listener.py by tools/generate_sync.py. Do not edit.
"""Hold the connection of a memory that listens for notifications and polls the log.

All waiting is in `wait`, for the socket. `receive` takes in what has arrived, notifications and
the answer to the statement under way, and never waits. So one task or thread can send a statement
and another one take its answer, and a waiter that is cancelled leaves nothing half done::

    send(op) ──► wait ──► receive ──► notifications, and the answer or None

Each statement has a deadline, so that a connection that went silent is noticed. The follower
decides when to connect and what to execute.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

from pgmem._sync.core.connection import AnswerTimeoutError, Connection
from pgmem._sync.core.database import Database
from pgmem._sync.core.notifications import TARGETED_PREFIX, TargetedNotifications
from pgmem.core import statements as sql
from pgmem.core.concurrency import Wakeup
from pgmem.core.history import History, read_history
from pgmem.core.op import Op, Row
from pgmem.core.sockets import Readable

T = TypeVar("T")

ANSWER_TIMEOUT = 5.0
"""Seconds in which the server must answer. After that the connection counts as lost."""

PROBE = f'{TARGETED_PREFIX},"",0]'
"""A targeted notification for no waiter: a session sends it to itself, to see that it listens."""

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


def probe(listener_id: int, channel: str) -> Op[None]:
    """Send a notification to the session itself."""
    params = {"listener_id": listener_id, "channel": channel, "payload": PROBE}
    return Op("listener_probe", params, lambda rows: None, "notify the listening session")


class Listener:
    """Listen, wait and execute statements, in one session after another.

    Attributes:
        payloads: the notifications of events that have arrived, for the follower.
        reached: when the last statement that was answered was sent, or when the last try to connect
            began, by the monotonic clock.
    """

    def __init__(self, database: Database, notifications: TargetedNotifications) -> None:
        self._database = database
        self._notifications = notifications
        self._readable = Readable()
        self._connection: Connection | None = None
        self._parse: Callable[[Sequence[Row]], Any] | None = None
        self._answer_due = 0.0
        self._sent_at = 0.0
        self.reached = 0.0
        self.payloads: deque[str] = deque()

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
        self.reached = time.monotonic()
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
            self._readable.forget()
            connection.execute(listen, prepare=False)
            self._notifications.listener_id = listener_id
            if listener_id is not None:
                self.execute(probe(listener_id, database.channel))
        return history

    def _on_notify(self, notify: psycopg.Notify) -> None:
        self._accept(notify.payload)

    def _accept(self, payload: str) -> None:
        if payload.startswith(TARGETED_PREFIX):
            self._notifications.arrive = True
            self._notifications.deliver(payload)
        else:
            self.payloads.append(payload)

    def execute(self, op: Op[T]) -> T:
        """Execute an op and wait for its answer.

        Raises:
            psycopg.Error: the server refused, or the connection is lost.
        """
        query = self._database.statement(op, "never", relaxed=False)
        self._readable.forget()  # psycopg waits for the socket by itself.
        sent_at = time.monotonic()
        rows = self._session().run(query, op.params)
        self.reached = sent_at
        return op.parse(rows)

    @property
    def busy(self) -> bool:
        """True while a statement is under way."""
        return self._parse is not None

    @property
    def answer_due(self) -> float:
        """When the answer to the statement under way must have come, by the monotonic clock."""
        return self._answer_due

    @property
    def notified(self) -> bool:
        """True if this session has shown that notifications arrive."""
        return self._notifications.arrive

    def send(self, op: Op[Any]) -> None:
        """Send a statement. `receive` returns its result.

        Raises:
            psycopg.Error: the connection is lost.
        """
        query = self._database.statement(op, "never", relaxed=False)
        self._session().start(query, op.params)
        self._parse, self._sent_at = op.parse, time.monotonic()
        self._answer_due = self._sent_at + ANSWER_TIMEOUT

    def receive(self) -> Any:
        """Take in what has arrived: notifications, and the answer. Return the result, or None.

        Raises:
            psycopg.Error: the server refused, or the connection is lost.
        """
        session, parse = self._connection or self._session(), self._parse
        result: Any = None
        if parse is None:
            session.pgconn.consume_input()
        elif (rows := session.take()) is not None:
            self._parse, self.reached = None, self._sent_at
            result = parse(rows)
        elif time.monotonic() > self._answer_due:
            raise AnswerTimeoutError(f"no answer within {ANSWER_TIMEOUT:g} s")
        while notify := session.pgconn.notifies():
            payload = notify.extra.decode()
            if payload.startswith(TARGETED_PREFIX):
                self._accept(payload)
            else:
                self.payloads.append(payload)  # as `_accept` does, without another call
        return result

    def wait(self, timeout: float, wakeup: Wakeup | None = None) -> bool:
        """Wait up to `timeout` seconds until something has arrived or `wake` is called.

        Args:
            timeout: the maximum wait, in seconds.
            wakeup: it ends the wait, too.

        Returns:
            True if something may have arrived.

        Raises:
            psycopg.Error: the connection is lost.
        """
        socket = (self._connection or self._session()).lend_socket()
        if wakeup is None:
            return self._readable.wait(socket, timeout)
        wakeup.rouse = self._readable.set
        try:
            return not wakeup.called and self._readable.wait(socket, timeout)
        finally:
            wakeup.rouse = None

    def wake(self) -> None:
        """End a wait, from any thread."""
        self._readable.set()

    def disconnect(self) -> None:
        """Close the session."""
        self._readable.forget()
        connection, self._connection = self._connection, None
        self._parse = None
        self._notifications.listener_id = None
        self._notifications.arrive = False
        self.payloads.clear()
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Release the wakeup's descriptors. Nothing may wait any more."""
        self._readable.close()
