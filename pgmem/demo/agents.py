"""The three agents on pgmem.

Each gets events at least once and makes their effects happen exactly once. The validator uses an
idempotency key. The processor stores a dedupe record in the transaction that moves the money. The
notifier uses a claim. No agent keeps anything in its process between two events.
"""

from __future__ import annotations

import random
import time
from typing import Any

from pgmem import Event, Memory, RecordedEvent, StateEntry, Transaction
from pgmem.demo import bank
from pgmem.demo.follow import Handler
from pgmem.demo.run import WORKERS, Role, Run
from pgmem.demo.scenario import Payment, objection
from pgmem.errors import TransactionConflict, VersionConflict

MAX_ATTEMPTS = 100


class Validator:
    """Accepts or rejects a payment by the accounts and limits in the shared state."""

    def __init__(self, memory: Memory, run: Run) -> None:
        self._memory = memory
        self._run = run

    def __call__(self, event: RecordedEvent) -> None:
        """Handle one received payment."""
        run, payment = self._run, Payment.from_json(event.payload)
        keys = {name: run.account(name) for name in (payment.sender, payment.receiver)}
        found = self._memory.state.get_many([*keys.values(), run.limits])
        accounts = {name: found[key].value for name, key in keys.items() if key in found}
        limit = found[run.limits].value["payment"]
        reason = objection(payment, accounts, limit)
        stream, decision = decide(run, event.payload, payment, reason)
        self._memory.events.append(
            stream, decision, idempotency_key=run.name(f"validate/{event.payload['request_id']}")
        )


def decide(
    run: Run, request: dict[str, Any], payment: Payment, reason: str | None
) -> tuple[str, Event]:
    """Return the validator's event and the stream that it belongs to."""
    if reason is None:
        return run.validated, Event(type="payment.validated", payload=request)
    payload = {
        "payment_id": payment.id,
        "request_id": request["request_id"],
        "sender": payment.sender,
        "reason": reason,
    }
    return run.outcomes, Event(type="payment.rejected", payload=payload)


class Processor:
    """Moves the money. Dedupe record, balances, ledger and event are one transaction."""

    def __init__(self, memory: Memory, run: Run, name: str) -> None:
        self._memory = memory
        self._run = run
        self._name = name

    def __call__(self, event: RecordedEvent) -> None:
        """Handle one validated payment; start again after each conflict."""
        payment, request_id = Payment.from_json(event.payload), event.payload["request_id"]
        for attempt in range(1, MAX_ATTEMPTS):
            try:
                self._process(payment, request_id, attempt)
            except (VersionConflict, TransactionConflict) as conflict:
                self._record(payment, attempt, conflict)
                time.sleep(random.uniform(0, 0.002 * min(attempt, 10)))  # noqa: S311  # not a secret
            else:
                return
        raise TransactionConflict(f"payment {payment.id} lost {MAX_ATTEMPTS} races in a row")

    def _process(self, payment: Payment, request_id: str, attempt: int) -> None:
        with self._memory.transaction() as tx:
            outcome = tx.dedupe.run_once(
                self._run.name(f"payment/{payment.id}"),
                lambda: self._apply(tx, payment, request_id, attempt),
            )
            if outcome.status == "skipped":
                # The same request was redelivered after a crash, or another one is a duplicate.
                again = outcome.result["request_id"] == request_id
                kind = "payment.redelivered" if again else "payment.duplicate"
                tx.events.append(
                    self._run.operations,
                    Event(type=kind, payload={"payment_id": payment.id, "request_id": request_id}),
                )

    def _apply(
        self, tx: Transaction, payment: Payment, request_id: str, attempt: int
    ) -> dict[str, str]:
        sender, receiver = (self._run.account(a) for a in (payment.sender, payment.receiver))
        entries = tx.state.get_many([sender, receiver])
        before = entries[sender].value["balance"], entries[receiver].value["balance"]
        funds = before[0] >= payment.amount
        if funds:
            after = {sender: before[0] - payment.amount, receiver: before[1] + payment.amount}
            self._write_balances(tx, entries, after)
            bank.book(tx.connection, self._run, payment, before, self._name)
        tx.events.append(
            self._run.outcomes, settled(payment, request_id, funds, attempt, self._name)
        )
        return {"request_id": request_id}

    @staticmethod
    def _write_balances(
        tx: Transaction, entries: dict[str, StateEntry], after: dict[str, int]
    ) -> None:
        for key in sorted(after):  # in one order, so that two workers cannot deadlock
            tx.state.compare_and_set(
                key, bank.account_value(after[key]), expected_version=entries[key].version
            )

    def _record(self, payment: Payment, attempt: int, conflict: Exception) -> None:
        payload = {
            "payment_id": payment.id,
            "attempt": attempt,
            "kind": type(conflict).__name__,
            "worker": self._name,
        }
        self._memory.events.append(
            self._run.operations, Event(type="payment.conflict", payload=payload)
        )


def settled(payment: Payment, request_id: str, funds: bool, attempts: int, worker: str) -> Event:
    """Return the processor's event."""
    return Event(
        type="payment.processed" if funds else "payment.declined",
        payload={
            "payment_id": payment.id,
            "request_id": request_id,
            "sender": payment.sender,
            "receiver": payment.receiver,
            "amount": payment.amount,
            "attempts": attempts,
            "worker": worker,
        },
    )


class Notifier:
    """Notifies the payer of the outcome once."""

    def __init__(self, memory: Memory, run: Run) -> None:
        self._memory = memory
        self._run = run

    def __call__(self, event: RecordedEvent) -> None:
        """Handle one outcome."""
        payment_id = event.payload["payment_id"]
        sent = self._memory.dedupe.run_once(
            self._run.name(f"notify/{payment_id}"), lambda: send(event), lease=2.0
        )
        # Also if it was sent before, because that process may have died before this append.
        self._memory.events.append(
            self._run.notified,
            Event(type="payment.notified", payload=sent.result),
            idempotency_key=self._run.name(f"notified/{payment_id}"),
        )


def send(event: RecordedEvent) -> dict[str, str]:
    """Return the message to the payer. A real agent would call a provider here."""
    return {
        "payment_id": event.payload["payment_id"],
        "outcome": event.type,
        "to": event.payload["sender"],
        "text": f"Payment {event.payload['payment_id']}: {event.type.partition('.')[2]}",
    }


def handlers(memory: Memory, run: Run, role: Role, name: str) -> list[Handler]:
    """Return the workers of one agent."""
    if role == "validator":
        return [Validator(memory, run)] * WORKERS[role]
    if role == "notifier":
        return [Notifier(memory, run)] * WORKERS[role]
    return [Processor(memory, run, f"{name}/{n + 1}") for n in range(WORKERS[role])]
