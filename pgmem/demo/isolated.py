"""The same agents without a shared memory: messages only, each with its own copy of the state.

A careful team builds this before it has one. The messages travel on the same log, which serves as a
broker: at least once, with a position that is stored now and then. The rules are the same. Only
this is different:

- There are no idempotency keys. The broker stores a message that is sent twice.
- Each agent, and each worker of the processor, remembers in its process what it has seen. The
  workers tell each other by message what they booked, and do not book it again.
- Each worker of the processor has its own copy of the balances. It is read from the books at the
  start and updated by those messages. The worker writes it without comparing a version.
- Books and broker are two systems. Ledger and balances are one transaction; the message follows.
- A killed process has lost all that. Its successor starts with a new copy from the books.

Nothing here sleeps, waits or fails on purpose.
"""

from __future__ import annotations

import threading
from typing import Any

from pgmem import Event, Memory, RecordedEvent
from pgmem.demo import bank
from pgmem.demo.agents import decide, send, settled
from pgmem.demo.follow import Handler
from pgmem.demo.run import WORKERS, Role, Run
from pgmem.demo.scenario import PAYMENT_LIMIT, Payment, objection
from pgmem.errors import TransactionConflict


def _copy_of_the_books(memory: Memory, run: Run) -> dict[str, Any]:
    prefix = run.account("")
    entries = memory.state.list(prefix, limit=10_000)
    return {entry.key.removeprefix(prefix): entry.value for entry in entries}


def _duplicate(payload: dict[str, Any]) -> Event:
    ids = {"payment_id": payload["id"], "request_id": payload["request_id"]}
    return Event(type="payment.duplicate", payload=ids)


class Seen:
    """A set of names that an agent has seen. Several threads may use it."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    def first(self, name: str) -> bool:
        """Add a name. Return True if it is new."""
        with self._lock:
            new = name not in self._ids
            self._ids.add(name)
            return new


class Validator:
    """Accepts or rejects a payment by its own copy of the accounts."""

    def __init__(self, memory: Memory, run: Run) -> None:
        self._memory = memory
        self._run = run
        self._accounts = _copy_of_the_books(memory, run)
        self._seen = Seen()

    def __call__(self, event: RecordedEvent) -> None:
        """Handle one received payment."""
        if not self._seen.first(event.payload["request_id"]):
            self._memory.events.append(self._run.operations, _duplicate(event.payload))
            return
        payment = Payment.from_json(event.payload)
        reason = objection(payment, self._accounts, PAYMENT_LIMIT)
        self._memory.events.append(*decide(self._run, event.payload, payment, reason))


class Processor:
    """Moves money between the accounts of its own copy and writes them into the books."""

    def __init__(self, memory: Memory, run: Run, name: str) -> None:
        self.name = name
        self._memory = memory
        self._run = run
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._balances: dict[str, int] = {
            account: value["balance"] for account, value in _copy_of_the_books(memory, run).items()
        }

    def __call__(self, event: RecordedEvent) -> None:
        """Handle one validated payment."""
        payment, request_id = Payment.from_json(event.payload), event.payload["request_id"]
        with self._lock:
            seen = payment.id in self._seen
            self._seen.add(payment.id)
            before = self._balances[payment.sender], self._balances[payment.receiver]
            funds = before[0] >= payment.amount
            if funds and not seen:
                self._move(payment.sender, payment.receiver, payment.amount)
        if seen:
            self._memory.events.append(self._run.operations, _duplicate(event.payload))
            return
        if funds:
            self._write(payment, before)
        self._memory.events.append(
            self._run.outcomes, settled(payment, request_id, funds, 1, self.name)
        )

    def apply_booking(self, payload: dict[str, Any]) -> None:
        """Apply a booking of another worker to the copy."""
        with self._lock:
            self._seen.add(payload["payment_id"])
            self._move(payload["sender"], payload["receiver"], payload["amount"])

    def _move(self, sender: str, receiver: str, amount: int) -> None:
        self._balances[sender] -= amount
        self._balances[receiver] += amount

    def _write(self, payment: Payment, before: tuple[int, int]) -> None:
        after = {
            payment.sender: before[0] - payment.amount,
            payment.receiver: before[1] + payment.amount,
        }
        while True:
            try:
                with self._memory.transaction() as tx:
                    bank.book(tx.connection, self._run, payment, before, self.name)
                    for account in sorted(after):
                        tx.state.put(self._run.account(account), bank.account_value(after[account]))
            except TransactionConflict:
                continue  # the server has rolled back all of it
            return


class Notifier:
    """Notifies the payer of the first outcome that it gets."""

    def __init__(self, memory: Memory, run: Run) -> None:
        self._memory = memory
        self._run = run
        self._seen = Seen()

    def __call__(self, event: RecordedEvent) -> None:
        """Handle one outcome."""
        if not self._seen.first(event.payload["payment_id"]):
            return
        self._memory.events.append(
            self._run.notified, Event(type="payment.notified", payload=send(event))
        )


def _share_bookings(memory: Memory, run: Run, workers: list[Processor], after: int) -> None:
    """Give each worker the bookings of the others as their messages arrive."""
    while True:
        for event in memory.events.read(run.outcomes, after=after, timeout=1.0):
            after = event.position
            if event.type == "payment.processed":
                for worker in workers:
                    if worker.name != event.payload["worker"]:
                        worker.apply_booking(event.payload)


def handlers(memory: Memory, run: Run, role: Role, name: str) -> list[Handler]:
    """Return the workers of one agent."""
    if role == "validator":
        return [Validator(memory, run)] * WORKERS[role]
    if role == "notifier":
        return [Notifier(memory, run)] * WORKERS[role]
    newest = memory.events.read(run.outcomes, reverse=True, limit=1)
    workers = [Processor(memory, run, f"{name}/{n + 1}") for n in range(WORKERS[role])]
    threading.Thread(
        target=_share_bookings,
        args=[memory, run, workers, newest[0].position if newest else 0],
        daemon=True,
    ).start()
    return list(workers)
