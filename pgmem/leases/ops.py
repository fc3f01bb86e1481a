"""Named leases: one holder at a time, by the server's clock, and a queue of those who wait.

Says what to run for each verb; `pgmem.leases.verbs` runs it and waits, `pgmem.leases.renewer`
renews.

A lease's row, and who moves it::

                  acquire                    release(token), nobody waits
        (no row) ─────────► held ─────────────────────────────────────────► (no row)
                            │ ▲ │
           release(token),  │ │ └─ renew(token): a longer time
           somebody waits,  └─┘
           or the time is over and anybody asks: held by the first in the queue (a higher token)

        waiters   join the queue in the row itself (`acquire`), and leave it (`leave`)
        marked    given back while a transaction with a write that is fenced by the lease is still
                  open: no owner, its time over; handed on after that transaction's end

Unlike a delivery, a lease is by the clock: who let its time run out cannot renew it, give it back
or write by it, also if nobody took it yet. Tokens come from a sequence, so none is ever given out
twice, but that a crash of the server under relaxed durability may take one back: so an owner, which
is a random number of each acquisition, proves itself by both.

Whoever changes who holds a lease takes its row FOR UPDATE; a write that is fenced by it takes it
FOR KEY SHARE until it commits. So the one waits for the other, while renewals and the queue go on
beside both.
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
    """Who asks for a lease, the same in each statement of one acquisition.

    Attributes:
        name: the lease's name.
        owner: a number of this acquisition alone: by it, it knows what it did before.
        holder: who that is, for people.
        ttl: seconds that the lease is to be held without a renewal.
    """

    name: str
    owner: str
    holder: str
    ttl: float

    @property
    def signal(self) -> str:
        """The name under which it is woken."""
        return f"lease:{self.owner}"


class Held(NamedTuple):
    """The right to a lease: what every later statement proves itself by."""

    name: str
    owner: str
    token: int
    ttl: float


class Grant(NamedTuple):
    """A lease that is ours now, or longer than before.

    Attributes:
        held: the right to it.
        expires_at: when it ends if it is not renewed, by the server's clock.
        remaining: seconds until then, when the server answered.
    """

    held: Held
    expires_at: datetime
    remaining: float


class LeaseContended(NamedTuple):
    """Somebody else's lease, or one that is just being handed on.

    Attributes:
        holder: who has it or had it last; None if that is not known.
        token: the newest token.
        expires_at: when it ends if it is not renewed; None if there is none any more.
        remaining: seconds until then, when the server answered.
        queue: how many wait for it.
    """

    holder: str | None
    token: int
    expires_at: datetime | None
    remaining: float
    queue: int = 0


class Standing(NamedTuple):
    """How a waiter stands.

    Attributes:
        mine: whether the lease has been handed to it.
        token: the newest token; 0 if there is no lease of the name.
        remaining: seconds until the holder's time is over; 0.0 if there is none.
        place: in the queue, from 0; None if it does not stand there.
        mark: the mark in its entry.
        stays: seconds until the entry counts no more.
    """

    mine: bool
    token: int
    remaining: float
    place: int | None
    mark: int | None
    stays: float


def check_lease_name(name: str) -> str:
    """Check a lease's name.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(name, "lease name")


def check_ttl(ttl: Seconds) -> float:
    """Check how long a lease is to last, and give it in seconds.

    Raises:
        InvalidInput: as `check_within_a_day`.
    """
    return check_within_a_day(
        ttl,
        "ttl",
        "it is renewed for as long as its holder lives, and after a crash nobody gets it before it "
        "has run out",
    )


def acquire(
    request: LeaseRequest, *, wait: bool, mark: int | None, stay: float
) -> Op[Grant | LeaseContended]:
    """Take a lease, or learn who holds it; stand in the queue, or keep the place there.

    Args:
        asker: who asks.
        wait: whether it stands in the queue from now on.
        mark: by which the server knows that the asker's process lives and hears; None if it does
            not hear.
        stay: seconds that the place in the queue counts.

    Raises (from `parse`):
        LostRace: run it again.
    """

    def parse(rows: Sequence[Row]) -> Grant | LeaseContended:
        if not rows:  # It changed hands, or went, while this statement ran.
            raise RetryStatement
        mine, token, holder, expires_at, remaining, queue = rows[0][:6]
        if mine:
            return Grant(
                Held(request.name, request.owner, token, request.ttl), expires_at, remaining
            )
        return LeaseContended(holder, token, expires_at, remaining, queue)

    return Op(
        "lease_acquire",
        {**request._asdict(), "wait": wait, "mark": mark, "stay": stay},
        parse,
        f"acquire the lease {request.name!r}",
        Retry.IDEMPOTENT,
    )


def leave(request: LeaseRequest) -> Op[Grant | LeaseContended]:
    """Leave the queue; or learn that the lease has been handed to the asker: nothing changes then.

    Raises (from `parse`):
        LostRace: run it again.
    """

    def parse(rows: Sequence[Row]) -> Grant | LeaseContended:
        left, queued, mine, token, holder, expires_at, remaining = rows[0][:7]
        if not left and mine:
            return Grant(
                Held(request.name, request.owner, token, request.ttl), expires_at, remaining
            )
        if not left and queued:  # It was handed to us, or went, while this statement ran.
            raise RetryStatement
        return LeaseContended(holder, token or 0, expires_at, remaining or 0.0)

    return Op(
        "lease_leave",
        {"name": request.name, "owner": request.owner},
        parse,
        f"leave the queue of the lease {request.name!r}",
        Retry.IDEMPOTENT,
    )


