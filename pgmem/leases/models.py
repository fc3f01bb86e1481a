"""What leases and limits give back."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class LeaseInfo(NamedTuple):
    """A named lease, and who holds it.

    Attributes:
        name: its name.
        holder: who holds it: host, process and agent.
        fencing_token: the token of this time of holding; later ones are higher.
        acquired_at: since when (the server's clock).
        expires_at: when it ends if it is not renewed (the server's clock).
        waiters: how many wait for it.
    """

    name: str
    holder: str
    fencing_token: int
    acquired_at: datetime
    expires_at: datetime
    waiters: int


class Permit(NamedTuple):
    """The answer of a rate limit.

    Attributes:
        granted: whether it may go on.
        remaining: how many more may come at once now.
        retry_after: seconds until it would fit; 0.0 if it was granted.
    """

    granted: bool
    remaining: int
    retry_after: float
