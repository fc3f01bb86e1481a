"""Durable subscriptions: stored positions in the log, each held by one process at a time.

Returns what to run for each verb. `pgmem.events.durable_lease` runs it, renews the lease and waits.

The states of a subscription's row::

                  acquire                 release(token)
        (no row) ─────────► held ────────────────────────► free
            ▲               │ ▲ │ lease runs out             │ acquire
            │ delete        │ │ └──────► held by the next ◄──┘ (a higher token)
            └───────────────┤ └─ renew(token), commit(token): a longer lease
                            └─ reset: free (a higher token)

Tokens come from a sequence, so no token is given twice, also after its row was deleted. The first
session on a new timeline raises the sequence above what a failover can have lost.

A promotion changes the timeline. The row's position was replicated together with the events, so
the next acquisition stamps the new timeline. An owner that lives through it first checks that the
log holds what it has read, and then goes on with the new timeline (`Promoted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from pgmem.core.encoding import DEFAULT_MAX_BYTES, encode_object
from pgmem.core.history import History
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import (
    Seconds,
    check_count,
    check_name,
    check_position,
    check_within_a_day,
)
from pgmem.errors import (
    AlreadyExists,
    HistoryRewritten,
    InvalidInput,
    LeaseLost,
    NotFound,
)
from pgmem.events.models import SubscriptionInfo

OnFailover = Literal["continue", "refuse"]
"""Whether a stored position goes on by itself after a promotion; see `events.subscribe`."""

_BY_NAME = (("filter", "WHERE name = %(name)s"),)
_ALL = (("filter", ""),)


class Ownership(NamedTuple):
    """The right to go on from a subscription's position. Every later statement proves it.

    Attributes:
        name: the subscription's name.
        token: the fencing token: refused once a newer one exists.
        position: the stored position to go on from, as of the acquisition.
        created_at: when the subscription was first used.
        history: the history of the log that the position belongs to.
        stamps: the row goes on in a later timeline of its cluster.
    """

    name: str
    token: int
    position: int
    created_at: datetime
    history: History
    stamps: bool = True

    def params(self) -> dict[str, Any]:
        """Return the parameters that find the row if it is still ours."""
        return {"name": self.name, "token": self.token, **self.history._asdict()}


class Promoted(NamedTuple):
    """The server is on a later timeline than the owner knows. Nothing was done.

    Attributes:
        history: the present one.
    """

    history: History


class HeldByOther(NamedTuple):
    """Another process holds the subscription.

    Attributes:
        owner: that process.
        remaining: seconds until others may take over.
    """

    owner: str
    remaining: float


def check_subscription(name: str) -> str:
    """Check a durable subscription's name and return it.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(name, "subscription name")


def check_on_failover(on_failover: OnFailover) -> OnFailover:
    """Check the option and return it.

    Raises:
        InvalidInput: it is another value.
    """
    if on_failover not in get_args(OnFailover):
        raise InvalidInput(f"on_failover is 'continue' or 'refuse', got {on_failover!r}")
    return on_failover


def check_lease(lease: Seconds) -> float:
    """Check a lease and return it in seconds.

    Raises:
        InvalidInput: as `check_within_a_day`.
    """
    return check_within_a_day(lease, "lease", "after a crash no process takes over before its end")


def acquire(
    name: str,
    wanted: dict[str, Any],
    *,
    start: int,
    lease: float,
    owner: str,
    on_failover: OnFailover = "continue",
) -> Op[Ownership | HeldByOther]:
    """Take a subscription, creating it at `start` if it is new.

    Args:
        name: its name.
        wanted: its filter, as a JSON object.
        start: the position of a new subscription.
        lease: seconds without a renewal after which others may take over.
        owner: unique to the caller. A second run of the op recognizes its own first run by it.
        on_failover: whether a position of an earlier timeline goes on.

    Raises (from `parse`):
        AlreadyExists: it was created with another filter.
        HistoryRewritten: its position was made in another history of the log.
        RetryStatement: run it again.
    """
    text = encode_object(wanted, "filter", limit=DEFAULT_MAX_BYTES)
    stamps = on_failover == "continue"

    def parse(rows: Sequence[Row]) -> Ownership | HeldByOther:
        token, position, created_at, *history = rows[0][:5]
        same, stored, found_position, *found_history = rows[0][5:10]
        owner_found, remaining, *present = rows[0][10:14]
        if token is not None:
            return Ownership(name, token, position, created_at, History._make(history), stamps)
        if same is None:  # Another process created it while this statement ran.
            raise RetryStatement
        if not same:
            raise AlreadyExists(
                f"the subscription {name!r} follows {stored} and was asked to follow {text}: use "
                f"another name, or memory.subscriptions.delete({name!r}) to begin anew"
            )
        before, now = History._make(found_history), History._make(present)
        if before != now and not (stamps and before.leads_to(now)):
            raise _rewritten("acquisition", name, found_position, found_history, present)
        if remaining is None or remaining <= 0:  # Its owner changed while this statement ran.
            raise RetryStatement
        return HeldByOther(owner_found, remaining)

    return Op(
        "subscription_acquire",
        {
            "name": check_subscription(name),
            "selection": text,
            "start": check_count(start, "after", minimum=0),
            "lease": lease,
            "owner": owner,
            "stamp": stamps,
        },
        parse,
        f"acquire the subscription {name!r}",
        Retry.IDEMPOTENT,
    )


