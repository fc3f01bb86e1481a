"""Where an old id of Redis is in the log: for readers that have kept one, and for groups."""

from __future__ import annotations

from collections.abc import Iterable

from pgmem import Memory, RecordedEvent, Transaction
from pgmem.errors import InvalidInput


def number(identity: str | bytes) -> tuple[int, int]:
    """The two numbers of an entry's id, which say what came first.

    Raises:
        InvalidInput: it is no id of an entry.
    """
    text = identity.decode(errors="replace") if isinstance(identity, bytes) else identity
    milliseconds, _, sequence = text.partition("-")
    if not (milliseconds.isdecimal() and (sequence or "0").isdecimal()):
        raise InvalidInput(
            f"{text[:60]!r} is no id of a stream's entry: such an id is two numbers, as in "
            f"1526919030474-0"
        )
    return int(milliseconds), int(sequence or 0)


PAGE = 1_000

Reader = Memory | Transaction
"""A memory gives what is final; a transaction of it, what is visible."""


def position_of(memory: Reader, stream: str, identity: str | bytes) -> int:
    """The position that stands for the id of an entry of a Redis stream that was imported.

    Give it as `after=`: what comes then is what XREAD would have given for the id. An entry that
    was never imported (trimmed, refused) stands for the last one before it.

    >>> from pgmem.redis import ImportedEvent, Imports
    >>> imports = Imports(memory)
    >>> part = imports.open("redis", "stream s", target="s")
    >>> made = [ImportedEvent("t", b"1", None, b'{"redis":{"id":"%d-0"}}' % n) for n in (5, 7, 9)]
    >>> part = imports.append_events(part, imports.check_events(made), cursor="9-0")
    >>> [position_of(memory, "s", identity) for identity in ("4-0", "7-0", "8-0", "10-0")]
    [0, 2, 2, 3]

    Args:
        memory: where the stream was brought in.
        stream: its name there.
        identity: the id, as Redis wrote it.

    Raises:
        InvalidInput: it is no id.
    """
    milliseconds, sequence = number(identity)
    return _last_below(memory, stream, (milliseconds, sequence + 1))


def positions_of(
    memory: Reader, stream: str, identities: Iterable[str | bytes]
) -> dict[tuple[int, int], int]:
    """The positions of imported entries, by the numbers of their ids; not of what is not there.

    Read in one go where they are close together, and searched for where they are not.
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
    """The ids of events by their positions: None of those that were never in Redis."""
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
    """The position of the last imported entry whose id is below one; `low` if there is none."""
    newest = memory.events.read(stream, limit=1, reverse=True)
    # Ids grow with positions, so the place can be halved: `low` stands before the id, whatever is
    # imported behind `high` does not.
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
    """The first imported event in a range; what was appended in pgmem has no id."""
    limit = 1
    while found := memory.events.read(stream, after=after, until=until, limit=limit):
        for event in found:
            if _id(event):
                return event
        after, limit = found[-1].position, min(limit * 10, PAGE)
    return None


def _id(event: RecordedEvent) -> tuple[int, int] | None:
    """The numbers of the id that an event had in Redis; None if it was never there."""
    origin = (event.metadata or {}).get("redis")
    identity = origin.get("id") if isinstance(origin, dict) else None
    return number(identity) if isinstance(identity, str) else None
