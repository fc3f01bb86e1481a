"""Results of the verbs of leases and rate limits."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class LeaseInfo(NamedTuple):
    """A named lease that is held.

    Attributes:
        name: its name.
        owner: its holder: host, process id and, if there is one, agent id.
        token: the fencing token of the holder. Later holders have higher ones.
        acquired_at: when the holder got it (the server's clock).
        expires_at: when it ends if it is not renewed (the server's clock).
        waiters: how many callers wait for it.
    """

    name: str
    owner: str
    token: int
    acquired_at: datetime
    expires_at: datetime
    waiters: int


class Permit(NamedTuple):
    """The answer of a rate limit.

    Attributes:
        granted: True if the call may go on.
        remaining: how many more calls fit at once now.
        retry_after: seconds until the call would fit; 0.0 if it was granted.
    """

    granted: bool
    remaining: int
    retry_after: float
