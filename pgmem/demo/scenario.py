"""Requests and faults of a run, made from a seed: the same seed gives the same run.

No clock, no database, no randomness except the seed's. The business rule of both modes is here too
(`objection`), so that the modes differ in nothing but their memory.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from pgmem.errors import InvalidInput

CURRENCY: Final = "VND"
PAYMENT_LIMIT: Final = 100_000_000
ACCOUNTS: Final = 60
HOT_ACCOUNTS: Final = ("acc-01", "acc-02")
MAX_PAYMENTS: Final = 100_000

FAULT_RATES: Final[Mapping[str, float]] = {
    "retry": 0.04,
    "resend": 0.03,
    "invalid": 0.03,
    "hot_pair": 0.10,
}
"""Shares of the payments: repeated as the same request, repeated as a new request, invalid, and
one of two that reach a hot account at the same moment."""

INVALID_KINDS: Final = ("negative amount", "unknown account", "wrong currency", "over the limit")


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment. Several requests may ask for it."""

    id: str
    sender: str
    receiver: str
    amount: int
    currency: str = CURRENCY

    def to_json(self) -> dict[str, Any]:
        """Return the payment as the payload of an event."""
        return asdict(self)

    @classmethod
    def from_json(cls, payload: Mapping[str, Any]) -> Payment:
        """Return the payment in the payload of an event. The payload may hold more."""
        return cls(**{name: payload[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Sending:
    """One message of the gateway.

    Attributes:
        at: Seconds after the start.
        request_id: The id of the request. A retry has the same one, a resend has another one.
        payment: The payment that it asks for.
        fault: The fault that it shows; "" for none.
    """

    at: float
    request_id: str
    payment: Payment
    fault: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole run: accounts with their opening balances, and sendings in order."""

    seed: int
    payments: int
    rate: float
    opening: Mapping[str, int]
    sendings: tuple[Sending, ...]

    def faults(self) -> dict[str, int]:
        """Count the sendings of each fault."""
        counts = dict.fromkeys(FAULT_RATES, 0)
        for sending in self.sendings:
            kind = sending.fault.partition(":")[0]
            if kind:
                counts[kind] += 1
        return counts


def plan(payments: int, *, seed: int, rate: float) -> Scenario:
    """Make a scenario.

    Args:
        payments: Number of payments, 1 to 100,000.
        seed: The same seed gives the same payments, faults and times.
        rate: Payments per second, 1 to 10,000.

    Raises:
        InvalidInput: A number is out of range.
    """
    if not 1 <= payments <= MAX_PAYMENTS:
        raise InvalidInput(f"payments must be 1 to {MAX_PAYMENTS:,}, got {payments:,}")
    if not 1 <= rate <= 10_000:
        raise InvalidInput(f"rate must be 1 to 10,000 payments a second, got {rate:g}")
    if not 0 <= seed < 2**63:
        raise InvalidInput(f"seed must be 0 to {2**63 - 1}, got {seed}")
    chance = random.Random(seed)  # noqa: S311  # not a secret
    opening = {
        f"acc-{n:02}": chance.randrange(2_000_000, 30_000_000, 1_000)
        for n in range(1, ACCOUNTS + 1)
    }
    for account in HOT_ACCOUNTS:
        opening[account] = 500_000_000
    sendings = _first_sendings(chance, payments, rate, tuple(opening))
    sendings += _repeats(chance, sendings)
    sendings.sort(key=lambda sending: (sending.at, sending.request_id))
    return Scenario(seed, payments, rate, opening, tuple(sendings))


def share(kind: str, payments: int) -> int:
    """Return how many payments get a fault. From 20 payments on it is at least one."""
    return max(round(payments * FAULT_RATES[kind]), 1 if payments >= 20 else 0)


def _first_sendings(
    chance: random.Random, payments: int, rate: float, accounts: tuple[str, ...]
) -> list[Sending]:
    numbers = range(payments)
    invalid = set(chance.sample(numbers, share("invalid", payments)))
    valid = [n for n in numbers[1:] if n not in invalid and n - 1 not in invalid]
    seconds = set(chance.sample(valid, min(len(valid), share("hot_pair", payments) // 2)))
    hot = seconds | {n - 1 for n in seconds}
    sendings: list[Sending] = []
    at = 0.0
    account = HOT_ACCOUNTS[0]
    for n in numbers:
        # The second of a pair comes at the moment of the first, for the same account.
        if n not in seconds:
            at += chance.expovariate(rate)
            account = chance.choice(HOT_ACCOUNTS)
        payment = _payment(chance, n + 1, accounts)
        fault = ""
        if n in hot:
            payment, fault = _through(payment, account, chance), "hot_pair"
        elif n in invalid:
            kind = chance.choice(INVALID_KINDS)
            payment, fault = _spoil(payment, kind), f"invalid: {kind}"
        sendings.append(Sending(at, f"{payment.id}-r1", payment, fault))
    return sendings


def _payment(chance: random.Random, number: int, accounts: tuple[str, ...]) -> Payment:
    sender, receiver = chance.sample(accounts[len(HOT_ACCOUNTS) :], 2)
    amount = 1_000 * max(10, round(chance.lognormvariate(6.0, 1.1)))
    return Payment(f"p{number:06}", sender, receiver, min(amount, PAYMENT_LIMIT))


def _through(payment: Payment, account: str, chance: random.Random) -> Payment:
    """Return the payment with a hot account, such as a shop, as sender or receiver."""
    fields = payment.to_json()
    fields["receiver" if chance.random() < 0.7 else "sender"] = account
    return Payment(**fields)


def _spoil(payment: Payment, kind: str) -> Payment:
    wrong: dict[str, dict[str, Any]] = {
        "negative amount": {"amount": -payment.amount},
        "unknown account": {"receiver": "acc-99"},
        "wrong currency": {"currency": "USD"},
        "over the limit": {"amount": PAYMENT_LIMIT + payment.amount},
    }
    return Payment(**{**payment.to_json(), **wrong[kind]})


def _repeats(chance: random.Random, first: list[Sending]) -> list[Sending]:
    """Make the repeated sendings: the same request, or the payment as a new request."""
    payments = len(first)
    retried = chance.sample(first, share("retry", payments))
    valid = [sending for sending in first if not sending.fault.startswith("invalid")]
    resent = chance.sample(valid, min(len(valid), share("resend", payments)))
    repeats = [
        Sending(s.at + chance.uniform(0.005, 1.0), s.request_id, s.payment, "retry")
        for s in retried
    ]
    for sending in resent:
        # Half are double clicks. Half come long after the first was handled.
        wait = chance.uniform(0.0, 0.05) if chance.random() < 0.5 else chance.uniform(0.5, 2.0)
        payment = sending.payment
        repeats.append(Sending(sending.at + wait, f"{payment.id}-r2", payment, "resend"))
    return repeats


def objection(payment: Payment, accounts: Mapping[str, Any], limit: int) -> str | None:
    """Return the reason why a payment is invalid; None if it is valid.

    Args:
        payment: The payment.
        accounts: The accounts that exist, by name, with their currency.
        limit: The highest amount of one payment.
    """
    if payment.amount <= 0:
        return "the amount is not positive"
    if payment.amount > limit:
        return "the amount is over the limit"
    if payment.sender == payment.receiver:
        return "sender and receiver are the same"
    for name in (payment.sender, payment.receiver):
        if name not in accounts:
            return "unknown account"
        if accounts[name]["currency"] != payment.currency:
            return "wrong currency"
    return None
