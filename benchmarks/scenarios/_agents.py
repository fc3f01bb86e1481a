"""Define the payment pipeline's agents, and their steps on pgmem; see `_agents_redis` for Redis.

::

    gateway ─► incoming ─► validator ─► validated:0, :1 ─► processors ─► outcomes ─► notifier
       ▲                                 (by sender)                                     │
       └───────────────────────────────── notified ◄─────────────────────────────────────┘

The agents are the same for every memory: a process each, that takes up to `BATCH` events, works on
them together, acknowledges them and takes more. This module has what a memory does for each step.
`pipeline` counts the results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pgmem import DurableSubscription, Event, Memory, Optimistic, RecordedEvent

THREADS = 4
"""Threads of the gateway, which submits each request by itself, and of the published approach."""
BATCH = 16
PARTS = 2
"""The number of processor processes; the sender of a payment decides which one gets it."""
POLL = 0.05
"""Seconds that an agent waits for events before it checks for the end of the round."""
LIMIT = 50_000_000
ATTEMPTS = 1_000
KEY_TTL = 86_400.0
"""Seconds for which a payment is known to be processed."""

Role = Literal["gateway", "validator", "processor", "notifier"]
Message = dict[str, Any]
Receive = Callable[[], list[Message]]


class Urls(NamedTuple):
    """Hold where the stores are, with pgmem's two tiers apart, and the prefix of Redis's keys."""

    postgres: str
    relaxed: str
    always: str
    everysec: str
    prefix: str


def account(run: str, number: int) -> str:
    """Return the key of an account."""
    return f"{run}:account:{number}"


def part_of(payment: Mapping[str, Any]) -> int:
    """Return the number of the processor that a payment is for."""
    return int(payment["sender"].rpartition(":")[2]) % PARTS


def followed(run: str, role: Role, part: int) -> str:
    """Return the stream that an agent follows."""
    return {
        "gateway": f"{run}:notified",
        "validator": f"{run}:incoming",
        "processor": f"{run}:validated:{part}",
        "notifier": f"{run}:outcomes",
    }[role]


def told(outcome: Mapping[str, Any]) -> Message:
    """Return the message to the payer. A real system sends it here."""
    return {
        "payment_id": outcome["payment_id"],
        "to": outcome["sender"],
        "text": f"Payment {outcome['payment_id']} over {outcome['amount']}",
    }


def read_to_validate(run: str, requests: Sequence[Message]) -> list[str]:
    """Return the keys that the validator reads: the accounts and the limit."""
    sides = ("sender", "receiver")
    return [*sorted({request[side] for request in requests for side in sides}), f"{run}:limit"]


def is_valid(run: str, request: Message, found: Mapping[str, Any]) -> bool:
    """Return True if a request may be processed, by the values of `read_to_validate`."""
    known = request["sender"] in found and request["receiver"] in found
    return bool(known and request["amount"] <= found[f"{run}:limit"])


class Memories(Protocol):
    """Define what the agents need of a memory."""

    def open(self, run: str, balances: Mapping[str, int]) -> None:
        """Open a run's accounts."""

    def submit(self, run: str, request: Message) -> None:
        """Submit a request as the gateway, once for its request id."""

    def validate(self, run: str, requests: Sequence[Message]) -> None:
        """Check accounts and limit as the validator, and pass the requests on."""

    def process(self, run: str, payments: Sequence[Message]) -> None:
        """Move the money as a processor, once for each payment id."""

    def notify(self, run: str, outcomes: Sequence[Message]) -> None:
        """Notify the payers as the notifier, and record each notification once."""

    def inbox(self, run: str, role: Role, part: int) -> contextlib.AbstractContextManager[Receive]:
        """Return what an agent follows; a call acknowledges the last events and returns others."""

    def found(self, run: str, balances: Mapping[str, int]) -> Found:
        """Return what the store holds at the end."""


class Kept(NamedTuple):
    """Hold an account as the store has it, and what its newest event says.

    Attributes:
        balance: as the state has it.
        said: as the newest event has it; None if there is none.
        version: of the state.
        versions: of its events, in their order.
    """

    balance: int
    said: int | None
    version: int
    versions: list[int]


class Found(NamedTuple):
    """Hold what a store has after a run.

    Attributes:
        outcomes: the payloads of "payment.processed", with what moved.
        notified: the payment ids that the notifier recorded.
        accounts: by key.
    """

    outcomes: list[Message]
    notified: list[str]
    accounts: dict[str, Kept]


