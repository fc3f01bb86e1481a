"""Retention: the rules of what is kept, and the removal of events by them.

::

    positions   1 2 3 4 5 6 7 │ 8 9 10 11 12 13 │ 14 15 16 … 99 │ 100
                  └ kept ┘    │                 │               │  └ a writer may still hold it
                     removed ─┘ mark        cut ┘         final ┘
                                 └── due ───────┘ └── kept ─────┘

    final   nothing appears at or below it any more: only such events are removed
    cut     the highest position that is not among the newest that a rule keeps; age goes by the
            time of recording, from the oldest on to the first that is young enough
    mark    the highest position removed: the row in `trimmed`. Who is behind it is told

What is due stays all the same, if a stored reader has not read it yet, if a group has it in hand,
or if it is the last of a versioned stream. The statement that removes decides that anew, by its own
snapshot. Events that stayed behind the mark are looked at again later.

A mark has no time ('infinity') until its transaction has committed: it is told to readers that
began before that time, and who began before the commit may have seen what it removed. Who dies
between the two leaves that to the next one.

Says what to run; `pgmem.retention.trim` runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pgmem.core.names import STREAM_BYTES
from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import MAX_POSITION, Seconds, check_count, check_name, check_seconds
from pgmem.errors import InvalidInput, PermissionDenied
from pgmem.retention.models import Holder, Policy, PolicyKind

KINDS: Final = ("events", "folds", "snapshots")

BATCH: Final = 1_000
"""Events that are removed in one transaction: a few milliseconds. Of 5,000 at a time the writers
beside it noticed more (p99 of an append 1.50 times that without, 1.15 of 1,000)."""
ARCHIVED_BATCH: Final = 5_000
"""The same where they are written to a file first: each transaction has its own."""


class Rule(NamedTuple):
    """How much is kept: what exceeds one of the two goes.

    Attributes:
        max_count: so many of the newest; None for any number.
        max_age: seconds; None for any age.
    """

    max_count: int | None
    max_age: float | None


class Marks(NamedTuple):
    """What was removed before.

    Attributes:
        position: the highest position removed where some of it may have been in scope.
        removed: how many events have been removed so far, likewise: it changes with every trim.
    """

    position: int
    removed: int


class Found(NamedTuple):
    """What a look at the oldest events has found.

    Attributes:
        positions: to be removed, in order.
        kept: how many are due and stay, because somebody needs that very event.
        last: the last position that was looked at; None if there was none.
        more: whether there may be more behind `last`.
        holder: who has yet to read what else is due.
    """

    positions: list[int]
    kept: int
    last: int | None
    more: bool
    holder: Holder | None


class Removed(NamedTuple):
    """What was removed.

    Attributes:
        number: how many events.
        first, last: the lowest and the highest position; None if there was none.
        position_before, removed_before: the mark as it was; None for none.
    """

    number: int
    first: int | None
    last: int | None
    position_before: int | None
    removed_before: int | None


def check_rule(kind: PolicyKind, max_count: int | None, max_age: Seconds | None) -> Rule:
    """Check a rule.

    Raises:
        InvalidInput: neither is given, or one is not above zero.
    """
    count_name = "max_events" if kind == "events" else "max_count"
    if max_count is None and max_age is None:
        raise InvalidInput(
            f"give {count_name}=, max_age= or both: a rule that limits nothing keeps all, and so "
            f"does no rule"
        )
    return Rule(
        None if max_count is None else check_count(max_count, count_name, minimum=1),
        None if max_age is None else check_seconds(max_age, "max_age"),
    )


def check_scope(kind: PolicyKind, name: str | None) -> str:
    """The name under which a rule is stored: '' for all.

    Raises:
        InvalidInput: there is no such kind.
        InvalidInput: as `check_name`.
    """
    if kind not in KINDS:
        raise InvalidInput(f"kind= is one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    if name is None:
        return ""
    if kind == "events":
        return check_name(name, "stream", most=STREAM_BYTES)
    return check_name(name, "fold name" if kind == "folds" else "snapshot name")


def _policy(row: Row) -> Policy:
    kind, name, max_count, max_age, updated_at = row[:5]
    return Policy(kind, name or None, max_count, max_age, updated_at)


def set_policy(
    kind: PolicyKind, name: str | None, max_count: int | None, max_age: Seconds | None
) -> Op[Policy]:
    """Store a rule, in place of the one that there was.

    Raises:
        InvalidInput: as `check_rule` and `check_scope`.
        InvalidInput: as `check_scope`.
    """
    rule = check_rule(kind, max_count, max_age)
    return Op(
        "policy_set",
        {"kind": kind, "name": check_scope(kind, name), **rule._asdict()},
        lambda rows: _policy(rows[0]),
        f"set the retention of {kind}",
        Retry.IDEMPOTENT,
    )


def list_policies() -> Op[list[Policy]]:
    """The rules: of each kind those for all first, then in the order of their names."""
    return Op("policy_list", {}, lambda rows: [_policy(row) for row in rows], "list the retention")


def remove_policy(kind: PolicyKind, name: str | None) -> Op[bool]:
    """Forget a rule; tells whether there was one."""
    return Op(
        "policy_remove",
        {"kind": kind, "name": check_scope(kind, name)},
        bool,
        f"remove the retention of {kind}",
        # A second run would tell another answer, and remove what was set after the first.
        Retry.UNSAFE,
    )


def check_rights() -> Op[None]:
    """See whether this role may apply retention.

    Raises (from `parse`):
        PermissionDenied: it may not.
    """

    def parse(rows: Sequence[Row]) -> None:
        allowed, role = rows[0]
        if not allowed:
            raise PermissionDenied(
                f"apply retention: the role {role!r} may not remove events. The schema's owner "
                f"gives it what that needs with `pgmem migrate grant --janitor {role}`"
            )

    return Op("trim_rights", {}, parse, "see what this role may do")


def _scope(stream: str) -> tuple[tuple[str, str], ...]:
    """The filter of the statements: of one stream, or none for the whole log ('')."""
    return (("filter", "AND stream = %(stream)s" if stream else ""),)


def read_marks(stream: str) -> Op[Marks]:
    """What has been removed of a stream, or ('') of the whole log."""
    return Op(
        "trim_marks",
        {"stream": stream},
        lambda rows: Marks(*rows[0]),
        "see what retention has removed",
    )


def newest_cut(stream: str, keep: int, final: int) -> Op[tuple[int, int]]:
    """The highest position that is not among the newest `keep`, and how many are behind it.

    0, and how many there are in all, if those are not more.
    """

    def parse(rows: Sequence[Row]) -> tuple[int, int]:
        number, lowest = rows[0]
        return (lowest, keep) if number > keep else (0, number)

    return Op(
        "trim_newest",
        {"stream": stream, "keep": keep, "final": final},
        parse,
        "see which events are the newest",
        fragments=_scope(stream),
        bounded=False,
    )


def count(stream: str, after: int, final: int) -> Op[int]:
    """How many events there are between two positions."""
    return Op(
        "trim_count",
        {"stream": stream, "after": after, "final": final},
        lambda rows: int(rows[0][0]),
        "count the new events",
        fragments=_scope(stream),
        bounded=False,
    )


def nth(stream: str, after: int, final: int, number: int) -> Op[int]:
    """The position of the so-manieth event behind a position; that one itself if there is none."""
    return Op(
        "trim_nth",
        {"stream": stream, "after": after, "final": final, "number": number},
        lambda rows: rows[0][0] if rows else after,
        "see which events are the oldest",
        fragments=_scope(stream),
        bounded=False,
    )


def find(
    stream: str,
    *,
    after: int,
    final: int,
    cut: int,
    max_age: float | None,
    force: bool,
    limit: int,
    anywhere: bool = False,
) -> Op[Found]:
    """Find what is to be removed among the next events behind a position.

    Args:
        stream: of which stream; '' for the whole log.
        after: look behind this position.
        final: and no further than this one.
        cut: events up to here are due.
        max_age: and those that are older than so many seconds.
        force: whether stored readers have read them or not.
        limit: look at so many.
        anywhere: look on behind an event that is not due.
    """

    def parse(rows: Sequence[Row]) -> Found:
        positions, kept, last, looked_at, not_due, kind, name, position = rows[0]
        holder = None if kind is None else Holder(kind, name, position)
        more = looked_at == limit and not_due is None and holder is None
        return Found(positions, kept, last, more, holder)

    return Op(
        "trim_find",
        {
            "stream": stream,
            "after": after,
            "final": min(final, MAX_POSITION),
            "cut": cut,
            "max_age": max_age,
            "force": force,
            "anywhere": anywhere,
            "limit": limit,
        },
        parse,
        "find the events that are due",
        fragments=_scope(stream),
        bounded=False,
    )


def allow() -> Op[None]:
    """Let this transaction remove events."""
    return Op("trim_allow", {}, lambda rows: None, "begin to trim")


def remove(stream: str, positions: Sequence[int], *, force: bool) -> Op[Removed]:
    """Remove events, but for those that are protected by now, and record it."""
    return Op(
        "trim_remove",
        {"stream": stream, "positions": list(positions), "force": force},
        lambda rows: Removed(*rows[0]),
        f"remove {len(positions)} events",
        Retry.IDEMPOTENT,
        bounded=False,
    )


def date() -> Op[int]:
    """Give their time to the marks of trims that are committed; tells how many there were."""
    return Op(
        "trim_date",
        {},
        lambda rows: int(rows[0][0]),
        "record when events were removed",
        Retry.IDEMPOTENT,
    )
