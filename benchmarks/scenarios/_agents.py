"""Define the payment pipeline's agents, and their steps on pgmem; see `_agents_redis` for Redis.

::

    gateway ─► incoming ─► validator ─► validated:0, :1 ─► processors ─► outcomes ─► notifier
       ▲                                 (by sender)                                     │
       └───────────────────────────────── notified ◄─────────────────────────────────────┘

The agents are the same for every memory: a process each, with `THREADS` threads, that takes up to
    `BATCH` events, works on them, acknowledges them and takes more. This module has what a memory
    does for each step. `pipeline` counts the results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from pgmem import Event, Memory, Optimistic

THREADS = 4
BATCH = 2 * THREADS
PARTS = 2
"""The number of processor processes; the sender of a payment decides which one gets it."""
POLL = 0.05
"""Seconds that an agent waits for events before it checks for the end of the round."""
LIMIT = 50_000_000
ATTEMPTS = 1_000

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


class Memories(Protocol):
    """Define what the agents need of a memory."""

    def open(self, run: str, balances: Mapping[str, int]) -> None:
        """Open a run's accounts."""

    def submit(self, run: str, request: Message) -> None:
        """Submit a request as the gateway, once for its request id."""

    def validate(self, run: str, request: Message) -> None:
        """Check accounts and limit as the validator, and pass the request on."""

    def process(self, run: str, payment: Message) -> int:
        """Move the money as a processor, once for the payment id; return the lost races."""

    def notify(self, run: str, outcome: Message) -> None:
        """Notify the payer as the notifier, once, and record it."""

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
    """Use pgmem: idempotency keys, and the money with its event in an optimistic transaction."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

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

    def validate(self, run: str, request: Message) -> None:
        """Validate a request; see `Memories`."""
        keys = [request["sender"], request["receiver"], f"{run}:limit"]
        found = self._memory.state.get_many(keys)
        if len(found) < len(keys) or request["amount"] > found[keys[2]].value:
            return
        self._memory.events.append(
            f"{run}:validated:{part_of(request)}",
            Event(type="payment.validated", payload=request),
            idempotency_key=f"{run}:validate:{request['request_id']}",
        )

    def process(self, run: str, payment: Message) -> int:
        """Move the money; see `Memories`."""
        calls = 0

        def pay(tx: Optimistic) -> None:
            nonlocal calls
            calls += 1
            self._pay(tx, run, payment)

        self._memory.run_transaction(
            pay,
            optimistic=True,
            retries=ATTEMPTS,
            idempotency_key=f"{run}:payment:{payment['payment_id']}",
        )
        return calls - 1

    @staticmethod
    def _pay(tx: Optimistic, run: str, payment: Message) -> None:
        sender, receiver, amount = payment["sender"], payment["receiver"], payment["amount"]
        entries = tx.state.get_many([sender, receiver])
        balances = {key: entry.value["balance"] for key, entry in entries.items()}
        funds = balances[sender] >= amount
        kind = "payment.processed" if funds else "payment.declined"
        # Two submissions of one payment differ in the request's id.
        outcome = {key: value for key, value in payment.items() if key != "request_id"}
        tx.events.append(f"{run}:outcomes", Event(type=kind, payload=outcome))
        if funds:
            tx.state.put(sender, {"balance": balances[sender] - amount})
            tx.state.put(receiver, {"balance": balances[receiver] + amount})

    def notify(self, run: str, outcome: Message) -> None:
        """Notify the payer; see `Memories`."""
        payment_id = outcome["payment_id"]
        sent = self._memory.dedupe.run_once(f"{run}:notify:{payment_id}", lambda: told(outcome))
        self._memory.events.append(
            f"{run}:notified",
            Event(type="payment.notified", payload=sent.result),
            idempotency_key=f"{run}:notified:{payment_id}",
        )

    @contextlib.contextmanager
    def inbox(self, run: str, role: Role, part: int) -> Iterator[Receive]:
        """Follow a stream; see `Memories`."""
        stream = followed(run, role, part)
        with self._memory.events.subscribe(stream, durable=f"{stream}:reader", after=0) as events:
            yield lambda: [event.payload for event in events.receive(BATCH, timeout=POLL)]

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
