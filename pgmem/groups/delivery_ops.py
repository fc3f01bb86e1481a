"""Deliveries: an event handed to a member of a group, its end, its return, its burial.

Says what to run for each; `pgmem.groups.group` decides when.

::

               claim                         ack (token)
    behind the ─────────► held by a member ──────────────► gone
    position               │ │  ▲
                nack(delay)│ │  │ takeover: attempts + 1, a new token
                           │ │  └── its lease ran out ──► attempts = max_attempts: dead letter
                           ▼ └─ nack, attempts = max_attempts; dead_letter() ──► dead letter
                        parked ── due ──► held                                       │
                           ▲                                                         │
                           └───────────────────────── requeue ───────────────────────┘

The token decides, not the clock: a lease that ran out is still ours until somebody takes over.
Events that were handed out together share a row, a token and a lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import Seconds
from pgmem.errors import InvalidOption, LeaseLost
from pgmem.events.durable_ops import check_lease
from pgmem.groups.ops import Group, not_found

ERROR_CHARACTERS = 2_000

_AFTER_GROUP = "WHERE (SELECT count(*) FROM locked) >= 0"
"""The group's row is locked first, as `reset` and `delete` do: neither waits for the other."""


class Held(NamedTuple):
    """What a statement finds an event by, if it is still ours."""

    position: int
    slot: int
    token: int


def whole_params(held: Sequence[Held]) -> dict[str, Any]:
    # As text: psycopg asks for the type of each number in a list.
    positions = "{" + ",".join([str(one.position) for one in held]) + "}"
    return {"slot": held[-1].slot, "token": held[-1].token, "positions": positions}


def held_params(held: Sequence[Held]) -> dict[str, Any]:
    return {
        "slots": [one.slot for one in held],
        "tokens": [one.token for one in held],
        "positions": [one.position for one in held],
    }


def lost_error(verb: str, group: Group, tokens: Sequence[int]) -> LeaseLost:
    which = f" (their tokens: {', '.join(map(str, tokens[:5]))})" if tokens else ""
    return LeaseLost(
        f"{verb} in the group {group.name!r} refused: some of the events are not ours any more"
        f"{which}: their lease ran out and somebody took over, they were acknowledged or given "
        f"back before, or the group was reset. Nothing was changed. What was done for them is "
        f"done again by whoever has them now: undo what is yours to undo, and take a lease that "
        f"is longer than the work, or extend it"
    )


def _parse_held(verb: str, group: Group) -> Callable[[Sequence[Row]], None]:
    def parse(rows: Sequence[Row]) -> None:
        held, tokens, found = rows[0][:3]
        if held:
            return
        if not found:
            raise not_found(group.name)
        raise lost_error(verb, group, tokens)

    return parse


def ack(group: Group, held: Sequence[Held]) -> Op[None]:
    """Acknowledge events: all or none.

    Raises (from `parse`):
        LeaseLost: one is not ours any more.
        GroupNotFound: the group was deleted.
    """
    return Op(
        "delivery_ack",
        {"group": group.name, **held_params(held)},
        _parse_held("acknowledgement", group),
        f"acknowledge {len(held)} events in the group {group.name!r}",
        Retry.CONDITIONAL,
        (("after", ""),),
    )


def nack(
    group: Group,
    held: Sequence[Held],
    *,
    delay: float = 0.0,
    error: str | None = None,
    counted: bool = True,
    bury: bool = False,
) -> Op[None]:
    """Give events back: all or none.

    Args:
        group: theirs.
        held: which.
        delay: seconds until they are due.
        error: why.
        counted: whether the attempt counts.
        bury: give them up for good.

    Raises (from `parse`):
        LeaseLost: one is not ours any more.
        GroupNotFound: the group was deleted.
    """
    verb = "burial" if bury else "return"
    return Op(
        "delivery_nack",
        {
            "group": group.name,
            **held_params(held),
            "delay": delay,
            "error": _shortened(error),
            "counted": counted,
            "bury": bury,
            "max_attempts": group.max_attempts,
        },
        _parse_held(verb, group),
        f"give back {len(held)} events in the group {group.name!r}",
        Retry.CONDITIONAL,
        (("after", _AFTER_GROUP),),
    )


def _shortened(error: str | None) -> str | None:
    if error is None:
        return None
    if not isinstance(error, str):
        raise InvalidOption(f"error is a text, got {type(error).__name__}")
    # What PostgreSQL cannot hold in a text is no reason to lose the rest of it.
    text = error.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text[:ERROR_CHARACTERS]


def extend(group: Group, held: Sequence[Held], *, lease: Seconds) -> Op[datetime]:
    """Hold events, and those handed out with them, for another lease; gives its end.

    Raises (from `parse`):
        LeaseLost: one is not ours any more.
        GroupNotFound: the group was deleted.
    """
    check_held = _parse_held("extension", group)

    def parse(rows: Sequence[Row]) -> datetime:
        check_held(rows)
        until: datetime = rows[0][3]
        return until

    return Op(
        "delivery_extend",
        {"group": group.name, **held_params(held), "lease": check_lease(lease)},
        parse,
        f"extend the lease of {len(held)} events in the group {group.name!r}",
        Retry.IDEMPOTENT,
        (("after", ""),),
    )
