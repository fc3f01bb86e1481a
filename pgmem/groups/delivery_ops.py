"""Deliveries: acknowledge, give back, make dead letters, renew leases.

::

               claim                         ack (token)
    after the ──────────► held by a member ──────────────► done
    position               │ │  ▲
                nack(delay)│ │  │
                           │ │  └── its lease expired ──► delayed, due at once
                           ▼ └─ nack, attempts = max_attempts; dead_letter() ──► dead letter
                       delayed ── due ──► held                                      │
                           ▲                                                         │
                           └───────────────────────── requeue ───────────────────────┘

The token decides, not the clock: a member keeps an expired batch until another takes it over. The
events of a batch share a row, a token and a lease.

**An attempt counts when a handler failed, or when its member lost this event alone.** If a member
dies with several events in hand, one of them may have killed it, and the server cannot see which.
So no attempt counts, and each of these events is from then on alone in its batch. The event that
kills members then uses up its own attempts, and the others are handled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import Seconds
from pgmem.errors import InvalidInput, LeaseLost
from pgmem.events.durable_ops import check_lease
from pgmem.groups.ops import Group, not_found

ERROR_CHARACTERS = 2_000

_AFTER_GROUP = "WHERE (SELECT count(*) FROM locked) >= 0"
"""Lock the group's row first, as `reset` and `delete` do. Another order could deadlock."""

_SETTLED = """OR NOT EXISTS (
           SELECT FROM asked CROSS JOIN LATERAL unnest(asked.positions) AS one (position)
           WHERE EXISTS (SELECT FROM {schema}.delayed
                         WHERE group_name = %(group)s AND delayed.position = one.position)
              OR EXISTS (SELECT FROM {schema}.batches
                         WHERE group_name = %(group)s
                           AND one.position = ANY (batches.positions)))"""
"""No asked event is open, so an earlier acknowledgement was committed."""


class HeldDelivery(NamedTuple):
    """Identify a delivery that a member holds: valid while its batch has the token."""

    position: int
    batch: int
    token: int


def whole_params(held: Sequence[HeldDelivery]) -> dict[str, Any]:
    # As text: psycopg asks for the type of each number in a list.
    positions = "{" + ",".join([str(one.position) for one in held]) + "}"
    return {"batch": held[-1].batch, "token": held[-1].token, "positions": positions}


def held_params(held: Sequence[HeldDelivery]) -> dict[str, Any]:
    return {
        "batches": [one.batch for one in held],
        "tokens": [one.token for one in held],
        "positions": [one.position for one in held],
    }


def lost_error(verb: str, group: Group, tokens: Sequence[int]) -> LeaseLost:
    which = f" (their tokens: {', '.join(map(str, tokens[:5]))})" if tokens else ""
    return LeaseLost(
        f"{verb} in the group {group.name!r} refused: some of the deliveries are lost{which}. "
        f"Their lease expired and another member took over, they were acknowledged or given back "
        f"before, or the group was reset. Nothing was changed. The other member handles the "
        f"events again: undo your effects if you can, and take a longer lease or extend it"
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


def ack(group: Group, held: Sequence[HeldDelivery], *, again: bool = False) -> Op[None]:
    """Acknowledge deliveries, all or none.

    Args:
        group: their group.
        held: the deliveries.
        again: an earlier acknowledgement of them may have been committed. Then it is no error that
            they are not held, unless they are open: with another member, or delayed.

    Raises (from `parse`):
        LeaseLost: a member has lost one of them.
        NotFound: the group was deleted.
    """
    return Op(
        "delivery_ack",
        {"group": group.name, **held_params(held)},
        _parse_held("ack", group),
        f"acknowledge {len(held)} deliveries in the group {group.name!r}",
        Retry.IDEMPOTENT,
        (("after", ""), ("settled", _SETTLED if again else "")),
        fallback=lambda lost: ack(group, held, again=again or lost),
    )


def nack(
    group: Group,
    held: Sequence[HeldDelivery],
    *,
    delay: float = 0.0,
    error: str | None = None,
    counted: bool = True,
) -> Op[None]:
    """Give deliveries back, all or none.

    Args:
        group: their group.
        held: the deliveries.
        delay: seconds until they are due.
        error: the reason.
        counted: whether the attempt counts.

    Raises (from `parse`):
        LeaseLost: a member has lost one of them.
        NotFound: the group was deleted.
    """
    return _nack(group, held, "nack", delay=delay, error=error, counted=counted)


def dead_letter(
    group: Group, held: Sequence[HeldDelivery], *, error: str | None, counted: bool = True
) -> Op[None]:
    """Make deliveries dead letters, all or none. Raises as `nack`."""
    return _nack(group, held, "dead_letter", error=error, counted=counted, dead=True)


def _nack(
    group: Group,
    held: Sequence[HeldDelivery],
    verb: str,
    *,
    delay: float = 0.0,
    error: str | None,
    counted: bool = True,
    dead: bool = False,
) -> Op[None]:
    return Op(
        "delivery_nack",
        {
            "group": group.name,
            **held_params(held),
            "delay": delay,
            "error": _shortened(error),
            "counted": counted,
            "dead": dead,
        },
        _parse_held(verb, group),
        f"give back {len(held)} deliveries in the group {group.name!r}",
        Retry.CONDITIONAL,
        (("after", _AFTER_GROUP), ("settled", "")),
    )


def _shortened(error: str | None) -> str | None:
    if error is None:
        return None
    if not isinstance(error, str):
        raise InvalidInput(f"error is a text, got {type(error).__name__}")
    # Keep the rest of a text that PostgreSQL cannot store as it is.
    text = error.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text[:ERROR_CHARACTERS]


def extend(group: Group, held: Sequence[HeldDelivery], *, lease: Seconds) -> Op[datetime]:
    """Renew the leases of whole batches. Returns the new end.

    Raises (from `parse`):
        LeaseLost: a member has lost one of them.
        NotFound: the group was deleted.
    """
    check_held = _parse_held("extend", group)

    def parse(rows: Sequence[Row]) -> datetime:
        check_held(rows)
        until: datetime = rows[0][3]
        return until

    return Op(
        "delivery_extend",
        {"group": group.name, **held_params(held), "lease": check_lease(lease)},
        parse,
        f"extend the lease of {len(held)} deliveries in the group {group.name!r}",
        Retry.IDEMPOTENT,
        (("after", ""), ("settled", "")),
    )
