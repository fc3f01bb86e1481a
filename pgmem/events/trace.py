"""Read what an event followed from, and what followed from it.

The cause of an event is the position in its metadata (see `Memory.context`). So events form trees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pgmem.core.context import CAUSE
from pgmem.core.op import Op, Row
from pgmem.core.validation import check_count, check_position
from pgmem.errors import InvalidEvent, NotFound
from pgmem.events.codec import Codec, event_maker
from pgmem.events.models import RecordedEvent

MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class Trace:
    """An event, and what followed from it.

    Attributes:
        event: the event.
        effects: the events that name it as their cause, in the order of the log.
        complete: False if the tree has more events than the limit, or if the cause that the event
            names is not in the log. It is said of the first event only.
    """

    event: RecordedEvent
    effects: list[Trace] = field(default_factory=list)
    complete: bool = True

    def __iter__(self) -> Iterator[RecordedEvent]:
        """Iterate over the events of the tree: each one, then its effects."""
        left = [self]
        while left:
            found = left.pop()
            yield found.event
            left += reversed(found.effects)


def trace(position: int, codec: Codec, *, limit: int) -> Op[Trace]:
    """Read the tree of causes and effects that an event is in.

    Raises:
        InvalidInput: an option is not allowed.
        NotFound (from `parse`): there is no event at the position.
    """
    check_count(limit, "limit", minimum=1, maximum=MAX_EVENTS)
    make = event_maker(codec, None)

    def event_of(row: Row) -> RecordedEvent:
        try:
            return make(row[:-1])
        except InvalidEvent as error:
            stored: RecordedEvent = error.event
            return stored

    def parse(rows: Sequence[Row]) -> Trace:
        if not rows:
            raise NotFound(
                f"there is no event at position {position}: its transaction rolled back or is "
                f"still open, or retention has removed it"
            )
        made: dict[int, Trace] = {}
        missing = _names_a_cause(event_of(rows[0])) or len(rows) > limit
        for row in rows[:limit]:
            node = Trace(event_of(row), complete=bool(made) or not missing)
            made[row[0]] = node
            if row[-1] in made:
                made[row[-1]].effects.append(node)
        return made[rows[0][0]]

    return Op(
        "event_trace",
        {"position": check_position(position, "position"), "limit": limit + 1},
        parse,
        f"trace the event at position {position}",
    )


def _names_a_cause(event: RecordedEvent) -> bool:
    return type((event.metadata or {}).get(CAUSE)) is int
