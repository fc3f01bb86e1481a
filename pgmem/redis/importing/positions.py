"""Find the position of an id of Redis, for readers that have kept one and for groups."""

from __future__ import annotations

from collections.abc import Iterable

from pgmem import Memory, RecordedEvent, Transaction
from pgmem.errors import InvalidInput


def number(identity: str | bytes) -> tuple[int, int]:
    """Return the two numbers of an entry's id. They have the order of the entries.

    Raises:
        InvalidInput: it is not the id of an entry.
    """
    text = identity.decode(errors="replace") if isinstance(identity, bytes) else identity
    milliseconds, _, sequence = text.partition("-")
    if not (milliseconds.isdecimal() and (sequence or "0").isdecimal()):
        raise InvalidInput(
            f"{text[:60]!r} is not the id of an entry of a stream. An id has two numbers, as in "
            f"1526919030474-0"
        )
    return int(milliseconds), int(sequence or 0)


PAGE = 1_000

Reader = Memory | Transaction
"""A memory reads what is stable; a transaction reads what is visible."""


def position_of(memory: Reader, stream: str, identity: str | bytes) -> int:
    """Return the position of an imported entry of a Redis stream.

    Reading `after=` this position returns what XREAD would have returned for the id. For an entry
    that was not imported (trimmed or refused), the position is that of the last one before it.

    >>> from pgmem.redis import ImportedEvent, Imports
    >>> imports = Imports(memory)
    >>> part = imports.open("redis", "stream s", target="s")
    >>> made = [ImportedEvent("t", b"1", None, b'{"redis":{"id":"%d-0"}}' % n) for n in (5, 7, 9)]
    >>> part = imports.append_events(part, imports.check_events(made), cursor="9-0")
    >>> [position_of(memory, "s", identity) for identity in ("4-0", "7-0", "8-0", "10-0")]
    [0, 2, 2, 3]

    Args:
        memory: the memory that the stream was imported into.
        stream: the name of the stream in the memory.
        identity: the id in Redis.

    Raises:
        InvalidInput: it is not an id.
    """
    milliseconds, sequence = number(identity)
    return _last_below(memory, stream, (milliseconds, sequence + 1))


def positions_of(
    memory: Reader, stream: str, identities: Iterable[str | bytes]
) -> dict[tuple[int, int], int]:
    """Return the positions of entries that were imported, by the numbers of their ids.

    Ids that are close together are read in one page. Others are searched for.
    """
    wanted = sorted({number(identity) for identity in identities}, reverse=True)
    found: dict[tuple[int, int], int] = {}
    after = 0
    while wanted:
        after = _last_below(memory, stream, wanted[-1], low=after)
        near = True
        while near and wanted:
            events = memory.events.read(stream, after=after, limit=PAGE)
            if not events:
                return found
            after, near = events[-1].position, False
            for event in events:
                identity = _id(event)
                while identity and wanted and wanted[-1] <= identity:
                    near = True
                    if wanted.pop() == identity:
                        found[identity] = event.position
    return found


def ids_of(
    memory: Reader, stream: str, positions: Iterable[int]
) -> dict[int, tuple[int, int] | None]:
    """Return the ids of events by their positions; None for events that were not imported."""
    wanted = set(positions)
    left = sorted(wanted, reverse=True)
    found: dict[int, tuple[int, int] | None] = {}
    while left:
        events = memory.events.read(stream, after=left[-1] - 1, limit=PAGE)
        if not events:
            break
        found |= {event.position: _id(event) for event in events if event.position in wanted}
        while left and left[-1] <= events[-1].position:
            left.pop()
    return found


def _last_below(memory: Reader, stream: str, wanted: tuple[int, int], *, low: int = 0) -> int:
    """Return the position of the last imported entry below an id; `low` if there is none."""
    newest = memory.events.read(stream, limit=1, reverse=True)
    # Ids grow with positions, which allows a binary search. The entry at `low` is below the id,
    # entries above `high` are not.
    high = max(low, newest[0].position) if newest else low
    while low < high:
        middle = (low + high) // 2
        found = _first_imported(memory, stream, middle, high)
        if found is None or (_id(found) or wanted) >= wanted:
            high = middle
        else:
            low = found.position
    return low


def _first_imported(memory: Reader, stream: str, after: int, until: int) -> RecordedEvent | None:
    """Return the first imported event in a range. Events appended in pgmem have no id."""
    limit = 1
    while found := memory.events.read(stream, after=after, until=until, limit=limit):
        for event in found:
            if _id(event):
                return event
        after, limit = found[-1].position, min(limit * 10, PAGE)
    return None


def _id(event: RecordedEvent) -> tuple[int, int] | None:
    """Return the numbers of the id that an event had in Redis, or None."""
    origin = (event.metadata or {}).get("redis")
    identity = origin.get("id") if isinstance(origin, dict) else None
    return number(identity) if isinstance(identity, str) else None
