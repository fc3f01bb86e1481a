"""What deduplication gives back."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple


class Outcome(NamedTuple):
    """How a piece of work under an idempotency key ended.

    Attributes:
        status: "processed" if this call did the work, "skipped" if it had been done before.
        result: what the work returned, this time or the first time.
    """

    status: Literal["processed", "skipped"]
    result: Any


class Claim(NamedTuple):
    """The answer to `dedupe.claim`.

    Attributes:
        key: the idempotency key.
        acquired: True if the caller now holds the claim; False if the work is already done.
        token: the fencing token: grows with every claim, refused once a newer one exists.
        lease_until: when the claim may be taken over (the server's clock); None if done.
        result: the stored result, if the work is already done.
    """

    key: str
    acquired: bool
    token: int
    lease_until: datetime | None = None
    result: Any = None
