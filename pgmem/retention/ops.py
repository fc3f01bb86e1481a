"""Retention: policies, and the removal of events that exceed limits.

::

    positions   1 2 3 4 5 6 7 │ 8 9 10 11 12 13 │ 14 15 16 … 99 │ 100
                  └ kept ┘    │                 │               │  └ a writer may still hold it
                     removed ─┘ low water  cutoff ┘      stable ┘
                                 └── due ───────┘ └── kept ─────┘

    stable      no event appears at or below it any more: only such events are removed
    cutoff      the highest position that is not among the newest events to keep. By age, events are
                due from the oldest to the first that is young enough
    low water   the highest removed position: the row in `trimmed`. A reader behind it is told

An event that is due stays if a stored reader has not read it, if a group has claimed it, or if it
is the last of a versioned stream. The statement that removes decides that again, by its own
snapshot. Later trims check events that stayed below the low-water mark again.

A trim has no time ('infinity') until its transaction has committed. Readers that began before that
time are told of it, because a reader that began before the commit may have seen what it removed. If
a process dies between the commit and the time, the next trim sets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pgmem.core.names import STREAM_BYTES
from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import MAX_POSITION, Seconds, check_count, check_name, check_seconds
from pgmem.errors import InvalidInput, PermissionDenied
from pgmem.retention.models import LaggingReader, Policy, PolicyKind

KINDS: Final = ("events", "folds", "snapshots")

BATCH: Final = 1_000
"""Events removed in one transaction, which takes a few milliseconds. With 5,000 the p99 of appends
beside it was 1.50 times that without a trim, with 1,000 it was 1.15 times."""
ARCHIVED_BATCH: Final = 5_000
"""The same if they are written to a file first: each transaction has its own file."""


class Limits(NamedTuple):
    """How much is kept. What exceeds one of the two is due.

    Attributes:
        max_count: how many of the newest; None for any number.
        max_age: seconds; None for any age.
    """

    max_count: int | None
    max_age: float | None


class LowWater(NamedTuple):
    """The removals of earlier trims.

    Attributes:
        position: the highest removed position, of the stream or of the whole log.
        removed: the number of events removed so far. It changes with every trim.
    """

    position: int
    removed: int


class Found(NamedTuple):
    """Events among the oldest ones that are due.

    Attributes:
        positions: the positions to remove, in order.
        kept: how many are due and stay, because a group or their stream needs them.
        last: the last position that was looked at; None if there was none.
        more: True if there may be more after `last`.
        held_back_by: the slowest reader that has not read other events that are due.
    """

    positions: list[int]
    kept: int
    last: int | None
    more: bool
    held_back_by: LaggingReader | None


class Removed(NamedTuple):
    """The removals of one transaction.

    Attributes:
        number: the number of events.
        first, last: the lowest and the highest position; None if there is none.
        position_before, removed_before: the low-water mark before; None for none.
    """

    number: int
    first: int | None
    last: int | None
    position_before: int | None
    removed_before: int | None


def check_limits(kind: PolicyKind, max_count: int | None, max_age: Seconds | None) -> Limits:
    """Check the limits of a policy.

    Raises:
        InvalidInput: neither is given, or one is not above zero.
    """
    count_name = "max_events" if kind == "events" else "max_count"
    if max_count is None and max_age is None:
        raise InvalidInput(f"give {count_name}=, max_age= or both: a policy needs a limit")
    return Limits(
        None if max_count is None else check_count(max_count, count_name, minimum=1),
        None if max_age is None else check_seconds(max_age, "max_age"),
    )


def check_scope(kind: PolicyKind, name: str | None) -> str:
    """Return the name under which a policy is stored: '' for all.

    Raises:
        InvalidInput: the kind is unknown, or the name cannot be used.
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
    """Store a policy in place of an earlier one.

    Raises:
        InvalidInput: as `check_limits` and `check_scope`.
    """
    limits = check_limits(kind, max_count, max_age)
    return Op(
        "policy_set",
        {"kind": kind, "name": check_scope(kind, name), **limits._asdict()},
        lambda rows: _policy(rows[0]),
        f"set the retention of {kind}",
        Retry.IDEMPOTENT,
    )


def list_policies() -> Op[list[Policy]]:
    """List the policies, ordered by kind and name."""
    return Op("policy_list", {}, lambda rows: [_policy(row) for row in rows], "list the retention")


