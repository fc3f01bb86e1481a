"""Consumer groups: a selection of the log that several members share out, and its position.

Says what to run for a group as a whole; what members get is `pgmem.groups.claim_ops`,
and what they do with it `pgmem.groups.delivery_ops`. Who waits, and for what, is
`pgmem.groups.group`.

::

    log     41  42  43  44  45  46
                      │ position: handed out up to here; claims move it, under its row's lock
            held, parked, buried: the events behind it that are not done

A group belongs to one history of the log, as a consumer does: after a failover it is refused until
`reset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pgmem.core.encoding import DEFAULT_MAX_BYTES, encode_object
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import check_count, check_name
from pgmem.errors import (
    GroupMismatch,
    GroupNotFound,
    InvalidInput,
    InvalidOption,
    PositionTrimmed,
)
from pgmem.events.codec import Codec
from pgmem.events.filter import Selection
from pgmem.events.ops import event_maker
from pgmem.events.page import standby_error, trimmed_error
from pgmem.groups.models import DeadLetter, GroupInfo, Pending

MAX_LISTED = 100_000
EVENT_COLUMNS = 13

_BY_NAME = (("name", "AND held.name = %(group)s"),)
_ALL = (("name", ""),)


def check_group(name: str) -> str:
    """Check a group's name.

    Raises:
        InvalidName: as `check_name`.
    """
    return check_name(name, "group name")


@dataclass(frozen=True, slots=True)
class Group:
    """What a group is.

    Attributes:
        name: its name.
        selection: what it follows.
        ordered_by: "stream", or the key of the payload that its events are kept in order by.
        max_attempts: how often an event is handed out before it is a dead letter.
    """

    name: str
    selection: Selection
    ordered_by: str | None = None
    max_attempts: int = 5

    def __post_init__(self) -> None:
        check_group(self.name)
        if self.ordered_by is not None:
            check_name(self.ordered_by, "ordered_by")
        check_count(self.max_attempts, "max_attempts", minimum=1, maximum=1_000_000)

    def params(self) -> dict[str, Any]:
        """The parameters that every statement of it needs."""
        return {**self.selection.params(), "group": self.name}


def open_group(group: Group, *, start: int | None) -> Op[None]:
    """Make a group, or join the one of that name.

    Args:
        group: what it is to be.
        start: the position it begins at, if it is new; None: behind all that has been written.

    Raises (from `parse`):
        GroupMismatch: it exists, and is another.
        InvalidOption: `start` is above the head.
        PositionTrimmed: retention has removed events behind `start`.
        LostRace: run it again.
    """
    text = encode_object(group.selection.described(), "selection", limit=DEFAULT_MAX_BYTES)

    def parse(rows: Sequence[Row]) -> None:
        added, head, trimmed, timeline, same, stored, ordered_by, max_attempts = rows[0][:8]
        if added is not None or same:
            return
        if same is not None:
            raise GroupMismatch(
                f"the group {group.name!r} follows {stored}, ordered_by={ordered_by!r}, "
                f"max_attempts={max_attempts}, and was opened with {text}, "
                f"ordered_by={group.ordered_by!r}, max_attempts={group.max_attempts}: open it as "
                f"it is, use another name, or memory.groups.delete({group.name!r}) to begin anew"
            )
        if timeline is None:
            raise standby_error()
        if start is not None and start > head:
            raise InvalidOption(
                f"start={start} is above the last position of the log, {head}: what comes next "
                f"would be skipped. Give a position up to that one, or 'now'"
            )
        if trimmed is not None:
            raise trimmed_error(start or 0, trimmed)
        raise RetryStatement  # Another one made it while this statement ran.

    return Op(
        "group_open",
        {
            **group.params(),
            "selection": text,
            "start": start,
            "ordered_by": group.ordered_by,
            "max_attempts": group.max_attempts,
        },
        parse,
        f"open the group {group.name!r}",
        Retry.IDEMPOTENT,
        (("trimmed", dict(group.selection.fragments())["trimmed"]),),
    )


def _info(row: Row) -> GroupInfo:
    return GroupInfo(row[0], orjson.loads(row[1]), *row[2:])


def list_groups() -> Op[list[GroupInfo]]:
    """All groups, in the order of their names."""
    return Op(
        "group_list", {}, lambda rows: list(map(_info, rows)), "list the groups", fragments=_ALL
    )


def get(name: str) -> Op[GroupInfo | None]:
    """One group, or None."""
    return Op(
        "group_list",
        {"group": check_group(name)},
        lambda rows: _info(rows[0]) if rows else None,
        f"find the group {name!r}",
        fragments=_BY_NAME,
    )


def join(name: str) -> Op[Group]:
    """The group of that name, as it was made.

    Raises (from `parse`):
        GroupNotFound: there is none.
        GroupMismatch: it follows what this version cannot.
    """

    def parse(rows: Sequence[Row]) -> Group:
        if not rows:
            raise not_found(name)
        info = _info(rows[0])
        try:
            selection = Selection.of_described(info.selection)
        except InvalidInput as error:
            raise GroupMismatch(
                f"the group {name!r} follows what this version of pgmem cannot: {error}. A newer "
                f"one has made it: upgrade this one"
            ) from None
        return Group(name, selection, info.ordered_by, info.max_attempts)

    return Op(
        "group_list",
        {"group": check_group(name)},
        parse,
        f"join the group {name!r}",
        fragments=_BY_NAME,
    )


def delete(name: str) -> Op[bool]:
    """Forget a group; tells whether there was one.

    Raises (from `parse`):
        LostRace: run it again.
    """

    def parse(rows: Sequence[Row]) -> bool:
        gone, found = rows[0][:2]
        if found and not gone:
            raise RetryStatement
        return bool(gone)

    return Op(
        "group_delete",
        {"group": check_group(name)},
        parse,
        f"delete the group {name!r}",
        # A second run would tell another answer, and remove what was made after the first.
        Retry.UNSAFE,
    )


def not_found(name: str) -> GroupNotFound:
    """The error of who works in a group that is not there (any more)."""
    return GroupNotFound(
        f"there is no group {name!r}: groups.list() tells which there are, groups.open makes one"
    )


def lag(group: Group, *, until: int) -> Op[int]:
    """Count the events that are not handed out yet."""

    def parse(rows: Sequence[Row]) -> int:
        if not rows:
            raise not_found(group.name)
        return int(rows[0][0])

    return Op(
        "group_lag",
        {**group.params(), "until": until},
        parse,
        f"see how far the group {group.name!r} is behind",
        fragments=(("filter", dict(group.selection.fragments())["filter"]),),
    )


def pending(group: Group, *, limit: int) -> Op[list[Pending]]:
    """What is held or parked, in the order of the log."""
    return Op(
        "group_pending",
        {
            "group": group.name,
            "limit": check_count(limit, "limit", minimum=1, maximum=MAX_LISTED),
        },
        lambda rows: list(map(Pending._make, rows)),
        f"see what is open in the group {group.name!r}",
    )


def reset(group: Group, position: int) -> Op[None]:
    """Move a group, and fence off whoever holds something of it.

    Raises (from `parse`):
        GroupNotFound: there is none of that name.
        InvalidOption: the log does not reach so far.
        PositionTrimmed: retention has removed events behind the position.
        LostRace: run it again.
    """
    check_count(position, "position", minimum=0)

    def parse(rows: Sequence[Row]) -> None:
        moved, head, trimmed, found, stale = rows[0][:5]
        if moved is not None:
            return
        if not found:
            raise not_found(group.name)
        if stale:
            raise RetryStatement
        if position > head:
            raise InvalidOption(
                f"reset the group {group.name!r} to {position}: the last position of the log is "
                f"{head}; what comes next would be skipped. Give a position up to that one"
            )
        raise trimmed_error(position, trimmed)

    return Op(
        "group_reset",
        {**group.params(), "position": position},
        parse,
        f"reset the group {group.name!r}",
        # A second run would fence off who was handed something after the first.
        Retry.UNSAFE,
        (("trimmed", dict(group.selection.fragments())["trimmed"]),),
    )


def dead_letters(group: Group, codec: Codec, *, after: int, limit: int) -> Op[list[DeadLetter]]:
    """The dead letters, in the order of the log."""
    event_of = event_maker(codec, None)

    def make(row: Row) -> DeadLetter:
        event = None if row[0] is None else event_of(row[:EVENT_COLUMNS])
        attempts, consumer, error, buried_at, position = row[EVENT_COLUMNS:]
        return DeadLetter(position, event, attempts, consumer, error, buried_at)

    return Op(
        "group_dead_letters",
        {
            "group": group.name,
            "after": check_count(after, "after", minimum=0),
            "limit": check_count(limit, "limit", minimum=1, maximum=MAX_LISTED),
        },
        lambda rows: list(map(make, rows)),
        f"read the dead letters of the group {group.name!r}",
    )


def requeue(group: Group, positions: Sequence[int] | None) -> Op[int]:
    """Hand dead letters out again; tells how many."""
    if positions is not None:
        if not isinstance(positions, Sequence):
            raise InvalidOption(f"positions is a list, got {type(positions).__name__}")
        positions = [check_count(position, "position", minimum=1) for position in positions]

    def parse(rows: Sequence[Row]) -> int:
        risen, found, allowed = rows[0][:3]
        if not found:
            raise not_found(group.name)
        if not allowed:
            raise RetryStatement
        return int(risen)

    return Op(
        "group_requeue",
        {"group": group.name, "positions": positions},
        parse,
        f"requeue dead letters of the group {group.name!r}",
        Retry.UNSAFE,  # A second run would count none.
    )


def check_trimmed(group: Group, position: int, trimmed: int) -> PositionTrimmed:
    """The error of a group whose position is below what a forced trim removed."""
    error = trimmed_error(position, trimmed)
    return PositionTrimmed(
        f"the group {group.name!r}: {error}. memory.groups … reset({trimmed}) accepts the loss",
        position=position,
        trimmed_to=trimmed,
    )