def renew(held: Ownership, *, lease: float) -> Op[bool | Promoted]:
    """Extend the lease. The result is False if the row is locked right now: try again.

    Raises (from `parse`):
        LeaseLost: another process holds it, or it was reset or deleted.
        HistoryRewritten: the server's history is not the one that it was acquired in.
    """

    def parse(rows: Sequence[Row]) -> bool | Promoted:
        if rows[0][0] is not None:
            return True
        return _refuse_lost("renewal", held, rows[0], held.position) or False

    return Op(
        "subscription_renew",
        {**held.params(), "lease": lease, "stamp": held.stamps},
        parse,
        f"renew the lease of the subscription {held.name!r}",
        Retry.IDEMPOTENT,
    )


def commit(held: Ownership, position: int, *, lease: float) -> Op[Promoted | None]:
    """Store that every event up to `position` is handled, and extend the lease.

    If a higher position is stored, it stays: transactions may commit in another order than events.

    Raises (from `parse`):
        LeaseLost: another process holds it, or it was reset or deleted.
        HistoryRewritten: the server's history is not the one that it was acquired in.
        RetryStatement: run it again.
    """
    check_count(position, "position", minimum=0)
    verb = f"commit of position {position}"

    def parse(rows: Sequence[Row]) -> Promoted | None:
        if rows[0][0] is not None:
            return None
        promoted = _refuse_lost(verb, held, rows[0], position)
        if promoted is None:
            raise RetryStatement
        return promoted

    return Op(
        "subscription_commit",
        {**held.params(), "position": position, "lease": lease, "stamp": held.stamps},
        parse,
        f"{verb} by the subscription {held.name!r}",
        Retry.IDEMPOTENT,
    )


def release(held: Ownership) -> Op[bool]:
    """Release a subscription. The result is False if the row is locked right now: try again.

    If another process holds it by now, nothing is raised.
    """

    def parse(rows: Sequence[Row]) -> bool:
        released, current = rows[0][:2]
        return released is not None or current != held.token

    return Op(
        "subscription_release",
        held.params(),
        parse,
        f"release the subscription {held.name!r}",
        Retry.IDEMPOTENT,
    )


def list_subscriptions() -> Op[list[SubscriptionInfo]]:
    """List all subscriptions, ordered by name."""
    return Op(
        "subscription_list",
        {},
        lambda rows: [SubscriptionInfo._make(row) for row in rows],
        "list the subscriptions",
        fragments=_ALL,
    )


def get(name: str) -> Op[SubscriptionInfo | None]:
    """Read one subscription; None if there is none of that name."""
    return Op(
        "subscription_list",
        {"name": check_subscription(name)},
        lambda rows: SubscriptionInfo._make(rows[0]) if rows else None,
        f"find the subscription {name!r}",
        fragments=_BY_NAME,
    )


def reset(name: str, after: int | None) -> Op[None]:
    """Accept the present history for a subscription, at its position or at another.

    Raises (from `parse`):
        NotFound: there is none of that name.
        InvalidInput: `after` is above the head of the log.
    """

    def parse(rows: Sequence[Row]) -> None:
        stored, head, found = rows[0][:3]
        if not found:
            raise NotFound(
                f"there is no subscription {name!r}: memory.subscriptions.list() returns those "
                f"that exist"
            )
        if stored is None:
            raise InvalidInput(
                f"reset the subscription {name!r} to {after}: the last position of the log is "
                f"{head}; what comes next would be skipped. Give a position up to that one"
            )

    if after is not None:
        check_position(after, "after")
    return Op(
        "subscription_reset",
        {"name": check_subscription(name), "after": after},
        parse,
        f"reset the subscription {name!r}",
        # A second run would fence off a process that acquired it after the first.
        Retry.UNSAFE,
    )


def delete(name: str) -> Op[bool]:
    """Delete a subscription. The result is True if there was one."""
    return Op(
        "subscription_delete",
        {"name": check_subscription(name)},
        bool,
        f"delete the subscription {name!r}",
        # A second run would answer False, or delete one that was created after the first.
        Retry.UNSAFE,
    )


def _refuse_lost(verb: str, held: Ownership, row: Row, position: int) -> Promoted | None:
    """Raise if a statement's answer shows that the subscription is not ours any more.

    Returns:
        The present history if it is a later timeline, in which the subscription may go on.
    """
    _, token, _, owner, expires_at, *histories = row[:9]
    stored, present = History._make(histories[:2]), History._make(histories[2:])
    if held.history != present:
        if held.stamps and held.history.leads_to(present):
            return Promoted(present)
        raise _rewritten(verb, held.name, position, held.history, present)
    if token == held.token:
        if stored != present and not (held.stamps and stored.leads_to(present)):
            raise _rewritten(verb, held.name, position, stored, present)
        return None
    if token is None:
        state = "it was deleted, and its position with it"
    elif expires_at is None:
        state = f"it was taken over or reset, and is free now (its token is {token})"
    else:
        state = f"{owner} took over under the token {token}"
    raise LeaseLost(
        f"{verb} by the subscription {held.name!r} with the fencing token {held.token} refused: "
        f"{state}; nothing was changed. The next owner gets the events since the last commit "
        f"again: undo your effects for them, then subscribe again to stand by. A lease longer "
        f"than the longest standstill of the process prevents this"
    )


def _rewritten(
    verb: str, name: str, position: int, expected: Sequence[Any], found: Sequence[Any]
) -> HistoryRewritten:
    was, now = History._make(expected), History._make(found)
    return HistoryRewritten(
        f"{verb} by the subscription {name!r} refused. Its position {position} was made on "
        f"timeline {was.timeline} of cluster {was.system_identifier}. The server is on timeline "
        f"{now.timeline} of cluster {now.system_identifier}, after a failover or a restore. Events "
        f"up to it may be gone, and their positions used again for others. "
        f"Check what you have done since, then accept the present history: "
        f"memory.subscriptions.reset({name!r}) keeps the position, "
        f"reset({name!r}, POSITION) chooses another",
        position=position,
        expected=was,
        found=now,
    )