class MemoryAgents:
    """Use pgmem: a batch's effects and the reader's position in one optimistic transaction.

    A batch that is repeated after a crash finds its position unchanged, and so its effects missing.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._inbox: DurableSubscription[RecordedEvent]
        self._last: RecordedEvent

    def open(self, run: str, balances: Mapping[str, int]) -> None:
        """Open accounts; see `Memories`."""
        with self._memory.transaction() as tx:
            tx.state.put(f"{run}:limit", LIMIT)
            for key, balance in balances.items():
                tx.state.put(key, {"balance": balance})

    def submit(self, run: str, request: Message) -> None:
        """Submit a request; see `Memories`."""
        self._memory.events.append(
            f"{run}:incoming",
            Event(type="payment.received", payload=request),
            idempotency_key=f"{run}:submit:{request['request_id']}",
        )

    def validate(self, run: str, requests: Sequence[Message]) -> None:
        """Validate requests; see `Memories`."""
        entries = self._memory.state.get_many(read_to_validate(run, requests))
        values = {key: entry.value for key, entry in entries.items()}
        valid: dict[int, list[Event]] = {}
        for request in requests:
            if is_valid(run, request, values):
                event = Event(type="payment.validated", payload=request)
                valid.setdefault(part_of(request), []).append(event)
        with self._memory.optimistic() as tx:
            for part, events in valid.items():
                tx.events.append(f"{run}:validated:{part}", events)
            tx.commit(self._inbox, self._last)

    def process(self, run: str, payments: Sequence[Message]) -> None:
        """Move the money; see `Memories`."""

        def pay(tx: Optimistic) -> None:
            self._pay(tx, run, payments)
            tx.commit(self._inbox, self._last)

        self._memory.run_transaction(pay, optimistic=True, retries=ATTEMPTS)

    @staticmethod
    def _pay(tx: Optimistic, run: str, payments: Sequence[Message]) -> None:
        paid = {
            payment["payment_id"]: f"{run}:paid:{payment['payment_id']}" for payment in payments
        }
        accounts = {payment[side] for payment in payments for side in ("sender", "receiver")}
        entries = tx.state.get_many([*accounts, *paid.values()])
        balances = {key: entries[key].value["balance"] for key in accounts}
        outcomes, changed = [], set()
        for payment in payments:
            mark = paid.pop(payment["payment_id"], None)
            if mark is None or mark in entries:
                continue  # Processed before, or twice in this batch.
            sender, receiver, amount = payment["sender"], payment["receiver"], payment["amount"]
            funds = balances[sender] >= amount
            if funds:
                balances[sender] -= amount
                balances[receiver] += amount
                changed |= {sender, receiver}
            # Two submissions of one payment differ in the request's id.
            outcome = {key: value for key, value in payment.items() if key != "request_id"}
            kind = "payment.processed" if funds else "payment.declined"
            outcomes.append(Event(type=kind, payload=outcome))
            tx.state.put(mark, kind, record=False, ttl=KEY_TTL)
        for key in changed:
            tx.state.put(key, {"balance": balances[key]})
        if outcomes:
            tx.events.append(f"{run}:outcomes", outcomes)

    def notify(self, run: str, outcomes: Sequence[Message]) -> None:
        """Notify the payers; see `Memories`."""
        events = [Event(type="payment.notified", payload=told(outcome)) for outcome in outcomes]
        with self._memory.optimistic() as tx:
            tx.events.append(f"{run}:notified", events)
            tx.commit(self._inbox, self._last)

    @contextlib.contextmanager
    def inbox(self, run: str, role: Role, part: int) -> Iterator[Receive]:
        """Follow a stream; see `Memories`."""
        stream = followed(run, role, part)
        with self._memory.events.subscribe(
            stream, durable=f"{stream}:reader", after=0, auto_commit=role == "gateway"
        ) as events:
            self._inbox = events

            def receive() -> list[Message]:
                taken = events.receive(BATCH, timeout=POLL)
                if taken:
                    self._last = taken[-1]
                return [event.payload for event in taken]

            yield receive

    def found(self, run: str, balances: Mapping[str, int]) -> Found:
        """Read the store; see `Memories`."""
        state, events = self._memory.state, self._memory.events
        outcomes = events.read(f"{run}:outcomes", type="payment.processed", limit=10_000)
        notified = events.read(f"{run}:notified", limit=10_000)
        accounts = {}
        for key, entry in state.get_many(list(balances)).items():
            # Oldest first; version 1 opened the account.
            changes = state.history(key, limit=10_000)
            accounts[key] = Kept(
                entry.value["balance"],
                changes[-1].payload["balance"],
                entry.version,
                [change.version or 0 for change in changes],
            )
        return Found(
            [event.payload for event in outcomes],
            [event.payload["payment_id"] for event in notified],
            accounts,
        )