def look(requests: Sequence[LeaseRequest]) -> Op[dict[str, Standing]]:
    """How some waiters stand, by their owners' numbers."""

    def parse(rows: Sequence[Row]) -> dict[str, Standing]:
        return {
            owner: Standing(
                bool(mine),
                token or 0,
                remaining or 0.0,
                None if place is None else place - 1,
                mark,
                stays or 0.0,
            )
            for owner, mine, token, remaining, place, mark, stays in rows
        }

    return Op(
        "lease_look",
        {
            "names": [request.name for request in requests],
            "owners": [request.owner for request in requests],
        },
        parse,
        f"look after {len(requests)} who wait for leases",
    )


def renew(leases: Sequence[Held]) -> Op[dict[str, Grant | LeaseLost | None]]:
    """Keep some leases for another time each.

    Returns (from `parse`), by their owners' numbers: the renewed lease; the error if it is not ours
    any more; None if its row is locked right now: try again.
    """
    by_owner = {held.owner: held for held in leases}

    def parse(rows: Sequence[Row]) -> dict[str, Grant | LeaseLost | None]:
        return {row[0]: _parse_renewal(by_owner[row[0]], row[1:8]) for row in rows}

    return Op(
        "lease_renew",
        {
            "names": [held.name for held in leases],
            "owners": [held.owner for held in leases],
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
    renewed, remaining, token, owner, holder, expires_at, runs = row
    if renewed is not None:
        return Grant(held, renewed, remaining)
    if runs and (token, owner) == (held.token, held.owner):
        return None
    return lost("renewal", held.name, held.token, _found(held.token, token, holder, expires_at))


def release(name: str, token: int, *, owner: str | None) -> Op[bool]:
    """Give a lease back; False if a transaction with a write fenced by it is still open.

    Args:
        name: the lease's name.
        token: its fencing token, which must be the current one.
        owner: the number of the acquisition; None if whoever knows the token may do it.

    Raises (from `parse`):
        LeaseLost: it is not ours any more.
        LostRace: run it again.
    """

    def parse(rows: Sequence[Row]) -> bool:
        done, marked, current, holder, expires_at, runs = rows[0][:6]
        if done or marked:
            return bool(done)
        if current == token and runs:  # Somebody took it over while this statement ran.
            raise RetryStatement
        raise lost("release", name, token, _found(token, current, holder, expires_at))

    return Op(
        "lease_release",
        {
            "name": check_lease_name(name),
            "token": check_count(token, "fencing_token", minimum=1),
            "owner": owner,
        },
        parse,
        f"release the lease {name!r}",
        # A second run finds it gone, or with the next one.
        Retry.CONDITIONAL,
    )


def _found(token: int, current: int | None, holder: str | None, expires_at: datetime | None) -> str:
    """What became of the lease that had a token, for messages."""
    if current is None:
        return "nobody holds it any more: it ran out, or was given back"
    if current != token:
        return f"{holder} holds it, or held it last, under the token {current}"
    if expires_at is None:
        return "it is another one's"
    return f"it ran out at {expires_at.isoformat()}, and nobody has taken it yet"


def lost(verb: str, name: str, token: int, state: str) -> LeaseLost:
    """The error for a lease that is not ours any more."""
    return LeaseLost(
        f"{verb} of the lease {name!r} with the fencing token {token} refused: {state}; nothing "
        f"was changed. Another one may have done the same work meanwhile: give what you write the "
        f"lease (compare_and_set(…, fence=)), and a ttl longer than the longest standstill of the "
        f"process"
    )


def held_by_another(name: str, busy: LeaseContended, waited: float) -> LeaseHeld:
    """The error for a lease that was not had in time."""
    until = (
        "" if busy.expires_at is None else f" until {busy.expires_at.isoformat()}, if not longer"
    )
    return LeaseHeld(
        f"the lease {name!r} is held by {busy.holder or 'another'}{until}: waited {waited:.1f} s "
        f"for it. Try again later, or wait longer (timeout=)",
        expires_at=busy.expires_at,
    )


def list_leases(prefix: str) -> Op[list[LeaseInfo]]:
    """The leases whose name begins with a prefix, in the order of their names."""
    return Op(
        "lease_list",
        {"prefix": check_prefix(prefix, "prefix"), "end": after_prefix(prefix)},
        lambda rows: [LeaseInfo._make(row) for row in rows],
        f"list the leases with prefix {prefix!r}",
        fragments=_BY_PREFIX,
    )


def get(name: str) -> Op[LeaseInfo | None]:
    """One lease, or None."""
    return Op(
        "lease_list",
        {"name": check_lease_name(name)},
        lambda rows: LeaseInfo._make(rows[0]) if rows else None,
        f"find the lease {name!r}",
        fragments=_BY_NAME,
    )
