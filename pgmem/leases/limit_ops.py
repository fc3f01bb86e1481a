"""Rate limits by the generic cell rate algorithm (ITU-T I.371, virtual scheduling).

One moment is stored for each limit, the theoretical arrival time (TAT) of the next call if all
calls came evenly::

    now ────────────── TAT ─────────── now + burst / rate
         taken in advance   what still fits at once

A call of cost c passes if max(TAT, now) + c / rate is at most now + burst / rate, and moves the TAT
there. All times are the server's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import check_count, check_name
from pgmem.errors import InvalidInput
from pgmem.leases.models import Permit

MAXIMUM: Final = 1_000_000_000
MINIMUM_RATE: Final = 1e-6
"""One call in about eleven days."""


def check_rate(rate: float) -> float:
    """Check a rate, in calls a second.

    Raises:
        InvalidInput: it is no number, or out of range.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise InvalidInput(f"rate is a number of calls a second, got {type(rate).__name__}")
    if not MINIMUM_RATE <= rate <= MAXIMUM:  # nor is NaN
        raise InvalidInput(f"rate must be {MINIMUM_RATE:g} to {MAXIMUM:g} calls a second")
    return float(rate)


def acquire(name: str, rate: float, burst: int, cost: int) -> Op[Permit]:
    """Take `cost` from a limit, or return when it fits."""
    rate = check_rate(rate)
    check_count(burst, "burst", minimum=1, maximum=MAXIMUM)
    check_count(cost, "cost", minimum=1, maximum=MAXIMUM)
    if cost > burst:
        raise InvalidInput(
            f"cost={cost} of the limit {name!r} is more than burst={burst}: it would never fit"
        )

    def parse(rows: Sequence[Row]) -> Permit:
        granted, ahead = rows[0][:2]
        ahead = max(0.0, ahead or 0.0)
        # The seconds carry the rounding of the server's microseconds.
        remaining = max(0, math.floor(burst - ahead * rate + 1e-4))
        if granted:
            return Permit(True, remaining, 0.0)
        return Permit(False, remaining, max(0.000_1, ahead + (cost - burst) / rate))

    params: dict[str, Any] = {
        "name": check_name(name, "limit name"),
        "cost": cost / rate,
        "burst": burst / rate,
    }
    # A second execution after a lost answer may count the call twice: the limit is then too slow
    # once, and never too fast.
    return Op("limit_acquire", params, parse, f"pass the rate limit {name!r}", Retry.IDEMPOTENT)
