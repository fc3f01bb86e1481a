"""Statements that fill a group with its position and its open events in another store.

A group is a part of an import, as a stream is (`pgmem.redis.step_ops`). Each time that it is
filled, it gets the state that it has in the other store. Once a member has read from it here, it is
left as it is::

    (no group) ──fill──► as in the other store ──fill──► …
                              │            ▲
                 a member     │            │ reset
                 reads from it▼            │ (group.reset, or an import on its way back)
                           read from here ─┘
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgmem.core.arrays import NameColumn
from pgmem.core.encoding import DEFAULT_MAX_BYTES, encode_object
from pgmem.core.op import Op, Retry, Row
from pgmem.core.validation import MAX_POSITION, check_count
from pgmem.events.filter import EventFilter
from pgmem.events.ops import MAX_BATCH, check_stream
from pgmem.groups.ops import Group, check_group
from pgmem.redis.models import ImportedDelivery, ImportPart, KnownDelivery
from pgmem.redis.step_ops import Step

MAX_ATTEMPTS = 2**31 - 2


class Fill(NamedTuple):
    """The state of a group in another store.

    Attributes:
        name: the name of the group.
        stream: the stream that it reads.
        position: the last position that was delivered.
        open: the events in the range that are not acknowledged.
        after, until: the range of positions. Other delayed events in it are acknowledged.
    """

    name: str
    stream: str
    position: int
    open: Sequence[ImportedDelivery]
    after: int = 0
    until: int = MAX_POSITION


def fill(part: ImportPart, given: Fill) -> Op[tuple[ImportPart, bool]]:
    """Fill a group and make the step. Also return True if the group was filled.

    Raises:
        InvalidInput: a name, a position or a number that is not allowed.

    Raises (from `parse`):
        ImportConflict: as `Step.of`.
    """
    check_count(len(given.open), "number of items in one step", minimum=0, maximum=MAX_BATCH)
    check_count(given.position, "position", minimum=0)
    for item in given.open:
        check_count(item.position, "position", minimum=1)
        check_count(item.attempts, "attempts", minimum=0, maximum=MAX_ATTEMPTS)
    group = Group(given.name, EventFilter.of(check_stream(given.stream)))
    known = part.detail.get("position")
    step = Step(part.cursor, 0, 0, {**part.detail, "position": given.position})
    text = encode_object(group.selection.to_json(), "selection", limit=DEFAULT_MAX_BYTES)

    def parse(rows: Sequence[Row]) -> tuple[ImportPart, bool]:
        return step.of(part, rows[0]), bool(rows[0][4])

    return Op(
        "import_group",
        {
            **step.params(part),
            "group": group.name,
            "selection": text,
            "max_attempts": group.max_attempts,
            "known": known,
            "position": given.position,
            "positions": [item.position for item in given.open],
            "attempts": [item.attempts for item in given.open],
            "notes": NameColumn([item.note for item in given.open]),
            "after": given.after,
            "until": given.until,
        },
        parse,
        f"fill the group {group.name!r} by the import {part.source!r}",
        Retry.IDEMPOTENT,
    )


def known_deliveries(group: str, *, after: int, limit: int) -> Op[list[KnownDelivery]]:
    """Return the events of a group that were delivered and not acknowledged, in log order."""
    return Op(
        "import_known_deliveries",
        {
            "group": check_group(group),
            "after": check_count(after, "after", minimum=0),
            "limit": check_count(limit, "limit", minimum=1, maximum=100_000),
        },
        lambda rows: list(map(KnownDelivery._make, rows)),
        f"list what is open in the group {group!r}",
    )
