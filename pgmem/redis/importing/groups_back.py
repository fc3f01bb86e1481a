"""The way back of the groups: their position, and what is handed out and not done, go to Redis.

What members have done in pgmem is acknowledged in Redis; what they have been handed out and have
not done is pending there, with the number of its deliveries; what nobody was given yet will be
given out. The members in pgmem have stopped: once Redis has it all, what they still hold is taken
from them (`release`), and a later import goes on.

Everything here may be done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgmem.groups.models import GroupInfo
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.groups import (
    MOST_DELIVERIES,
    PART,
    Held,
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
"""Whose the entries are in Redis that a member of pgmem was given first."""
AT_ONCE = 1_000
"""Commands in one round trip."""
NOT_IN_THE_LOG = "it is open in the group in pgmem, and its event is not in the log any more"


def write_groups(context: Context, stream: StreamImport) -> tuple[int, int]:
    """Write back the groups of a stream whose events are all in Redis.

    Gives how many groups there are, and how many entries could not be made pending.
    """
    there = {group.name: group for group in groups_of(context.source, stream)}
    count = left = 0
    for name, before in _filled(context, stream):
        info = group_info(context, name)
        if info is None:
            continue  # somebody has deleted it: in Redis it stays as it was
        own = name.removeprefix(f"{stream.part.target}:").encode()
        group = there.get(own) or RedisGroup(own, b"0-0", [])
        commands, lost = _commands(context, stream, group, info, before)
        if own not in there:
            commands.insert(0, ("XGROUP", "CREATE", stream.physical, own, "0"))
        for at in range(0, len(commands), AT_ONCE):
            _send(context, commands[at : at + AT_ONCE])
        count, left = count + 1, left + lost
    return count, left


def release(context: Context) -> None:
    """Take from the members in pgmem what they hold: from now on, Redis hands it out."""
    for part in context.imports.list(context.name):
        if not part.part.startswith(PART):
            continue
        name = part.part.removeprefix(PART)
        info = group_info(context, name)
        detail = {**part.detail, "position": None if info is None else info.position}
        mine = context.imports.open(context.name, part.part)
        context.imports.advance(mine, cursor="", detail=detail)
        if info is not None:
            context.memory.groups.get(name).reset(info.position)


def _filled(context: Context, stream: StreamImport) -> Iterator[tuple[str, int]]:
    """The groups of a stream that were brought in, and where each stood then."""
    for part in context.imports.list(context.name):
        position = part.detail.get("position")
        if part.part.startswith(f"{PART}{stream.part.target}:") and position is not None:
            yield part.part.removeprefix(PART), position


def _commands(
    context: Context, stream: StreamImport, group: RedisGroup, info: GroupInfo, before: int
) -> tuple[list[Command], int]:
    """What makes a group of Redis what the one here is; and how many entries it cannot have."""
    here = {known.position: known for known in known_deliveries(context, info.name)}
    with context.memory.transaction() as tx:
        places = places_of(tx, stream, [held.identity for held in group.held])
        ids = _ids(tx, stream, here)
        last = _last_up_to(tx, stream, info.position)
    there = {
        places[number(held.identity)]: held
        for held in group.held
        if number(held.identity) in places
    }
    key, own = stream.physical, group.name
    commands: list[Command] = []
    # Entries that were refused have no position: who stands still passes none of them again.
    if info.position < before or (info.position > before and number(last) > number(group.last)):
        commands.append(("XGROUP", "SETID", key, own, last))
    commands += [
        ("XACK", key, own, held.identity) for place, held in there.items() if place not in here
    ]
    lost = []
    for position, known in sorted(here.items()):
        held = there.get(position, Held(b"", CONSUMER, -1))
        attempts = min(known.attempts, MOST_DELIVERIES)
        if position not in ids:
            lost.append((Item("pending of pgmem", stream.key, b"%d" % position), NOT_IN_THE_LOG))
        elif held.deliveries != attempts:
            # FORCE: also if nobody had it there.
            claim = ("XCLAIM", key, own, held.consumer, 0, ids[position])
            commands.append((*claim, "RETRYCOUNT", attempts, "FORCE", "JUSTID"))
    context.refuse(lost)
    return commands, len(lost)


def _ids(reader: Reader, stream: StreamImport, positions: Iterable[int]) -> dict[int, str]:
    """The ids of events in Redis: of those that came from there, and those written back."""
    found = ids_of(reader, stream.part.target or "", positions)
    return {
        position: f"{identity[0]}-{identity[1]}" if identity else stream.written_id(position)
        for position, identity in found.items()
    }


def _last_up_to(reader: Reader, stream: StreamImport, position: int) -> str:
    """The id of the last event up to a position; 0-0 if there is none."""
    newest = reader.events.read(stream.part.target, until=position, limit=1, reverse=True)
    return next(iter(_ids(reader, stream, [event.position for event in newest]).values()), "0-0")


def _send(context: Context, commands: list[Command]) -> None:
    """Send commands that may be sent again."""
    for answer in context.source.many(commands):
        # Made by a run of ours that was killed.
        if isinstance(answer, Refused) and not answer.reason.startswith("BUSYGROUP"):
            raise answer
