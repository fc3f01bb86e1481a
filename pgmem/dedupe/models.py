"""Models of deduplication: claims and outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple


class Outcome(NamedTuple):
    """How a piece of work under an idempotency key ended.

    Attributes:
        status: "processed" if this call did the work, "skipped" if it had been done before.
        result: what the work returned, now or then.
    """

    status: Literal["processed", "skipped"]
    result: Any


@dataclass(frozen=True)
class Claim:
    """The right to do a piece of work, or the result of work that is done.

    Attributes:
        key: the idempotency key.
        acquired: True if the caller now holds the claim, False if the work is done.
        token: the fencing token. It grows with every claim of the key, so that a system which
            stores it can refuse older ones.
        expires_at: when another caller may take over if the claim is not renewed, by the server's
            clock; None if the work is done.
        result: the stored result if the work is done.
    """

    # A class and no tuple, so that the renewal can hold a weak reference to it.
    key: str
    acquired: bool
    token: int
    expires_at: datetime | None = None
    result: Any = None