def remove_policy(kind: PolicyKind, name: str | None) -> Op[bool]:
    """Remove a policy. `parse` returns True if it existed."""
    return Op(
        "policy_remove",
        {"kind": kind, "name": check_scope(kind, name)},
        bool,
        f"remove the retention of {kind}",
        # A second execution has another answer, and removes a policy that was set after the first.
        Retry.UNSAFE,
    )


def check_rights() -> Op[None]:
    """Check that this role may apply retention.

    Raises (from `parse`):
        PermissionDenied: it may not.
    """

    def parse(rows: Sequence[Row]) -> None:
        allowed, role = rows[0]
        if not allowed:
            raise PermissionDenied(
                f"apply retention: the role {role!r} may not remove events. The schema's owner "
                f"grants it with `pgmem migrate grant --janitor {role}`"
            )

    return Op("trim_rights", {}, parse, "check the role's rights")


def _scope(stream: str) -> tuple[tuple[str, str], ...]:
    """Return the fragment that selects one stream, or ('') the whole log."""
    return (("filter", "AND stream = %(stream)s" if stream else ""),)


def read_low_water(stream: str) -> Op[LowWater]:
    """Return what has been removed of a stream, or ('') of the whole log."""
    return Op(
        "trim_low_water",
        {"stream": stream},
        lambda rows: LowWater(*rows[0]),
        "read what retention has removed",
    )


def newest(stream: str, keep: int, stable: int) -> Op[tuple[int, int]]:
    """Return the highest position that is not among the newest `keep`, and how many are above it.

    If there are at most `keep` events, return 0 and their number.
    """

    def parse(rows: Sequence[Row]) -> tuple[int, int]:
        number, lowest = rows[0]
        return (lowest, keep) if number > keep else (0, number)

    return Op(
        "trim_newest",
        {"stream": stream, "keep": keep, "until": stable},
        parse,
        "find the newest events",
        fragments=_scope(stream),
        bounded=False,
    )


def count(stream: str, after: int, until: int) -> Op[int]:
    """Count the events between two positions."""
    return Op(
        "trim_count",
        {"stream": stream, "after": after, "until": until},
        lambda rows: int(rows[0][0]),
        "count the new events",
        fragments=_scope(stream),
        bounded=False,
    )


def nth(stream: str, after: int, until: int, number: int) -> Op[int]:
    """Return the position of the n-th event after a position, or that position if there is none."""
    return Op(
        "trim_nth",
        {"stream": stream, "after": after, "until": until, "number": number},
        lambda rows: rows[0][0] if rows else after,
        "find the oldest events",
        fragments=_scope(stream),
        bounded=False,
    )


def find(
    stream: str,
    *,
    after: int,
    until: int,
    cutoff: int,
    max_age: float | None,
    force: bool,
    limit: int,
    anywhere: bool = False,
) -> Op[Found]:
    """Find the events to remove among the next events after a position.

    Args:
        stream: the stream; '' for the whole log.
        after: the position to begin after.
        until: the last position to look at.
        cutoff: events up to here are due.
        max_age: events that are older than this, in seconds, are due.
        force: True ignores what stored readers have not read.
        limit: how many events to look at.
        anywhere: True goes on after an event that is not due.
    """

    def parse(rows: Sequence[Row]) -> Found:
        positions, kept, last, examined, not_due, kind, name, position = rows[0]
        reader = None if kind is None else LaggingReader(kind, name, position)
        more = examined == limit and not_due is None and reader is None
        return Found(positions, kept, last, more, reader)

    return Op(
        "trim_find",
        {
            "stream": stream,
            "after": after,
            "until": min(until, MAX_POSITION),
            "cutoff": cutoff,
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


def remove(stream: str, positions: Sequence[int], *, force: bool) -> Op[Removed]:
    """Remove events, except those that are protected by now, and record the trim."""
    return Op(
        "trim_remove",
        {"stream": stream, "positions": list(positions), "force": force},
        lambda rows: Removed(*rows[0]),
        f"remove {len(positions)} events",
        Retry.IDEMPOTENT,
        bounded=False,
    )


def set_trim_times() -> Op[int]:
    """Set the time of committed trims. `parse` returns their number."""
    return Op(
        "trim_times",
        {},
        lambda rows: int(rows[0][0]),
        "record when events were removed",
        Retry.IDEMPOTENT,
    )
