"""Rate limits: so many a second on average, so many at once.

Says what to run; `pgmem.leases.limits` waits. The method is the generic cell rate algorithm (ITU-T
I.371, the virtual scheduling form): one moment is kept, the theoretical arrival time (TAT) of the
next one, if all came evenly::

    now ────────────── TAT ─────────── now + burst / rate
         what was let          what may still come at once
         through ahead

One that costs c passes if max(TAT, now) + c / rate is not beyond now + burst / rate, and moves
the TAT there. By the server's clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import check_count, check_name
from pgmem.errors import InvalidInput
from pgmem.leases.models import Permit

MOST = 1_000_000_000
SLOWEST = 1e-6
"""Least rate: one in about eleven days."""


def check_rate(rate: float) -> float:
    """Check a rate, in events a second.

    Raises:
        InvalidInput: no number, or not in the range.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise InvalidInput(f"rate is a number of events a second, got {type(rate).__name__}")
    if not (math.isfinite(rate) and SLOWEST <= rate <= MOST):
        raise InvalidInput(f"rate must be {SLOWEST:g} to {MOST:g} events a second, got {rate:g}")
    return float(rate)


def acquire(name: str, rate: float, burst: int, cost: int) -> Op[Permit]:
    """Let something through, or tell when to come again."""
    rate = check_rate(rate)
    check_count(burst, "burst", minimum=1, maximum=MOST)
    check_count(cost, "cost", minimum=1, maximum=MOST)
    if cost > burst:
        raise InvalidInput(
            f"cost={cost} of the limit {name!r} is more than burst={burst}: it would never pass"
        )

    def parse(rows: Sequence[Row]) -> Permit:
        granted, ahead = rows[0][:2]
        ahead = max(0.0, ahead or 0.0)
        # Seconds carry the rounding of the server's microseconds.
        remaining = max(0, math.floor(burst - ahead * rate + 1e-4))
        if granted:
            return Permit(True, remaining, 0.0)
        return Permit(False, remaining, max(0.000_1, ahead + (cost - burst) / rate))

    params: dict[str, Any] = {
        "name": check_name(name, "limit name"),
        "takes": cost / rate,
        "burst": burst / rate,
    }
    # A second run, after a lost answer, may count it twice: too slow for once, never too fast.
    return Op("limit_acquire", params, parse, f"pass the rate limit {name!r}", Retry.IDEMPOTENT)
