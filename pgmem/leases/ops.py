"""Named leases: one holder at a time, by the server's clock, and a queue of waiters.

The state of a lease's row::

                  acquire                    release, no waiter
        (no row) ─────────► held ───────────────────────────────► (no row)
                            │ ▲ │
           release with a   │ │ └─ renew: a later end
           waiter, or its   └─┘
           time is over and another call asks: held by the first live waiter, with a higher token

        waiters   `acquire` joins the queue, which is a column of the row. `leave` leaves it.
        released  A released row stays while a transaction with a fenced write is open. It has no
                  owner and its time is over. It is granted after that transaction's end.

A lease is decided by the clock, unlike a delivery: a holder whose time is over can neither renew
it, release it nor write with it, even if no other holder has it. Tokens come from a sequence, so
none is given out twice, with one exception: a crash of the server under relaxed durability may take
one back. So a holder proves itself by its token and by the random id of its acquisition.

A change of the holder takes the row FOR UPDATE. A fenced write takes it FOR KEY SHARE until it
commits. So the one waits for the other, and renewals and the queue go on beside both.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import (
    Seconds,
    after_prefix,
    check_count,
    check_name,
    check_prefix,
    check_within_a_day,
)
from pgmem.errors import LeaseHeld, LeaseLost
from pgmem.leases.models import LeaseInfo

_BY_NAME = (("filter", "name = %(name)s"),)
_BY_PREFIX = (("filter", "name >= %(prefix)s AND (%(end)s::text IS NULL OR name < %(end)s)"),)


class LeaseRequest(NamedTuple):
    """One acquisition: the same in each of its statements.

    Attributes:
        name: the lease's name.
        owner_id: a random id of this acquisition.
        owner: the caller, for people.
        ttl: seconds that the lease lasts without a renewal.
    """

    name: str
    owner_id: str
    owner: str
    ttl: float

    @property
    def notification(self) -> str:
        """The name of the notification that tells that the lease was granted."""
        return f"lease:{self.owner_id}"


class Held(NamedTuple):
    """A lease that was granted: what its later statements prove themselves by."""

    name: str
    owner_id: str
    token: int
    ttl: float


class Grant(NamedTuple):
    """A lease that was granted or renewed.

    Attributes:
        held: the lease.
        expires_at: when it ends if it is not renewed, by the server's clock.
        remaining: seconds until then, at the time of the answer.
    """

    held: Held
    expires_at: datetime
    remaining: float


class LeaseContended(NamedTuple):
    """A lease that was not granted: another holder has it, or it is changing hands.

    Attributes:
        owner: its present or last holder; None if unknown.
        token: the newest token.
        expires_at: when it ends if it is not renewed; None if it has no row.
        remaining: seconds until then, at the time of the answer.
        queue: how many callers wait for it.
    """

    owner: str | None
    token: int
    expires_at: datetime | None
    remaining: float
    queue: int = 0


class QueueStatus(NamedTuple):
    """The state of one waiter.

    Attributes:
        granted: True if the lease has been granted to it.
        token: the newest token; 0 if the lease has no row.
        remaining: seconds until the holder's time is over; 0.0 if there is none.
        place: its place in the queue, from 0; None if it is not in the queue.
        listener_id: the listener id in its entry.
        entry_ttl: seconds until its entry expires.
    """

    granted: bool
    token: int
    remaining: float
    place: int | None
    listener_id: int | None
    entry_ttl: float


def check_lease_name(name: str) -> str:
    """Check a lease's name.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(name, "lease name")


def check_ttl(ttl: Seconds) -> float:
    """Check how long a lease lasts, and return it in seconds.

    Raises:
        InvalidInput: as `check_within_a_day`.
    """
    return check_within_a_day(
        ttl,
        "ttl",
        "a lease is renewed as long as its holder lives, and after a crash other callers wait "
        "until it has run out",
    )


