"""Dedupe: work that must take effect once.

Says what to run for each verb; `pgmem.dedupe.verbs` runs it, waits and calls the work.

A key's row, and who moves it::

                    claim                 complete(token)
        (no row) ─────────► claimed ───────────────────────► done ──► expired
            ▲                │   │ lease runs out                        │
            │ release(token) │   └──────► claimed by the next ◄──────────┘
            └────────────────┘            (a higher token)         claim

Inside a transaction, `mark` goes from no row (or an expired one, or a claim that ran out) straight
to done: the effects commit with it or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pgmem.core.encoding import decode, encode
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import check_name
from pgmem.dedupe.models import Claim
from pgmem.errors import LeaseHeld, LeaseLost


def check_key(key: str) -> str:
    """Check an idempotency key.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(key, "idempotency key")


def _parse_claim(key: str) -> Any:
    def parse(rows: Sequence[Row]) -> Claim:
        token, lease_until, done, found_token, found_lease, result = rows[0][:6]
        if token is not None:
            return Claim(key, True, token, lease_until)
        if found_token is None:
            raise RetryStatement
        if done:
            return Claim(key, False, found_token, None, decode(result))
        raise held(key, found_lease)

    return parse


def held(key: str, lease_until: datetime) -> LeaseHeld:
    """The error for work that somebody else is doing."""
    return LeaseHeld(
        f"the work under the key {key!r} is claimed by another until {lease_until.isoformat()}: "
        f"wait for its result, or for the lease to end, and try again",
        expires_at=lease_until,
    )


def claim(key: str, *, owner: str, lease: float) -> Op[Claim]:
    """Claim a piece of work, or get its stored result.

    Raises (from `parse`):
        LeaseHeld: another's lease is running.
        LostRace: run it again.
    """
    return Op(
        "dedupe_claim",
        {"key": check_key(key), "owner": owner, "lease": lease},
        _parse_claim(key),
        f"claim {key!r}",
        Retry.IDEMPOTENT,
    )


def mark(key: str, *, ttl: float | None) -> Op[Claim]:
    """Mark a piece of work as done in the transaction that does it, or get its stored result.

    Raises (from `parse`): as `claim`.
    """
    return Op(
        "dedupe_mark",
        {"key": check_key(key), "ttl": ttl},
        _parse_claim(key),
        f"mark {key!r}",
        Retry.UNSAFE,
    )


def store_result(key: str, *, token: int, result: Any, max_bytes: int) -> Op[None]:
    """Store the result beside a mark, in the transaction that made it."""
    return Op(
        "dedupe_store_result",
        {"key": key, "token": token, "result": encode(result, "result", limit=max_bytes)},
        lambda rows: None,
        f"store the result of {key!r}",
        Retry.UNSAFE,
    )


def unmark(key: str, *, token: int) -> Op[None]:
    """Take back a mark, in the transaction that made it."""
    return Op(
        "dedupe_unmark",
        {"key": key, "token": token},
        lambda rows: None,
        f"unmark {key!r}",
        Retry.UNSAFE,
    )


def complete(key: str, *, token: int, result: Any, ttl: float | None, max_bytes: int) -> Op[None]:
    """Store the result of claimed work.

    Raises (from `parse`):
        LeaseLost: a newer claim exists, or none.
    """
    return Op(
        "dedupe_complete",
        {
            "key": check_key(key),
            "token": token,
            "ttl": ttl,
            "result": encode(result, "result", limit=max_bytes),
        },
        _parse_holder(key, token, "complete"),
        f"complete {key!r}",
        Retry.IDEMPOTENT,
    )


def release(key: str, *, token: int) -> Op[None]:
    """Give a claim back.

    Raises (from `parse`):
        LeaseLost: a newer claim exists, or none.
    """
    return Op(
        "dedupe_release",
        {"key": check_key(key), "token": token},
        _parse_holder(key, token, "release"),
        f"release {key!r}",
        Retry.CONDITIONAL,
    )


def _parse_holder(key: str, token: int, verb: str) -> Any:
    def parse(rows: Sequence[Row]) -> None:
        mine, found, done = rows[0][:3]
        if mine is not None:
            return
        if found is None:
            state = "there is no claim any more"
        elif done:
            state = f"it was completed under the token {found}"
        else:
            state = f"it was taken over under the token {found}"
        raise LeaseLost(
            f"{verb} of {key!r} with the fencing token {token} refused: {state}; nothing was "
            f"changed. Make the lease longer than the work takes"
        )

    return parse
