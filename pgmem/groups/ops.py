"""Consumer groups: what to run for a group as a whole.

::

    log     41  42  43  44  45  46
                      │ position: events up to it were claimed; claims move it under a row lock
            held, delayed, dead letters: the events up to it that are not done

A group belongs to one history of the log. After a promotion the next claim stamps the new timeline.
With `on_failover="refuse"`, and in another cluster, members get `HistoryRewritten` until `reset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from pgmem.core.encoding import DEFAULT_MAX_BYTES, encode_object
from pgmem.core.op import Op, Retry, RetryStatement, Row
from pgmem.core.validation import check_count, check_name
from pgmem.errors import AlreadyExists, InvalidEvent, InvalidInput, NotFound, PositionTrimmed
from pgmem.events.codec import Codec, event_maker
from pgmem.events.filter import EventFilter
from pgmem.events.page import standby_error, trimmed_error
from pgmem.groups.models import DeadLetter, Failure, GroupInfo, Pending
from pgmem.groups.retry import DEFAULT_RETRY, RetryPolicy

MAX_LISTED = 100_000
MAX_ATTEMPTS = 1_000_000
EVENT_COLUMNS = 13

_BY_NAME = (("name", "AND held.name = %(group)s"),)
_ALL = (("name", ""),)


def check_group(name: str) -> str:
    """Check a group's name.

    Raises:
        InvalidInput: the name is not allowed.
    """
    return check_name(name, "group name")


@dataclass(frozen=True, slots=True)
class Group:
    """The options of a group.

    Attributes:
        name: the group's name.
        selection: the events that it follows.
        ordered_by: "stream", or the key of the payload that its events are ordered by.
        max_attempts: attempts of an event before it becomes a dead letter.
        retry: how failed events are delivered again.
        revision: the number of changes by `alter`.
    """

    name: str
    selection: EventFilter
    ordered_by: str | None = None
    max_attempts: int = 5
    retry: RetryPolicy = DEFAULT_RETRY
    revision: int = 0

    def __post_init__(self) -> None:
        check_group(self.name)
        if self.ordered_by is not None:
            check_name(self.ordered_by, "ordered_by")
        check_count(self.max_attempts, "max_attempts", minimum=1, maximum=MAX_ATTEMPTS)

    def params(self) -> dict[str, Any]:
        """Return the parameters that its statements share."""
        return {**self.selection.params(), "group": self.name}

    def selection_text(self) -> str:
        """Return its selection as it is stored."""
        return encode_object(self.selection.to_json(), "selection", limit=DEFAULT_MAX_BYTES)

    @property
    def _trimmed(self) -> tuple[tuple[str, str], ...]:
        return (("trimmed", dict(self.selection.fragments())["trimmed"]),)


def create(group: Group, *, start: int | None, exist_ok: bool) -> Op[int]:
    """Create a group. Returns its revision.

    Args:
        group: its options.
        start: the position after which it begins; None for the head of the log.
        exist_ok: accept a group that exists with the same options.

    Raises (from `parse`):
        AlreadyExists: the group exists and `exist_ok` is False, or it has other options.
        InvalidInput: `start` is above the head.
        PositionTrimmed: retention has removed events after `start`.
        RetryStatement: another transaction created it meanwhile.
    """

    def parse(rows: Sequence[Row]) -> int:
        added, head, trimmed, timeline, same = rows[0][:5]
        if added is not None:
            return 0
        if same and exist_ok:
            return int(rows[0][9])
        if same is not None:
            raise _already_exists(group, rows[0])
        if timeline is None:
            raise standby_error()
        if start is not None and start > head:
            raise InvalidInput(
                f"after={start} is above the last position of the log, {head}: the events up to it "
                f"would be skipped. Give a position up to {head}, or 'now'"
            )
        if trimmed is not None:
            raise trimmed_error(start or 0, trimmed)
        raise RetryStatement

    return Op(
        "group_create",
        {
            **group.params(),
            "selection": group.selection_text(),
            "start": start,
            "ordered_by": group.ordered_by,
            "max_attempts": group.max_attempts,
            "retry": group.retry.encode(),
        },
        parse,
        f"create the group {group.name!r}",
        # A second run after a lost answer finds the group of the first.
        Retry.IDEMPOTENT if exist_ok else Retry.CONDITIONAL,
        group._trimmed,
    )


def _already_exists(group: Group, found: Row) -> AlreadyExists:
    same, stored, ordered_by, max_attempts, retry = found[4:9]
    if same:
        return AlreadyExists(
            f"the group {group.name!r} exists: pass exist_ok=True to use it, or get it with "
            f"memory.groups.get({group.name!r})"
        )
    return AlreadyExists(
        f"the group {group.name!r} follows {stored}, ordered_by={ordered_by!r}, "
        f"max_attempts={max_attempts}, retry={retry}, and not {group.selection_text()}, "
        f"ordered_by={group.ordered_by!r}, max_attempts={group.max_attempts}, "
        f"retry={group.retry.encode()}: get it with memory.groups.get, change it with "
        f"group.alter, use another name, or memory.groups.delete({group.name!r}) to begin anew"
    )


def _info(row: Row) -> GroupInfo:
    name, selection, ordered_by, max_attempts, retry, _, *rest = row
    policy = RetryPolicy.from_json(None if retry is None else orjson.loads(retry))
    return GroupInfo(name, orjson.loads(selection), ordered_by, max_attempts, policy, *rest)


def list_groups() -> Op[list[GroupInfo]]:
    """Return all groups, ordered by name."""
    return Op(
        "group_list", {}, lambda rows: list(map(_info, rows)), "list the groups", fragments=_ALL
    )


def info(name: str) -> Op[GroupInfo]:
    """Return one group's information.

    Raises (from `parse`):
        NotFound: there is no group of that name.
    """

    def parse(rows: Sequence[Row]) -> GroupInfo:
        if not rows:
            raise not_found(name)
        return _info(rows[0])

    return Op(
        "group_list",
        {"group": check_group(name)},
        parse,
        f"find the group {name!r}",
        fragments=_BY_NAME,
    )


def get(name: str) -> Op[Group]:
    """Return the options of a group that exists.

    Raises (from `parse`):
        NotFound: there is no group of that name.
        AlreadyExists: its selection says more than this version knows.
    """
    op = info(name)

    def parse(rows: Sequence[Row]) -> Group:
        found, revision = op.parse(rows), rows[0][5]
        try:
            selection = EventFilter.from_json(found.selection)
        except InvalidInput as error:
            raise AlreadyExists(
                f"the group {name!r} was created by a newer version of pgmem: {error}. Upgrade "
                f"this one"
            ) from None
        return Group(name, selection, found.ordered_by, found.max_attempts, found.retry, revision)

    return Op(op.statement, op.params, parse, op.action, fragments=op.fragments)


def alter(
    group: Group,
    *,
    max_attempts: int | None,
    selection: EventFilter | None,
    retry: RetryPolicy | None,
) -> Op[int]:
    """Change the options that are given. Returns the new revision.

    Raises (from `parse`):
        NotFound: the group was deleted.
    """
    if max_attempts is not None:
        check_count(max_attempts, "max_attempts", minimum=1, maximum=MAX_ATTEMPTS)

    def parse(rows: Sequence[Row]) -> int:
        if not rows:
            raise not_found(group.name)
        return int(rows[0][0])

    return Op(
        "group_alter",
        {
            "group": group.name,
            "max_attempts": max_attempts,
            "selection": None
            if selection is None
            else encode_object(selection.to_json(), "selection", limit=DEFAULT_MAX_BYTES),
            "retry": None if retry is None else retry.encode(),
        },
        parse,
        f"alter the group {group.name!r}",
        Retry.IDEMPOTENT,
    )


def delete(name: str) -> Op[bool]:
    """Delete a group. Returns True if it existed.

    Raises (from `parse`):
        RetryStatement: a claim committed while this waited, and its batch is not in the snapshot.
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
        # A second run would return another answer, and delete a group that was created meanwhile.
        Retry.UNSAFE,
    )