def acquire(
    request: LeaseRequest, *, wait: bool, listener_id: int | None, entry_ttl: float
) -> Op[Grant | LeaseContended]:
    """Acquire a lease, or return its holder.

    Args:
        request: the acquisition.
        wait: True joins the queue, or renews the entry there.
        listener_id: the number by which the server knows that the caller's process listens; None
            if it does not listen.
        entry_ttl: seconds until the entry in the queue expires.

    Raises (from `parse`):
        RetryStatement: execute it again.
    """

    def parse(rows: Sequence[Row]) -> Grant | LeaseContended:
        if not rows:  # It changed hands, or its row was deleted, while the statement ran.
            raise RetryStatement
        granted, token, owner, expires_at, remaining, queue = rows[0][:6]
        if granted:
            return _grant(request, token, expires_at, remaining)
        return LeaseContended(owner, token, expires_at, remaining, queue)

    return Op(
        "lease_acquire",
        {
            **request._asdict(),
            "wait": wait,
            "listener": listener_id,
            "entry_ttl": entry_ttl,
        },
        parse,
        f"acquire the lease {request.name!r}",
        Retry.IDEMPOTENT,
    )


def leave(request: LeaseRequest) -> Op[Grant | LeaseContended]:
    """Leave the queue. If the lease was granted in this moment, return it and change nothing.

    Raises (from `parse`):
        RetryStatement: execute it again.
    """

    def parse(rows: Sequence[Row]) -> Grant | LeaseContended:
        left, queued, granted, token, owner, expires_at, remaining = rows[0][:7]
        if not left and granted:
            return _grant(request, token, expires_at, remaining)
        if not left and queued:  # It was granted, or its row was deleted, while this ran.
            raise RetryStatement
        return LeaseContended(owner, token or 0, expires_at, remaining or 0.0)

    return Op(
        "lease_leave",
        {"name": request.name, "owner_id": request.owner_id},
        parse,
        f"leave the queue of the lease {request.name!r}",
        Retry.IDEMPOTENT,
    )


def _grant(request: LeaseRequest, token: int, expires_at: datetime, remaining: float) -> Grant:
    held = Held(request.name, request.owner_id, token, request.ttl)
    return Grant(held, expires_at, remaining)


def queue_status(requests: Sequence[LeaseRequest]) -> Op[dict[str, QueueStatus]]:
    """Return the state of some waiters by the ids of their acquisitions."""

    def parse(rows: Sequence[Row]) -> dict[str, QueueStatus]:
        return {
            owner_id: QueueStatus(
                bool(granted),
                token or 0,
                remaining or 0.0,
                None if place is None else place - 1,
                listener_id,
                entry_ttl or 0.0,
            )
            for owner_id, granted, token, remaining, place, listener_id, entry_ttl in rows
        }

    return Op(
        "lease_queue_status",
        {
            "names": [request.name for request in requests],
            "owner_ids": [request.owner_id for request in requests],
        },
        parse,
        f"read the state of {len(requests)} waiters for leases",
    )


def renew(leases: Sequence[Held]) -> Op[dict[str, Grant | LeaseLost | None]]:
    """Renew some leases, each for its `ttl` from now.

    `parse` returns a value for each acquisition's id: the renewed lease; the error if the lease is
    lost; None if its row is locked right now, so that the caller tries again.
    """
    by_id = {held.owner_id: held for held in leases}

    def parse(rows: Sequence[Row]) -> dict[str, Grant | LeaseLost | None]:
        return {row[0]: _parse_renewal(by_id[row[0]], row[1:8]) for row in rows}

    return Op(
        "lease_renew",
        {
            "names": [held.name for held in leases],
            "owner_ids": [held.owner_id for held in leases],
            "tokens": [held.token for held in leases],
            "ttls": [held.ttl for held in leases],
        },
        parse,
        "renew the lease "
        + ", ".join(repr(held.name) for held in leases[:3])
        + (f" and {len(leases) - 3} others" if len(leases) > 3 else ""),
        Retry.IDEMPOTENT,
    )


def _parse_renewal(held: Held, row: Row) -> Grant | LeaseLost | None:
    renewed, remaining, token, owner_id, owner, expires_at, runs = row
    if renewed is not None:
        return Grant(held, renewed, remaining)
    if runs and (token, owner_id) == (held.token, held.owner_id):
        return None
    return lost("renewal", held.name, held.token, _found(held.token, token, owner, expires_at))


