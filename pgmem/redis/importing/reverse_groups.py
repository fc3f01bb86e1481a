"""Write the groups back to Redis: the position and the open events.

Events that members have acknowledged in pgmem are acknowledged in Redis. Events that were delivered
and not acknowledged are pending in Redis, with the number of deliveries. Other events will be
delivered. The members in pgmem have stopped. Once Redis has everything, `release` revokes the
deliveries that they still hold, and a later import can continue. Everything here is repeatable.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from pgmem.groups.models import GroupInfo
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.groups import (
    MOST_DELIVERIES,
    PART,
    PendingEntry,
    RedisGroup,
    group_info,
    groups_of,
    known_deliveries,
    places_of,
)
from pgmem.redis.importing.positions import Reader, ids_of, number
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.source import Command, Refused
from pgmem.redis.importing.streams import StreamImport

CONSUMER = b"pgmem"
"""The consumer in Redis of entries that were delivered in pgmem first."""
AT_ONCE = 1_000
"""Maximum number of commands in one round trip."""
NOT_IN_THE_LOG = "it is open in the group in pgmem, and its event is no longer in the log"


def write_groups(context: Context, stream: StreamImport) -> tuple[int, int]:
    """Write back the groups of a stream whose events are all in Redis.

    Return the number of groups, and of entries that could not be made pending.
    """
    if not context.source.call("EXISTS", stream.physical):
        return 0, 0  # the stream has ended in Redis, and its groups with it
    there = {group.name: group for group in groups_of(context.source, stream)}
    count = left = 0
    for name, own, before in _filled(context, stream):
        info = group_info(context, name)
        if info is None:
            continue  # deleted in pgmem: it stays as it is in Redis
        group = there.get(own) or RedisGroup(own, b"0-0", [])
        commands, lost = _commands(context, stream, group, info, before)
        if own not in there:
            commands.insert(0, ("XGROUP", "CREATE", stream.physical, own, "0"))
        for at in range(0, len(commands), AT_ONCE):
            _send(context, commands[at : at + AT_ONCE])
        count, left = count + 1, left + lost
    return count, left


def release(context: Context, blocked: Container[str]) -> None:
    """Revoke the deliveries of the members in pgmem. From now on Redis delivers.

    Args:
        context: the objects of the import.
        blocked: the streams that stay in pgmem for now, with their groups.
    """
    for part in context.imports.list(context.name):
        key = part.detail.get("key", "")
        if not part.part.startswith(PART) or key in blocked:
            continue
        if context.rules.is_excepted(key.encode()):
            continue
        name = part.part.removeprefix(PART)
        info = group_info(context, name)
        detail = {**part.detail, "position": None if info is None else info.position}
        mine = context.imports.open(context.name, part.part)
        context.imports.advance(mine, cursor="", detail=detail)
        if info is not None:
            context.memory.groups.get(name).reset(info.position)


def _filled(context: Context, stream: StreamImport) -> Iterator[tuple[str, bytes, int]]:
    """Yield the imported groups of a stream, and the position of each at its import."""
    for part in context.imports.list(context.name):
        position = part.detail.get("position")
        is_group = part.part.startswith(PART) and part.detail.get("key") == stream.name
        if is_group and position is not None:
            yield part.part.removeprefix(PART), part.detail["group"].encode(), position


def _commands(
    context: Context, stream: StreamImport, group: RedisGroup, info: GroupInfo, before: int
) -> tuple[list[Command], int]:
    """Return the commands that make the group in Redis equal, and the number of lost entries."""
    here = {known.position: known for known in known_deliveries(context, info.name)}
    with context.memory.transaction() as tx:
        places = places_of(tx, stream, [pending.identity for pending in group.pending])
        ids = _ids(tx, stream, here)
        last = _last_up_to(tx, stream, info.position)
    there = {
        places[number(pending.identity)]: pending
        for pending in group.pending
        if number(pending.identity) in places
    }
    key, own = stream.physical, group.name
    commands: list[Command] = []
    # Refused entries have no position. A group that has not moved must not get them again.
    if info.position < before or (info.position > before and number(last) > number(group.last)):
        commands.append(("XGROUP", "SETID", key, own, last))
    commands += [
        ("XACK", key, own, pending.identity)
        for place, pending in there.items()
        if place not in here
    ]
    lost = []
    for position, known in sorted(here.items()):
        pending = there.get(position, PendingEntry(b"", CONSUMER, -1))
        attempts = min(known.attempts, MOST_DELIVERIES)
        if position not in ids:
            lost.append((Item("pending of pgmem", stream.key, b"%d" % position), NOT_IN_THE_LOG))
        elif pending.deliveries != attempts:
            # FORCE makes an entry pending that was not.
            claim = ("XCLAIM", key, own, pending.consumer, 0, ids[position])
            commands.append((*claim, "RETRYCOUNT", attempts, "FORCE", "JUSTID"))
    context.refuse(lost)
    return commands, len(lost)


def _ids(reader: Reader, stream: StreamImport, positions: Iterable[int]) -> dict[int, str]:
    """Return the ids in Redis of events that were imported or written back."""
    found = ids_of(reader, stream.part.target or "", positions)
    return {
        position: f"{identity[0]}-{identity[1]}" if identity else stream.written_id(position)
        for position, identity in found.items()
    }


def _last_up_to(reader: Reader, stream: StreamImport, position: int) -> str:
    """Return the id of the last event up to a position; 0-0 if there is none."""
    newest = reader.events.read(stream.part.target, until=position, limit=1, reverse=True)
    return next(iter(_ids(reader, stream, [event.position for event in newest]).values()), "0-0")


def _send(context: Context, commands: list[Command]) -> None:
    """Send repeatable commands."""
    for answer in context.source.many(commands):
        # BUSYGROUP: an earlier run that was killed has made the group.
        if isinstance(answer, Refused) and not answer.reason.startswith("BUSYGROUP"):
            raise answer
