"""Define the payment pipeline's steps on Redis, done right and as published.

See `_agents` for the agents and the steps.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from benchmarks.arms import records
from benchmarks.arms.published import Published
from benchmarks.arms.right import Right
from benchmarks.scenarios._agents import (
    BATCH,
    LIMIT,
    POLL,
    Found,
    Kept,
    Message,
    Receive,
    Role,
    followed,
    is_valid,
    part_of,
    read_to_validate,
    told,
)


class RightAgents:
    """Use Redis done right: a script for each step, a batch in one pipeline, consumer groups."""

    GROUP = "agents"

    def __init__(self, store: Right) -> None:
        self._store = store

    def open(self, run: str, balances: Mapping[str, int]) -> None:
        """Open accounts; see `Memories`."""
        self._store.put(f"{run}:limit", LIMIT, stream=f"{run}:setup")
        for key, balance in balances.items():
            self._store.put(key, {"balance": balance, "currency": "VND"}, stream=f"{run}:accounts")

    def submit(self, run: str, request: Message) -> None:
        """Submit a request; see `Memories`."""
        event = records.Event("payment.received", request, "gateway")
        key = f"{run}:submit:{request['request_id']}"
        self._store.append_once(key, event, stream=f"{run}:incoming")

    def validate(self, run: str, requests: Sequence[Message]) -> None:
        """Validate requests; see `Memories`."""
        found = self._store.get_many(read_to_validate(run, requests))
        values = {key: entry.value for key, entry in found.items()}
        self._store.together(
            self._store.append_once_call(
                f"{run}:validate:{request['request_id']}",
                records.Event("payment.validated", request, "validator"),
                stream=f"{run}:validated:{part_of(request)}",
            )
            for request in requests
            if is_valid(run, request, values)
        )

    def process(self, run: str, payments: Sequence[Message]) -> None:
        """Move the money; see `Memories`."""
        self._store.together(
            self._store.pay_call(
                f"{run}:payment:{payment['payment_id']}",
                payment["sender"],
                payment["receiver"],
                payment["amount"],
                payload=payment,
                result=None,
                outcomes=f"{run}:outcomes",
                stream=f"{run}:accounts",
            )
            for payment in payments
        )

    def notify(self, run: str, outcomes: Sequence[Message]) -> None:
        """Notify the payers; see `Memories`."""
        self._store.together(
            self._store.append_once_call(
                f"{run}:notified:{outcome['payment_id']}",
                records.Event("payment.notified", told(outcome), "notifier"),
                stream=f"{run}:notified",
            )
            for outcome in outcomes
        )

    @contextlib.contextmanager
    def inbox(self, run: str, role: Role, part: int) -> Iterator[Receive]:
        """Follow a stream; see `Memories`."""
        stream = followed(run, role, part)
        self._store.create_group(self.GROUP, stream=stream)
        taken: list[records.Recorded] = []

        member = f"{role}-{part}"

        def receive() -> list[Message]:
            if taken:
                _, taken[:] = self._store.exchange(
                    self.GROUP,
                    member,
                    [event.id for event in taken],
                    BATCH,
                    timeout=POLL,
                    stream=stream,
                )
            else:
                taken[:] = self._store.receive(
                    self.GROUP, member, BATCH, timeout=POLL, stream=stream
                )
            return [event.payload for event in taken]

        yield receive

    def found(self, run: str, balances: Mapping[str, int]) -> Found:
        """Read the store; see `Memories`."""
        entries = self._store.get_many(list(balances))
        events: dict[str | None, list[records.Recorded]] = {}
        for event in self._store.read(stream=f"{run}:accounts"):
            events.setdefault(event.key, []).append(event)
        accounts = {
            key: Kept(
                entry.value["balance"],
                events[key][-1].payload["balance"],
                entry.version,
                [event.version or 0 for event in events[key]],
            )
            for key, entry in entries.items()
        }
        outcomes = self._store.read(stream=f"{run}:outcomes")
        notified = self._store.read(stream=f"{run}:notified")
        return Found(
            [event.payload for event in outcomes if event.type == "payment.processed"],
            [event.payload["payment_id"] for event in notified],
            accounts,
        )


class PublishedAgents:
    """Use the article's six methods, an event in each of several threads.

    `write_event` overwrites balances as its latest state.

    Its versioned update would change each account once and then never again.
    """

    def __init__(self, client: Any, prefix: str, pool: ThreadPoolExecutor) -> None:
        self._client = client
        self._prefix = prefix
        self._pool = pool

    def _of(self, run: str, work: Callable[[Any], Any] | None = None) -> Published:
        prefix, block = f"{self._prefix}{run}:", round(POLL * 1_000)
        return Published(self._client, work, prefix=prefix, block=block)

    def open(self, run: str, balances: Mapping[str, int]) -> None:
        """Open accounts; see `Memories`."""
        store = self._of(run)
        store.write_event("bank", "limit", {"limit": LIMIT})
        for key, balance in balances.items():
            store.write_event(key, "balance", {"balance": balance})

    def submit(self, run: str, request: Message) -> None:
        """Submit a request; see `Memories`."""
        self._of(run).write_event("gateway", "payment.received", request)

    def validate(self, run: str, requests: Sequence[Message]) -> None:
        """Validate requests; see `Memories`."""
        list(self._pool.map(functools.partial(self._validate, run), requests))

    def _validate(self, run: str, request: Message) -> None:
        store = self._of(run)

        def work(_: Any) -> None:
            accounts = [
                store.get_latest_state(request[side], "balance") for side in ("sender", "receiver")
            ]
            if (
                all(accounts)
                and request["amount"] <= store.get_latest_state("bank", "limit")["limit"]
            ):
                store.write_event("validator", "payment.validated", request)

        self._of(run, work).process_event({"id": f"validate:{request['request_id']}"})

    def process(self, run: str, payments: Sequence[Message]) -> None:
        """Move the money; see `Memories`."""
        list(self._pool.map(functools.partial(self._process, run), payments))

    def _process(self, run: str, payment: Message) -> None:
        store = self._of(run)
        sender, receiver, amount = payment["sender"], payment["receiver"], payment["amount"]

        def work(_: Any) -> None:
            before = {
                key: store.get_latest_state(key, "balance")["balance"] for key in (sender, receiver)
            }
            funds = before[sender] >= amount
            if funds:
                store.write_event(sender, "balance", {"balance": before[sender] - amount})
                store.write_event(receiver, "balance", {"balance": before[receiver] + amount})
            kind = "payment.processed" if funds else "payment.declined"
            store.write_event("processor", kind, payment)

        self._of(run, work).process_event({"id": f"payment:{payment['payment_id']}"})

    def notify(self, run: str, outcomes: Sequence[Message]) -> None:
        """Notify the payers; see `Memories`."""
        list(self._pool.map(functools.partial(self._notify, run), outcomes))

    def _notify(self, run: str, outcome: Message) -> None:
        store = self._of(run)

        def work(_: Any) -> None:
            store.write_event("notifier", "payment.notified", told(outcome))

        self._of(run, work).process_event({"id": f"notify:{outcome['payment_id']}"})

    @contextlib.contextmanager
    def inbox(self, run: str, role: Role, part: int) -> Iterator[Receive]:
        """Follow the only stream, which all agents read in full; see `Memories`."""
        store, last = self._of(run), b"0"
        kinds = {
            "gateway": {b"payment.notified"},
            "validator": {b"payment.received"},
            "processor": {b"payment.validated"},
            "notifier": {b"payment.processed", b"payment.declined"},
        }[role]

        def receive() -> list[Message]:
            nonlocal last
            found = store.read_events(last)
            entries = found[0][1] if found else []
            if entries:
                last = entries[-1][0]
            payloads = [
                orjson.loads(fields[b"payload"])
                for _, fields in entries
                if fields[b"event_type"] in kinds
            ]
            return [p for p in payloads if role != "processor" or part_of(p) == part]

        yield receive

    def found(self, run: str, balances: Mapping[str, int]) -> Found:
        """Read the store, which has no versions; see `Memories`."""
        store = self._of(run)
        outcomes, notified = [], []
        said: dict[str, int] = {}
        for _, fields in self._client.xrange(store.stream_key):
            payload = orjson.loads(fields[b"payload"])
            kind = fields[b"event_type"]
            if kind == b"payment.processed":
                outcomes.append(payload)
            elif kind == b"payment.notified":
                notified.append(payload["payment_id"])
            elif kind == b"balance":
                said[fields[b"agent_id"].decode()] = payload["balance"]
        accounts = {
            key: Kept(store.get_latest_state(key, "balance")["balance"], said.get(key), 0, [])
            for key in balances
        }
        return Found(outcomes, notified, accounts)
