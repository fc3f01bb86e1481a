"""Prefetch the next batches for a quick member of a group, together with the one that it claims.

Each new batch moves the group's position, and the member that moves it makes the others wait. So a
member that comes back quickly claims several batches at once. It handles the first, and the others
are prefetched in its batch row. Its next calls touch no other row::

    behind the ── claim ──► prefetched ── its next call (acknowledging) ─► held
    position       │           │
                   │           └── left for `PREFETCH_SECONDS`, or another has nothing else
                   │               to do, or its member reads on without acknowledging
                   └──► held       ──► delayed, due at once, for all

A prefetched event is with no member yet: it has no lease and counts no attempt. It is delayed under
the locks of the group's row and the batch row, so it is never in two places. An ordered group does
not prefetch.

Source: the prefetch of AMQP's brokers (`basic.qos`), here with work taken back from slow members.
"""

from __future__ import annotations

from pgmem.core.op import Op, Retry
from pgmem.groups.ops import Group

PREFETCH_SECONDS = 0.25
"""Seconds in which a member must claim its prefetched events."""
PREFETCHED_BATCHES = 16
PREFETCHED_EVENTS = 128
"""The most batches and events to prefetch. One batch is always allowed."""


def batches_to_prefetch(count: int, interval: float) -> int:
    """Return the number of batches to prefetch for a member.

    Args:
        count: events of a batch.
        interval: seconds from its last call to this one.

    Returns:
        As many as it will claim in half of `PREFETCH_SECONDS`, if it keeps its pace.
    """
    batches = int(min(PREFETCH_SECONDS / 2 / max(interval, 1e-6), PREFETCHED_BATCHES))
    return min(batches, max(1, PREFETCHED_EVENTS // count))


def release_prefetched(group: Group, member: str, after: int | None = None) -> Op[int]:
    """Release prefetched events to all members. Gives the number released.

    Args:
        group: the group.
        member: release what is prefetched for it, and what other members left.
        after: if it is given, release only events of the fullest batch row behind this position.
            So no member gets an event after a later one because it took it from a quick member.
    """
    return Op(
        "group_release_prefetched",
        {
            "group": group.name,
            "member": member,
            "after": after,
            "prefetch_seconds": PREFETCH_SECONDS,
        },
        lambda rows: int(rows[0][0]),
        f"release prefetched events of the group {group.name!r}",
        Retry.IDEMPOTENT,
    )
