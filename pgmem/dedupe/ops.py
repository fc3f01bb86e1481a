"""Which statement each dedupe verb runs, and how its rows become the result.

The states of a key's row::

                    claim                 complete(token)
        (no row) ─────────► claimed ───────────────────────► done ──► expired
            ▲                │   │ lease runs out                        │
            │ release(token) │   └──────► claimed by the next ◄──────────┘
            └────────────────┘            (a higher token)         claim

In a transaction, `record` changes no row, an expired one or a claim that ran out to done. The
effects of the work commit with it or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from pgmem.core.encoding import decode
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import check_name
from pgmem.dedupe.models import Claim
from pgmem.errors import LeaseHeld, LeaseLost
from pgmem.events.codec import Codec


def claim(key: str, *, owner: str, lease: float) -> Op[Claim]:
    """Claim a piece of work, or read its stored result.

    Args:
        key: the idempotency key.
        owner: identifies the call, so that a second execution after a lost connection finds its
            own claim.
        lease: seconds until another caller may take over.

    Raises (from `parse`):
        LeaseHeld: the lease of another caller is running.
    """
    return Op(
        "dedupe_claim",
        {"key": _check_key(key), "owner": owner, "lease": lease},
        _parse_claim(key),
        f"claim {key!r}",
        Retry.IDEMPOTENT,
    )


def complete(key: str, *, token: int, result: Any, ttl: float | None, codec: Codec) -> Op[None]:
    """Store the result of claimed work.

    Raises (from `parse`):
        LeaseLost: there is a newer claim, or none.
    """
    return Op(
        "dedupe_complete",
        {
            "key": _check_key(key),
            "token": token,
            "ttl": ttl,
            "result": codec.encode(result, "result"),
        },
        _parse_held(key, token, "complete"),
        f"complete {key!r}",
        Retry.IDEMPOTENT,
    )


def release(key: str, *, token: int) -> Op[None]:
    """Delete a claim, so that the next caller may do the work.

    Raises (from `parse`):
        LeaseLost: there is a newer claim, or none.
    """
    return Op(
        "dedupe_release",
        {"key": _check_key(key), "token": token},
        _parse_held(key, token, "release"),
        f"release {key!r}",
        Retry.CONDITIONAL,
    )


def record(key: str, *, ttl: float | None) -> Op[Claim]:
    """Record that work is done, in the transaction that does it, or read its stored result.

    Raises (from `parse`):
        LeaseHeld: the lease of another caller is running.
    """
    return Op(
        "dedupe_record",
        {"key": _check_key(key), "ttl": ttl},
        _parse_claim(key),
        f"record {key!r}",
        Retry.UNSAFE,
    )


def record_result(key: str, *, token: int, result: Any, codec: Codec) -> Op[None]:
    """Add the result to a record, in the transaction that made the record."""
    return Op(
        "dedupe_record_result",
        {"key": key, "token": token, "result": codec.encode(result, "result")},
        lambda rows: None,
        f"store the result of {key!r}",
        Retry.UNSAFE,
    )


def remove_record(key: str, *, token: int) -> Op[None]:
    """Remove a record, in the transaction that made it."""
    return Op(
        "dedupe_remove_record",
        {"key": key, "token": token},
        lambda rows: None,
        f"remove the record of {key!r}",
        Retry.UNSAFE,
    )


def _check_key(key: str) -> str:
    return check_name(key, "idempotency key")


def _parse_claim(key: str) -> Callable[[Sequence[Row]], Claim]:
    def parse(rows: Sequence[Row]) -> Claim:
        token, expires_at, done, found_token, found_expires_at, result = rows[0][:6]
        if token is not None:
            return Claim(key, True, token, expires_at)
        if found_token is None:
            raise RetryStatement
        if done:
            return Claim(key, False, found_token, None, decode(result))
        raise _held(key, found_expires_at)

    return parse


def _held(key: str, expires_at: datetime) -> LeaseHeld:
    return LeaseHeld(
        f"the work under the key {key!r} is claimed by another caller until "
        f"{expires_at.isoformat()}: try again after that, or wait longer for its result (timeout=)",
        expires_at=expires_at,
    )


def _parse_held(key: str, token: int, verb: str) -> Callable[[Sequence[Row]], None]:
    def parse(rows: Sequence[Row]) -> None:
        mine, found, done = rows[0][:3]
        if mine is not None:
            return
        if found is None:
            state = "the claim no longer exists"
        elif done:
            state = f"the work was completed under the token {found}"
        else:
            state = f"another caller claimed it under the token {found}"
        raise LeaseLost(
            f"{verb} of {key!r} with the fencing token {token} refused: {state}; nothing was "
            f"changed. Make the lease longer than the work takes"
        )

    return parse
