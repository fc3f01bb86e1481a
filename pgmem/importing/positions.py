"""Where an old id of Redis is in the log: for readers that have kept one."""

from __future__ import annotations

from pgmem import Memory, RecordedEvent
from pgmem.errors import InvalidOption


def number(identity: str | bytes) -> tuple[int, int]:
    """The two numbers of an entry's id, which say what came first.

    Raises:
        InvalidOption: it is no id of an entry.
    """
    text = identity.decode(errors="replace") if isinstance(identity, bytes) else identity
    milliseconds, _, sequence = text.partition("-")
    if not (milliseconds.isdecimal() and (sequence or "0").isdecimal()):
        raise InvalidOption(
            f"{text[:60]!r} is no id of a stream's entry: such an id is two numbers, as in "
            f"1526919030474-0"
        )
    return int(milliseconds), int(sequence or 0)


def position_of(memory: Memory, stream: str, identity: str | bytes) -> int:
    """The position that stands for the id of an entry of a Redis stream that was imported.

    Give it as `after=`: what comes then is what XREAD would have given for the id. An entry that
    was never imported (trimmed, refused) stands for the last one before it.

    >>> from pgmem import ImportedEvent
    >>> part = memory.imports.open("redis", "stream s", target="s")
    >>> made = [ImportedEvent("t", b"1", None, b'{"redis":{"id":"%d-0"}}' % n) for n in (5, 7, 9)]
    >>> part = memory.imports.append(part, memory.imports.events(made), cursor="9-0")
    >>> [position_of(memory, "s", identity) for identity in ("4-0", "7-0", "8-0", "10-0")]
    [0, 2, 2, 3]

    Args:
        memory: where the stream was imported to.
        stream: its name there.
        identity: the id, as Redis wrote it.

    Raises:
        InvalidOption: it is no id.
    """
    wanted = number(identity)
    newest = memory.events.read(stream, limit=1, reverse=True)
    # Ids grow with positions, so the place can be halved: `low` stands at or before the id,
    # whatever is imported behind `high` comes after it.
    low, high = 0, newest[0].position if newest else 0
    while low < high:
        middle = (low + high) // 2
        found = _first_imported(memory, stream, middle, high)
        if found is None or number(found.metadata["redis"]["id"]) > wanted:  # type: ignore[index]
            high = middle
        else:
            low = found.position
    return low


def _first_imported(memory: Memory, stream: str, after: int, until: int) -> RecordedEvent | None:
    """The first imported event in a range; what was appended in pgmem has no id."""
    while found := memory.events.read(stream, after=after, until=until, limit=1_000):
        for event in found:
            if isinstance((event.metadata or {}).get("redis"), dict):
                return event
        after = found[-1].position
    return None
