"""Statements of `group.run` beside claims and acknowledgements."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pgmem.core.names import NAME_BYTES
from pgmem.core.op import Op, Retry, Row
from pgmem.groups.delivery_ops import HeldDelivery
from pgmem.groups.ops import Group


class RenewedBatch(NamedTuple):
    """A batch that still has its token.

    Attributes:
        positions: what is open in it.
        expires_at: the new end of its lease; None if a transaction has locked its row.
    """

    positions: frozenset[int]
    expires_at: datetime | None


def renew(
    group: Group, batches: Sequence[tuple[int, int]], *, lease: float
) -> Op[dict[int, RenewedBatch]]:
    """Renew the leases of batches. Returns those that still have their token, by id.

    Args:
        group: their group.
        batches: the id and the token of each.
        lease: seconds.
    """

    def parse(rows: Sequence[Row]) -> dict[int, RenewedBatch]:
        return {row[0]: RenewedBatch(frozenset(row[1]), row[2]) for row in rows}

    return Op(
        "group_renew",
        {
            "group": group.name,
            "batches": [batch for batch, _ in batches],
            "tokens": [token for _, token in batches],
            "lease": lease,
        },
        parse,
        f"renew leases of the group {group.name!r}",
        Retry.IDEMPOTENT,
    )


def isolate(group: Group, held: HeldDelivery) -> Op[bool]:
    """Note that an event is handled alone. Returns False if the member has lost it."""
    return Op(
        "delivery_isolate",
        {"group": group.name, "batch": held.batch, "token": held.token},
        bool,
        f"handle an event of the group {group.name!r} alone",
        Retry.IDEMPOTENT,
    )


def work_key(group: str, position: int) -> str:
    """Return the idempotency key of the work that an event causes in a group.

    The name of a long group is hashed. To cut it off would give two groups, or two events, one key.
    """
    key = f"group:{group}:{position}"
    if len(key.encode()) <= NAME_BYTES:
        return key
    return f"group:sha256:{hashlib.sha256(group.encode()).hexdigest()}:{position}"


def numbered_member(name: str, number: int) -> str:
    """Return the name of one of several members of a run. A long name is cut and hashed."""
    suffix = f" #{number}"
    if len((name + suffix).encode()) <= NAME_BYTES:
        return name + suffix
    digest = f"~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    kept = name.encode()[: NAME_BYTES - len(digest) - len(suffix)].decode("utf-8", "ignore")
    return kept + digest + suffix