def not_found(name: str) -> NotFound:
    """Return the error for a group that does not exist."""
    return NotFound(
        f"there is no group {name!r}: groups.list() returns the groups, groups.create creates one"
    )


def lag(group: Group, *, until: int) -> Op[int]:
    """Count the selected events that were not claimed yet."""

    def parse(rows: Sequence[Row]) -> int:
        if not rows:
            raise not_found(group.name)
        return int(rows[0][0])

    return Op(
        "group_lag",
        {**group.params(), "until": until},
        parse,
        f"measure the lag of the group {group.name!r}",
        fragments=(("filter", dict(group.selection.fragments())["filter"]),),
    )


def pending(group: Group, *, limit: int | None) -> Op[list[Pending]]:
    """Return the events that are held or delayed, in the order of the log."""
    return Op(
        "group_pending",
        {
            "group": group.name,
            "limit": limit
            if limit is None
            else check_count(limit, "limit", minimum=1, maximum=MAX_LISTED),
        },
        lambda rows: list(map(Pending._make, rows)),
        f"list the pending events of the group {group.name!r}",
    )


def reset(group: Group, position: int) -> Op[None]:
    """Move a group to a position, and revoke what its members hold.

    Raises (from `parse`):
        NotFound: the group was deleted.
        InvalidInput: the position is above the head of the log.
        PositionTrimmed: retention has removed events after the position.
        RetryStatement: a claim committed while this waited, and its batch is not in the snapshot.
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
            raise InvalidInput(
                f"reset the group {group.name!r} to {position}: the last position of the log is "
                f"{head}; events up to {position} would be skipped. Give a position up to {head}"
            )
        raise trimmed_error(position, trimmed)

    return Op(
        "group_reset",
        {**group.params(), "position": position},
        parse,
        f"reset the group {group.name!r}",
        # A second run would revoke batches that were claimed after the first.
        Retry.UNSAFE,
        group._trimmed,
    )


def dead_letters(group: Group, codec: Codec, *, after: int, limit: int) -> Op[list[DeadLetter]]:
    """Return dead letters, in the order of the log."""
    event_of = event_maker(codec, None)

    def make(row: Row) -> DeadLetter:
        try:
            event = None if row[0] is None else event_of(row[:EVENT_COLUMNS])
        except InvalidEvent as invalid:
            event = invalid.event
        attempts, member, error, failed_at, failures, position = row[EVENT_COLUMNS:]
        found = orjson.loads(failures or "[]")
        return DeadLetter(
            position, event, attempts, member, error, failed_at, list(map(_failure, found))
        )

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


def _failure(stored: dict[str, Any]) -> Failure:
    return Failure(stored["member"], datetime.fromisoformat(stored["at"]), stored["error"])


def requeue(group: Group, positions: Sequence[int] | None) -> Op[int]:
    """Deliver dead letters again. Returns how many."""
    if positions is not None:
        if not isinstance(positions, Sequence):
            raise InvalidInput(f"positions is a list, got {type(positions).__name__}")
        positions = [check_count(position, "position", minimum=1) for position in positions]

    def parse(rows: Sequence[Row]) -> int:
        requeued, found, allowed = rows[0][:3]
        if not found:
            raise not_found(group.name)
        if not allowed:
            raise RetryStatement
        return int(requeued)

    return Op(
        "group_requeue",
        {"group": group.name, "positions": positions},
        parse,
        f"requeue dead letters of the group {group.name!r}",
        Retry.UNSAFE,  # A second run would count none.
    )


def check_trimmed(group: Group, position: int, trimmed: int) -> PositionTrimmed:
    """Return the error for a group whose position is below what a forced trim removed."""
    error = trimmed_error(position, trimmed)
    return PositionTrimmed(
        f"the group {group.name!r}: {error}. group.reset({trimmed}) accepts the loss",
        position=position,
        trimmed_to=trimmed,
    )
