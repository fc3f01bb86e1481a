"""Which statement each dedupe verb runs, and how its rows become the result.

The states of a key's row::

                    claim                 complete(token)
        (no row) ─────────► claimed ───────────────────────► done ──► expired
            ▲                │   │ lease runs out                        │
            │ release(token) │   └──────► claimed by the next ◄──────────┘
            └────────────────┘            (a higher token)         claim

A running lease is renewed by `pgmem.dedupe.renewer`. A key belongs to the fingerprint that it was
first claimed with, until its result expires or the claim is released.

In a transaction, `record` changes no row, an expired one or a claim that ran out to done. The
effects of the work commit with it or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel

from pgmem.core.encoding import decode, decoder, digest_of
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import check_name
from pgmem.dedupe.models import Claim
from pgmem.errors import IdempotencyMismatch, LeaseHeld, LeaseLost
from pgmem.events.codec import Codec

Kind = Literal["work", "optimistic"]
WORK: Final = "work"


def claim(
    key: str,
    *,
    owner: str,
    lease: float,
    fingerprint: bytes | None = None,
    model: type[BaseModel] | None = None,
) -> Op[Claim]:
    """Claim a piece of work, or read its stored result.

    Args:
        key: the idempotency key.
        owner: identifies the call, so that a second execution after a lost connection finds its
            own claim.
        lease: seconds until another caller may take over.
        fingerprint: a digest of what must be the same under one key; None does not compare.
        model: validates the stored result.

    Raises (from `parse`):
        LeaseHeld: the lease of another caller is running.
        IdempotencyMismatch: the key has another fingerprint.
    """
    params = {"owner": owner, "lease": lease, **_key_params(WORK, key, fingerprint)}
    return Op(
        "dedupe_claim",
        params,
        _parse_claim(key, fingerprint, model),
        f"claim {key!r}",
        Retry.IDEMPOTENT,
    )


def renew(claims: Sequence[Claim], lease: Sequence[float]) -> Op[dict[int, bool | None]]:
    """Renew claims, each for its lease from now.

    `parse` returns for each token True if it was renewed, False if the claim is lost, and None if
    its row is locked right now.
    """

    def parse(rows: Sequence[Row]) -> dict[int, bool | None]:
        return {
            token: True if renewed else None if held else False for token, renewed, held, *_ in rows
        }

    return Op(
        "dedupe_renew",
        {
            "keys": [claim.key for claim in claims],
            "tokens": [claim.token for claim in claims],
            "leases": list(lease),
        },
        parse,
        f"renew the claim of {claims[0].key!r}"
        + (f" and {len(claims) - 1} others" if len(claims) > 1 else ""),
        Retry.IDEMPOTENT,
    )


def complete(key: str, *, token: int, result: str, ttl: float | None) -> Op[None]:
    """Store the result of claimed work, as JSON text.

    Raises (from `parse`):
        LeaseLost: there is a newer claim, or none.
    """
    return Op(
        "dedupe_complete",
        {
            "key": _check_key(key),
            "token": token,
            "ttl": ttl,
            "result": result,
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


def record(
    key: str,
    *,
    ttl: float | None,
    kind: Kind = WORK,
    fingerprint: bytes | None = None,
    model: type[BaseModel] | None = None,
) -> Op[Claim]:
    """Record that work is done, in the transaction that does it, or read its stored result.

    Args:
        key: the idempotency key.
        ttl: seconds until the record expires; None for never.
        kind: keys of different kinds have nothing to do with each other.
        fingerprint, model: as for `claim`.

    Raises (from `parse`):
        LeaseHeld: the lease of another caller is running.
        IdempotencyMismatch: the key has another fingerprint.
    """
    return Op(
        "dedupe_record",
        {"ttl": ttl, **_key_params(kind, key, fingerprint)},
        _parse_claim(key, fingerprint, model),
        f"record {key!r}",
        Retry.UNSAFE,
    )


def record_result(key: str, *, token: int, result: str, kind: Kind = WORK) -> Op[None]:
    """Add the result, as JSON text, to a record, in the transaction that made the record."""
    return Op(
        "dedupe_record_result",
        {"kind": kind, "key": key, "token": token, "result": result},
        lambda rows: None,
        f"store the result of {key!r}",
        Retry.UNSAFE,
    )


def remove_record(key: str, *, token: int) -> Op[None]:
    """Remove a record, in the transaction that made it."""
    return Op(
        "dedupe_remove_record",
        {"kind": WORK, "key": key, "token": token},
        lambda rows: None,
        f"remove the record of {key!r}",
        Retry.UNSAFE,
    )


def digest(value: Any, codec: Codec) -> bytes | None:
    """Return the digest of a `fingerprint=`; None for None.

    Raises:
        InvalidValue: it is no JSON value and no pydantic model.
    """
    return None if value is None else digest_of(decode(codec.encode(value, "fingerprint")))


def _key_params(kind: Kind, key: str, fingerprint: bytes | None) -> dict[str, Any]:
    return {"kind": kind, "key": _check_key(key), "fingerprint": fingerprint}


def _check_key(key: str) -> str:
    return check_name(key, "idempotency key")


def _parse_claim(
    key: str, fingerprint: bytes | None, model: type[BaseModel] | None
) -> Callable[[Sequence[Row]], Claim]:
    result_of = decoder(model, "result")

    def parse(rows: Sequence[Row]) -> Claim:
        token, expires_at, done, found_token, found_expires_at, result, found = rows[0][:7]
        if token is not None:
            return Claim(key, True, token, expires_at)
        if found_token is None:
            raise RetryStatement
        if fingerprint is not None and found is not None and found != fingerprint:
            raise IdempotencyMismatch(
                f"the key {key!r} was used before with another fingerprint=: the work was not done "
                f"again. One key names one piece of work; use a new key for a new one"
            )
        if done:
            return Claim(key, False, found_token, None, _result(result, result_of))
        raise _held(key, found_expires_at)

    return parse


def _result(text: str | None, result_of: Callable[[str | None], Any]) -> Any:
    """Return a stored result. Work without one is done, whatever the model."""
    return None if text is None or text == "null" else result_of(text)


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
            f"changed. The claim was not renewed in time, because the process stood still or the "
            f"server could not be reached: a longer lease= bridges that"
        )

    return parse