def release(name: str, token: int, *, owner_id: str | None) -> Op[bool]:
    """Release a lease. `parse` returns False while a transaction with a fenced write is open.

    Args:
        name: the lease's name.
        token: its fencing token, which must be the current one.
        owner_id: the id of the acquisition; None lets any caller that knows the token release it.

    Raises (from `parse`):
        LeaseLost: the token is not the current one, or the lease ran out.
        RetryStatement: execute it again.
    """

    def parse(rows: Sequence[Row]) -> bool:
        done, marked, current, owner, expires_at, runs = rows[0][:6]
        if done or marked:
            return bool(done)
        if current == token and runs:  # It changed hands while the statement ran.
            raise RetryStatement
        raise lost("release", name, token, _found(token, current, owner, expires_at))

    return Op(
        "lease_release",
        {
            "name": check_lease_name(name),
            "token": check_count(token, "token", minimum=1),
            "owner_id": owner_id,
        },
        parse,
        f"release the lease {name!r}",
        # A second execution finds the row gone, or the next holder.
        Retry.CONDITIONAL,
    )


def _found(token: int, current: int | None, owner: str | None, expires_at: datetime | None) -> str:
    """Describe the state of a lease that is not held under `token`, for messages."""
    if current is None:
        return "the lease is not held: it ran out or was released"
    if current != token:
        return f"its present or last holder is {owner}, with the token {current}"
    if expires_at is None:
        return "another acquisition holds it"
    return f"it ran out at {expires_at.isoformat()}, and no other holder has it yet"


def lost(verb: str, name: str, token: int, state: str) -> LeaseLost:
    """Build the error for a lease that is no longer held."""
    return LeaseLost(
        f"{verb} of the lease {name!r} with the fencing token {token} refused: {state}; nothing "
        f"was changed. Another process may have done the same work meanwhile. Pass the lease to "
        f"your writes (compare_and_set(…, fence=lease)), and give a ttl that is longer than the "
        f"process can stand still"
    )


def require(held: Held, verb: str) -> Op[None]:
    """Require that a lease is held until the present transaction ends.

    Args:
        held: the lease.
        verb: what the caller does, for the message.

    Raises (from `parse`):
        LeaseLost: it is not held.
    """

    def parse(rows: Sequence[Row]) -> None:
        if not rows[0][0]:
            raise lost(verb, held.name, held.token, "the lease is not held under this token")

    return Op("lease_require", fence_params(held), parse, f"require the lease {held.name!r}")


def fence_params(held: Held) -> dict[str, object]:
    """Return the parameters of the piece `lease_fence`."""
    return {"lease_name": held.name, "lease_owner": held.owner_id, "lease_token": held.token}


def held_by_another(name: str, found: LeaseContended, waited: float) -> LeaseHeld:
    """Build the error for a lease that was not granted within the caller's timeout."""
    until = "" if found.expires_at is None else f" until {found.expires_at.isoformat()} or longer"
    return LeaseHeld(
        f"the lease {name!r} is held by {found.owner or 'another process'}{until}: waited "
        f"{waited:.1f} s for it. Try again later, or wait longer (timeout=)",
        expires_at=found.expires_at,
    )


def list_leases(prefix: str) -> Op[list[LeaseInfo]]:
    """List the leases whose name begins with a prefix, ordered by name."""
    return Op(
        "lease_list",
        {"prefix": check_prefix(prefix, "prefix"), "end": after_prefix(prefix)},
        lambda rows: [LeaseInfo._make(row) for row in rows],
        f"list the leases with prefix {prefix!r}",
        fragments=_BY_PREFIX,
    )


def get(name: str) -> Op[LeaseInfo | None]:
    """Return one lease, or None if it is not held."""
    return Op(
        "lease_list",
        {"name": check_lease_name(name)},
        lambda rows: LeaseInfo._make(rows[0]) if rows else None,
        f"find the lease {name!r}",
        fragments=_BY_NAME,
    )
