"""Give fields that were written back to a hash of Redis their ends.

A field ends with its key, or by itself (HPEXPIRE, from Redis 7.4 and Valkey 9 on). An entry has one
end.

- It ends with the key: nothing is to be done.
- It ends before the key: the field gets an end of its own.
- It ends after the key, or never: the key ends later, and its other fields as before.

If the server cannot end a field by itself, what is lost is listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pgmem.redis.importing.context import Context
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.source import Command, Refused

SLACK = 2_000
"""Milliseconds by which two ends may differ: the time between reading one and the other."""
SLACK_SHARE = 0.001

NO_FIELD_ENDS = (
    "the field was written back without its end: this server cannot end a field by itself "
    "(HPEXPIRE is of Redis 7.4 and Valkey 9), and its key ends later or never"
)
LONGER = (
    "the hash ends later now than before, or never, as a field that was written back does. This "
    "server cannot end a field by itself (HPEXPIRE is of Redis 7.4 and Valkey 9). So its other "
    "fields end later too"
)

# KEYS: the hash. ARGV: its new end in milliseconds, 0 for none. Other fields keep the old one.
_EXTEND = """
local left = redis.call('PTTL', KEYS[1])
if left >= 0 then
  local fields = redis.call('HKEYS', KEYS[1])
  for at = 1, #fields do
    local ends = redis.call('HPTTL', KEYS[1], 'FIELDS', 1, fields[at])[1]
    if ends == -1 then
      redis.call('HPEXPIRE', KEYS[1], math.max(left, 1), 'FIELDS', 1, fields[at])
    end
  end
end
if ARGV[1] == '0' then
  return redis.call('PERSIST', KEYS[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
"""


class FieldEnd(NamedTuple):
    """A field that was written back, and the end of its entry.

    Attributes:
        key: the key.
        field: the field. HSET has removed an end of its own.
        ttl: seconds until the entry ends; None if never.
    """

    key: str
    field: bytes
    ttl: float | None

    @property
    def item(self) -> Item:
        """The field, for the file of refused items."""
        return Item("end", self.key.encode(), self.field)


def end_fields(
    context: Context, physical: bytes, ends: Sequence[FieldEnd]
) -> Iterator[tuple[Item, str]]:
    """Give the fields of one hash their ends. Yield what could not be carried, with the reasons.

    Args:
        context: the objects of the import.
        physical: the present name of the key.
        ends: the fields.

    Raises:
        Refused: the server refused a command.
    """
    source = context.source
    left = source.call("PTTL", physical)
    last = _last(ends)
    if left >= 0 and (last is None or last - left > _slack(left)):
        yield from _extend(context, physical, ends, last)
        left = -1 if last is None else last
    elif left == -1 and last is not None and _is_made_here(context, physical, ends):
        source.call("PEXPIRE", physical, last)
        left = last
    commands: list[Command] = []
    for one in ends:
        if one.ttl is None:
            continue  # the key has no end, or _extend has seen to it
        ttl = _milliseconds(one.ttl)
        if left >= 0 and abs(left - ttl) <= _slack(left):
            if source.field_ends:
                commands.append(("HPERSIST", physical, "FIELDS", 1, one.field))
        elif source.field_ends:
            commands.append(("HPEXPIRE", physical, ttl, "FIELDS", 1, one.field))
        else:
            yield one.item, NO_FIELD_ENDS
    for answer in source.many(commands):
        if isinstance(answer, Refused):
            raise answer


def _extend(
    context: Context, physical: bytes, ends: Sequence[FieldEnd], last: int | None
) -> Iterator[tuple[Item, str]]:
    """Let a key end later, so that no field ends before its entry does."""
    source = context.source
    if source.field_ends:
        # The fields that were written back get their own ends afterwards.
        source.script(_EXTEND, [physical], b"0" if last is None else b"%d" % last)
        commands: list[Command] = [
            ("HPERSIST", physical, "FIELDS", 1, one.field) for one in ends if one.ttl is None
        ]
    else:
        yield Item("end", ends[0].key.encode()), LONGER
        commands = [("PERSIST", physical) if last is None else ("PEXPIRE", physical, last)]
    for answer in source.many(commands):
        if isinstance(answer, Refused):
            raise answer


def _is_made_here(context: Context, physical: bytes, ends: Sequence[FieldEnd]) -> bool:
    """Return True if a hash has only these fields, and cannot end each by itself."""
    source = context.source
    return not source.field_ends and source.call("HLEN", physical) == len(ends)


def _last(ends: Sequence[FieldEnd]) -> int | None:
    """Return the latest end in milliseconds; None if a field has none."""
    found = [one.ttl for one in ends]
    known = [ttl for ttl in found if ttl is not None]
    return _milliseconds(max(known)) if len(known) == len(found) else None


def _slack(left: int) -> int:
    return max(SLACK, int(left * SLACK_SHARE))


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1_000))
