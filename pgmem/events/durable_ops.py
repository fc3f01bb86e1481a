"""Consumers: named positions in the log, each held by one process at a time.

Says what to run for each verb; `pgmem.events.durable_lease` runs it, renews the lease and waits.

A consumer's row, and who moves it::

                  acquire                 release(token)
        (no row) ─────────► held ────────────────────────► free
            ▲               │ ▲ │ lease runs out             │ acquire
            │ delete        │ │ └──────► held by the next ◄──┘ (a higher token)
            └───────────────┤ └─ renew(token), commit(token): a longer lease
                            └─ reset: free (a higher token)

Tokens come from a sequence, so none is ever given out twice, also after its row is gone. Only a
failover can lose that: there the history, which is the other half of every check, tells the
holders apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgmem.core.encoding import DEFAULT_MAX_BYTES, encode_object
from pgmem.core.history import History
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import Seconds, check_count, check_name, check_within_a_day
from pgmem.errors import AlreadyExists, HistoryRewritten, InvalidInput, LeaseLost, NotFound
from pgmem.events.models import ConsumerInfo

_BY_NAME = (("filter", "WHERE name = %(name)s"),)
_ALL = (("filter", ""),)


class Held(NamedTuple):
    """The right to go on from a consumer's position: what every later statement proves itself by.

    Attributes:
        name: the consumer's name.
        token: the fencing token: refused once a newer one exists.
        position: where to go on from, as stored when the consumer was acquired.
        created_at: when the consumer was first used.
        history: the history of the log that the position belongs to.
    """

    name: str
    token: int
    position: int
    created_at: datetime
    history: History

    def params(self) -> dict[str, Any]:
        """What a statement finds the row by, if it is still ours."""
        return {"name": self.name, "token": self.token, **self.history._asdict()}


class Busy(NamedTuple):
    """Somebody else holds the consumer.

    Attributes:
        owner: who.
        remaining: seconds until others may take over.
    """

    owner: str
    remaining: float


def check_consumer(name: str) -> str:
    """Check a consumer's name.

    Raises:
        InvalidInput: as `check_name`.
    """
    return check_name(name, "consumer name")


def check_lease(lease: Seconds) -> float:
    """Check a lease and give it in seconds.

    Raises:
        InvalidInput: as `check_within_a_day`.
    """
    return check_within_a_day(
        lease, "lease", "after a crash nobody takes over before it has run out"
    )


def acquire(
    name: str, selection: dict[str, Any], *, start: int, lease: float, owner: str
) -> Op[Held | Busy]:
    """Take a consumer, making it at `start` if it is new, or learn who holds it.

    Args:
        owner: unique to the caller: a second run of the op knows its own first run by it.

    Raises (from `parse`):
        AlreadyExists: it was made with another selection.
        HistoryRewritten: its position was made in another history of the log.
        LostRace: run it again.
    """
    text = encode_object(selection, "selection", limit=DEFAULT_MAX_BYTES)

    def parse(rows: Sequence[Row]) -> Held | Busy:
        token, position, created_at, *history = rows[0][:5]
        same, stored, found_position, *found_history = rows[0][5:10]
        owner_found, remaining, *present = rows[0][10:14]
        if token is not None:
            return Held(name, token, position, created_at, History._make(history))
        if same is None:  # Another one made it while this statement ran.
            raise RetryStatement
        if not same:
            raise AlreadyExists(
                f"the consumer {name!r} follows {stored} and was asked to follow {text}: use "
                f"another name, or memory.consumers.delete({name!r}) to begin anew"
            )
        if found_history != present:
            raise _rewritten("acquisition", name, found_position, found_history, present)
        if remaining is None or remaining <= 0:  # It changed hands while this statement ran.
            raise RetryStatement
        return Busy(owner_found, remaining)

    return Op(
        "consumer_acquire",
        {
            "name": check_consumer(name),
            "selection": text,
            "start": check_count(start, "after", minimum=0),
            "lease": lease,
            "owner": owner,
        },
        parse,
        f"acquire the consumer {name!r}",
        Retry.IDEMPOTENT,
    )


def renew(held: Held, *, lease: float) -> Op[bool]:
    """Keep a consumer for another lease; False if its row is locked right now: try again.

    Raises (from `parse`):
        LeaseLost: it is not ours any more.
        HistoryRewritten: the server's history is not the one that it was acquired in.
    """

    def parse(rows: Sequence[Row]) -> bool:
        if rows[0][0] is not None:
            return True
        _refuse_lost("renewal", held, rows[0], held.position)
        return False

    return Op(
        "consumer_renew",
        {**held.params(), "lease": lease},
        parse,
        f"renew the lease of the consumer {held.name!r}",
        Retry.IDEMPOTENT,
    )


def commit(held: Held, position: int, *, lease: float) -> Op[None]:
    """Store that every event up to `position` is done, and keep the consumer for another lease.

    Raises (from `parse`):
        LeaseLost: it is not ours any more.
        HistoryRewritten: the server's history is not the one that it was acquired in.
        InvalidInput: a higher position is stored.
        LostRace: run it again.
    """
    check_count(position, "position", minimum=0)
    verb = f"commit of position {position}"

    def parse(rows: Sequence[Row]) -> None:
        if rows[0][0] is not None:
            return
        _refuse_lost(verb, held, rows[0], position)
        stored = rows[0][2]
        if stored > position:
            raise InvalidInput(
                f"{verb} by the consumer {held.name!r} refused: it has committed {stored}, and a "
                f"position never goes back. memory.consumers.reset({held.name!r}, "
                f"after={position}) does that"
            )
        raise RetryStatement

    return Op(
        "consumer_commit",
        {**held.params(), "position": position, "lease": lease},
        parse,
        f"{verb} by the consumer {held.name!r}",
        Retry.IDEMPOTENT,
    )


def release(held: Held) -> Op[bool]:
    """Give a consumer back; False if its row is locked right now.

    Nothing is raised if it is not ours any more: it has been given up then.
    """

    def parse(rows: Sequence[Row]) -> bool:
        released, current = rows[0][:2]
        return released is not None or current != held.token

    return Op(
        "consumer_release",
        held.params(),
        parse,
        f"release the consumer {held.name!r}",
        Retry.IDEMPOTENT,
    )


def list_consumers() -> Op[list[ConsumerInfo]]:
    """All consumers, in the order of their names."""
    return Op(
        "consumer_list",
        {},
        lambda rows: [ConsumerInfo._make(row) for row in rows],
        "list the consumers",
        fragments=_ALL,
    )


def get(name: str) -> Op[ConsumerInfo | None]:
    """One consumer, or None."""
    return Op(
        "consumer_list",
        {"name": check_consumer(name)},
        lambda rows: ConsumerInfo._make(rows[0]) if rows else None,
        f"find the consumer {name!r}",
        fragments=_BY_NAME,
    )


def reset(name: str, *, after: int | None) -> Op[None]:
    """Accept the present history for a consumer, at its position or at another.

    Raises (from `parse`):
        NotFound: there is none of that name.
        InvalidInput: the log does not reach so far.
    """

    def parse(rows: Sequence[Row]) -> None:
        position, head, found = rows[0][:3]
        if not found:
            raise NotFound(f"there is no consumer {name!r}: consumers.list() tells which there are")
        if position is None:
            raise InvalidInput(
                f"reset the consumer {name!r} to {after}: the last position of the log is {head}; "
                f"what comes next would be skipped. Give a position up to that one"
            )

    if after is not None:
        check_count(after, "after", minimum=0)
    return Op(
        "consumer_reset",
        {"name": check_consumer(name), "after": after},
        parse,
        f"reset the consumer {name!r}",
        # A second run would fence off who acquired it after the first, and move it back.
        Retry.UNSAFE,
    )


def delete(name: str) -> Op[bool]:
    """Forget a consumer; tells whether there was one."""
    return Op(
        "consumer_delete",
        {"name": check_consumer(name)},
        bool,
        f"delete the consumer {name!r}",
        # A second run would tell another answer, and remove what was made after the first.
        Retry.UNSAFE,
    )


def _refuse_lost(verb: str, held: Held, row: Row, position: int) -> None:
    """Raise if what came back shows that the consumer is not ours any more."""
    _, token, _, owner, lease_until, *histories = row[:9]
    stored, present = histories[:2], histories[2:]
    if list(held.history) != present:
        raise _rewritten(verb, held.name, position, held.history, present)
    if token == held.token:
        if stored != present:
            raise _rewritten(verb, held.name, position, stored, present)
        return
    if token is None:
        state = "it was deleted, and its position with it"
    elif lease_until is None:
        state = f"it was taken over or reset, and is free now (its token is {token})"
    else:
        state = f"{owner} took over under the token {token}"
    raise LeaseLost(
        f"{verb} by the consumer {held.name!r} with the fencing token {held.token} refused: "
        f"{state}; nothing was changed. What was done since the last commit will be done again "
        f"by the next holder: undo what is yours to undo, and subscribe again to queue for it. A "
        f"lease longer than the longest standstill of the process prevents this"
    )


def _rewritten(
    verb: str, name: str, position: int, expected: Sequence[Any], found: Sequence[Any]
) -> HistoryRewritten:
    was, now = History._make(expected), History._make(found)
    return HistoryRewritten(
        f"{verb} by the consumer {name!r} refused: its position {position} was made on the "
        f"timeline {was.timeline} of the cluster {was.system_identifier}, and the server is on "
        f"the timeline {now.timeline} of the cluster {now.system_identifier} (after a failover or "
        f"a restore): events up to it may be gone, and their positions used again for others. "
        f"Check what you have done since, then accept the present history: "
        f"memory.consumers.reset({name!r}) keeps the position, after= chooses another",
        position=position,
        expected=was,
        found=now,
    )
