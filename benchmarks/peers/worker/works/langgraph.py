"""Run LangGraph: its store in PostgreSQL."""

from __future__ import annotations

import contextlib
from typing import Any

from .base import Answer, Numbers, Payload, UnknownOrder, acknowledged, status, timed


class Langgraph:
    """Use `PostgresStore` on one connection, which is no slower here than its pool or pipeline.

    Orders: "fill", "put", "get", "put_ten" (ten entries in one batch), "fill_docs" and "search".
    """

    def __init__(self, url: str, payload: Payload) -> None:
        from langgraph.store.base import PutOp
        from langgraph.store.postgres import PostgresStore

        self._operation = PutOp
        self._stack = contextlib.ExitStack()
        self._store: Any = self._stack.enter_context(PostgresStore.from_conn_string(url))
        self._store.setup()
        self._payload = payload
        self._numbers = Numbers()
        self._filled = 0

    def go(self, order: str, count: int, start: float, argument: float) -> Answer:
        """Put or get."""
        if order == "fill":
            for number in range(count):
                self._put("filled", number, number)
            self._filled = count
            return {}
        if order == "put":
            numbers = self._numbers.take(count)
            times = timed(lambda n: self._put("put", n % self._filled, n), numbers, start)
            return acknowledged(numbers, times)
        if order == "get":
            found: list[int] = []
            keys = self._filled
            times = timed(lambda n: found.append(self._get(n * 7 % keys)), range(count), start)
            return {"found": found, "times": times}
        if order == "put_ten":
            numbers = self._numbers.take(10 * count)
            calls = range(numbers.start, numbers.stop, 10)
            return acknowledged(numbers, timed(self._put_ten, calls, start))
        if order == "fill_docs":
            for number in range(count):
                self._put("docs", number, number, status=status(number))
            return {}
        if order == "search":
            matches: list[int] = []
            times = timed(lambda n: matches.append(self._search()), range(count), start)
            return {"found": matches, "times": times}
        raise UnknownOrder(order)

    def _put_ten(self, first: int) -> None:
        self._store.batch(
            [
                self._operation(("put",), f"account:{n % self._filled}", {**self._payload, "n": n})
                for n in range(first, first + 10)
            ]
        )

    def _search(self) -> int:
        found = self._store.search(("docs",), filter={"status": "open"}, limit=100)
        return sum(item.value["n"] for item in found)

    def _put(self, kind: str, key: int, number: int, **fields: str) -> None:
        self._store.put((kind,), f"account:{key}", {**self._payload, **fields, "n": number})

    def _get(self, key: int) -> int:
        item = self._store.get(("filled",), f"account:{key}")
        return int(item.value["n"]) if item else -1

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()
