"""What is reserved for a quick member of a group: its next batches, taken together with this one.

Every batch that is new moves the group's position, and who moves it keeps the others waiting. So a
member that comes back quickly takes several batches at once: it holds the first, and the others are
reserved in its slot. Its next calls touch no row but that one::

    behind the ── claim ──► reserved ── its next call (acknowledging) ──► held
    position       │           │
                   │           └── left for `RESERVE` seconds, or another has nothing else to do,
                   │               or its member reads on without acknowledging
                   └──► held       ──► parked, due at once, for anybody

What is reserved is handed to nobody yet: no lease runs, and no attempt counts. It is parked under
the lock of the group's row and of the slot: never in two places. A group that orders reserves
nothing.

Source: the prefetch of AMQP's brokers (`basic.qos`), here with work taken back from who is slow.
"""

from __future__ import annotations

from pgmem.core.op import Op, Retry
from pgmem.groups.ops import Group

RESERVE = 0.25
"""Seconds in which a member must come for what is reserved for it."""
RESERVED_BATCHES = 16
RESERVED_EVENTS = 128
"""So much is reserved at most; but one batch always may be."""


def reserving(count: int, interval: float) -> int:
    """How many batches to reserve for a member that takes `count` at a time.

    Args:
        count: of a batch.
        interval: seconds from its last call to this one.

    Returns:
        As many as it will come for in half of `RESERVE`, if it goes on like this.
    """
    batches = int(min(RESERVE / 2 / max(interval, 1e-6), RESERVED_BATCHES))
    return min(batches, max(1, RESERVED_EVENTS // count))


def unreserve(group: Group, member: str, after: int | None = None) -> Op[int]:
    """What is reserved is anybody's; tells how many events that were.

    Args:
        group: whose.
        member: what is reserved for it, and what nobody has come for in time;
        after: or, where this is given, what is in one slot, the fullest, and behind this position:
            nobody gets an event after a later one because he has taken it from somebody quick.
    """
    return Op(
        "group_unreserve",
        {"group": group.name, "member": member, "after": after, "reserve": RESERVE},
        lambda rows: int(rows[0][0]),
        f"share what is reserved in the group {group.name!r}",
        Retry.IDEMPOTENT,
    )
