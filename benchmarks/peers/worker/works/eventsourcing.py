"""Run eventsourcing: writer and reader of its application recorder."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import orjson

from .base import (
    DRAIN,
    ROUND_TIMEOUT,
    Answer,
    Numbers,
    Payload,
    Tray,
    UnknownOrder,
    acknowledged,
    connection_parameters,
    paced,
    timed,
)


class Eventsourcing:
    """Use its application recorder in PostgreSQL, with its own pool and statements.

    Orders: "append", "pace" (the argument is the seconds from event to event), and "follow" (the
    argument is the number of writers).
    """

    def __init__(self, url: str, payload: Payload, **options: str) -> None:
        from eventsourcing.persistence import InfrastructureFactory, StoredEvent
        from eventsourcing.utils import Environment

        server = connection_parameters(url)
        settings = {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": server["dbname"],
            "POSTGRES_HOST": server["host"],
            "POSTGRES_PORT": server["port"],
            "POSTGRES_USER": server["user"],
            "POSTGRES_PASSWORD": server["password"],
            **options,
        }
        self._factory = InfrastructureFactory.construct(Environment("", settings))
        self._recorder: Any = self._factory.application_recorder()
        self._event = StoredEvent
        self._stream = uuid.uuid4()
        self._payload = payload
        self._numbers = Numbers()
        self._position = self._recorder.max_notification_id() or 0

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Append, or follow."""
        if order == "append":
            numbers = self._numbers.take(count)
            payload = self._payload
            times = timed(lambda n: self._append({**payload, "n": n}), numbers, start)
            return acknowledged(numbers, times)
        if order == "pace":
            numbers = self._numbers.take(count)
            for event in paced(self._payload, numbers, start, argument):
                self._append(event)
            return acknowledged(numbers, [])
        if order == "follow":
            return self._follow(Tray(int(argument)))
        raise UnknownOrder(order)

    def _append(self, event: Payload) -> None:
        state = orjson.dumps(event)
        stored = self._event(self._stream, event["n"], "payment.validated", state)
        self._recorder.insert_events([stored])

    def _follow(self, tray: Tray) -> Answer:
        with self._recorder.subscribe(gt=self._position) as events:
            watchdog = threading.Timer(ROUND_TIMEOUT, events.stop)
            watchdog.start()
            for event in events:
                self._position = event.id
                if tray.put(event.id, orjson.loads(event.state)):
                    watchdog.cancel()
                    watchdog = threading.Timer(DRAIN, events.stop)
                    watchdog.start()
            watchdog.cancel()
        return tray.answer()

    def close(self) -> None:
        """Close its pool."""
        self._factory.close()


def with_functions(url: str, payload: Payload) -> Eventsourcing:
    """Return the same with its functions in the database."""
    return Eventsourcing(url, payload, POSTGRES_ENABLE_DB_FUNCTIONS="y")
