"""The consumer groups of the streams: their position, and what is handed out and not done.

A group `G` of the stream `S` becomes the group `S:G`. What is pending there is parked here, with
the number of its deliveries, and the next member gets it::

    Redis    1-0  2-0  3-0  4-0  5-0          pgmem    11  12  13  14  15
                  pending   │ last-delivered-id             │    │ position
                                                            parked (attempts as there)

Brought in again, a group here follows the one there, until a member reads from it here. The last
delivered id is read before what is pending, and the stream up to it before both are written: so
whatever is found is in the log, and nothing that a member got in between is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from pgmem.core.names import NAME_BYTES
from pgmem.errors import InvalidInput, NotFound
from pgmem.groups.models import GroupInfo
from pgmem.redis import ImportedDelivery, ImportPart, KnownDelivery
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import Unfit, text
from pgmem.redis.importing.positions import Reader, number, position_of, positions_of
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.source import RedisSource, Refused, key_error
from pgmem.redis.importing.streams import StreamImport

PAGE = 5_000
MOST_DELIVERIES = 2**31 - 2
STEP = 2_000
"""Deliveries in a step."""
PART = "group "
"""What the name of a group's part begins with."""

FOREIGN_GROUP = (
    "members have worked in the group {name!r} of pgmem already, or it follows something else: it "
    "was left as it is"
)
NOT_THERE = (
    "it is pending in the group, and its entry was trimmed, deleted or refused before it was "
    "brought in: nobody can be given it"
)

Identity = tuple[int, int]


class Held(NamedTuple):
    """What is pending in Redis: the entry's id, whose it is, and how often it was delivered."""

    identity: bytes
    consumer: bytes
    deliveries: int


class RedisGroup(NamedTuple):
    """A group, as Redis tells it.

    Attributes:
        name: its name there.
        last: the id that was delivered last.
        held: what is pending up to that one.
    """

    name: bytes
    last: bytes
    held: list[Held]


@dataclass(slots=True)
class GroupImport:
    """One group, and how far it has come.

    Attributes:
        name: what it is called here.
        part: remembers it.
        seen: as it was when it was brought in last; None before.
        places: where what is pending is in the log.
        position: the group's.
        lost: how many pending entries are not in the log.
        foreign: whether it is somebody else's here.
    """

    name: str
    part: ImportPart
    seen: RedisGroup | None = None
    places: dict[Identity, int] = field(default_factory=dict)
    position: int = 0
    lost: int = 0
    foreign: bool = False


def groups_of(source: RedisSource, stream: StreamImport) -> Iterator[RedisGroup]:
    """The groups of a stream; none if there is no stream."""
    try:
        found = source.call("XINFO", "GROUPS", stream.physical)
    except Refused as error:
        if "no such key" in error.reason:
            return
        with key_error(stream.name):
            raise
    for answer in found:
        known = dict(zip(answer[::2], answer[1::2], strict=True))
        name, last = known[b"name"], known[b"last-delivered-id"]
        held = list(_held(source, stream, name)) if known[b"pending"] else []
        # What was delivered since is behind `last`: it will be handed out as something new.
        yield RedisGroup(name, last, [one for one in held if number(one.identity) <= number(last)])


def _held(source: RedisSource, stream: StreamImport, group: bytes) -> Iterator[Held]:
    after = "-"
    while True:
        with key_error(stream.name):
            page = source.call("XPENDING", stream.physical, group, after, "+", PAGE)
        for identity, consumer, _, count in page:
            yield Held(identity, consumer, min(count, MOST_DELIVERIES))
        if len(page) < PAGE:
            return
        after = f"({page[-1][0].decode()}"


def name_of(stream: StreamImport, group: bytes) -> str:
    """What a group is called here.

    Raises:
        Unfit: its name is no UTF-8, or too long with the stream's.
    """
    name = f"{stream.part.target}:{text(group, 'the name of the group')}"
    size = len(name.encode())
    if size > NAME_BYTES:
        raise Unfit(
            f"the group would be called {name[:60]!r}…, {size} bytes, and {NAME_BYTES} "
            f"are allowed: rename it in Redis, or give the stream another name (--stream KEY=NAME)"
        )
    return name


def place_of(reader: Reader, stream: StreamImport, last: bytes) -> int:
    """The position that stands for the id that a group was given last."""
    target = stream.part.target or ""
    wanted = number(last)
    ends = [until for _, until in stream.part.detail.get("skipped", ()) if number(until) <= wanted]
    written = max([number(until)[1] for until in ends], default=0)
    return max(position_of(reader, target, last), written, stream.written_position(wanted) or 0)


def places_of(
    reader: Reader, stream: StreamImport, identities: Sequence[bytes]
) -> dict[Identity, int]:
    """The positions of entries, of those that are in the log: brought in, or written back."""
    found = {}
    for identity in map(number, identities):
        position = stream.written_position(identity)
        if position is not None:
            found[identity] = position
    wanted = [identity for identity in identities if number(identity) not in found]
    return found | positions_of(reader, stream.part.target or "", wanted)


def group_info(context: Context, name: str) -> GroupInfo | None:
    """Return a group's information; None if it was deleted."""
    try:
        return context.memory.groups.get(name).info()
    except NotFound:
        return None


def known_deliveries(context: Context, name: str) -> Iterator[KnownDelivery]:
    """What is open in a group here."""
    after = 0
    while page := context.imports.known_deliveries(name, after=after, limit=PAGE):
        after = page[-1].position
        yield from page


class Groups:
    """Brings in the groups of the streams.

    Args:
        context: what the import works with.

    Attributes:
        all: the groups by their names here.
        unfit: the groups that cannot have a name here.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.all: dict[str, GroupImport] = {}
        self.unfit: set[tuple[bytes, bytes]] = set()

    @property
    def left_out(self) -> int:
        """How many groups and pending entries are not here."""
        groups = self.all.values()
        return len(self.unfit) + sum(group.lost + group.foreign for group in groups)

    def bring_in(self, stream: StreamImport, *, only_new: bool = False) -> None:
        """Bring in the groups of a stream, and the stream as far as they have read it.

        Args:
            stream: the stream.
            only_new: not those that were brought in before: members work in them.

        Raises:
            ImportConflict: another process goes on with a group.
        """
        for found in groups_of(self._context.source, stream):
            try:
                group = self._opened(stream, found)
            except (Unfit, InvalidInput) as error:
                self.unfit.add((stream.key, found.name))
                self._context.refuse([(Item("group", stream.key, found.name), str(error))])
                continue
            if group is None or (only_new and "position" in group.part.detail):
                continue
            if group.seen != found:
                stream.drain_to(found.last)
                self._bring_in(stream, group, found)

    def _opened(self, stream: StreamImport, found: RedisGroup) -> GroupImport | None:
        """The group here; None on trial, where the log does not hold what it is about."""
        name = name_of(stream, found.name)
        if self._context.dry_run:
            return None
        if name not in self.all:
            part = self._context.imports.open(self._context.name, PART + name)
            self.all[name] = GroupImport(name, part)
        return self.all[name]

    def _bring_in(self, stream: StreamImport, group: GroupImport, found: RedisGroup) -> None:
        held = {number(one.identity): one for one in found.held}
        with self._context.memory.transaction() as tx:
            group.position = place_of(tx, stream, found.last)
            new = [one.identity for place, one in held.items() if place not in group.places]
            found_now = places_of(tx, stream, new)
        group.places = {
            identity: place
            for identity, place in (group.places | found_now).items()
            if identity in held
        }
        lost = [one for identity, one in held.items() if identity not in group.places]
        group.lost = len(lost)
        self._context.refuse([(_item(stream, found, one), NOT_THERE) for one in lost])
        deliveries = sorted(
            ImportedDelivery(place, held[identity].deliveries, _note(held[identity]))
            for identity, place in group.places.items()
        )
        group.foreign = not self._fill(stream, group, deliveries)
        if group.foreign:
            why = FOREIGN_GROUP.format(name=group.name)
            self._context.refuse([(Item("group", stream.key, found.name), why)])
        else:
            group.seen = found

    def _fill(
        self, stream: StreamImport, group: GroupImport, deliveries: Sequence[ImportedDelivery]
    ) -> bool:
        """Write a group; tells whether it could be."""
        steps = [deliveries[at : at + STEP] for at in range(0, len(deliveries), STEP)] or [()]
        # Each step is about what is between the last of the step before and its own last.
        bounds = [0, *(step[-1].position for step in steps[:-1]), 2**63 - 1]
        for step, (after, until) in zip(steps, pairwise(bounds), strict=True):
            group.part, filled = self._context.imports.fill_group(
                group.part,
                group.name,
                stream=stream.part.target or "",
                position=group.position,
                open=step,
                after=after,
                until=until,
            )
            if not filled:
                return False
        return True


def _item(stream: StreamImport, group: RedisGroup, held: Held) -> Item:
    deliveries = b"%d" % held.deliveries
    return Item("pending", stream.key, held.identity, (group.name, held.consumer, deliveries))


def _note(held: Held) -> str:
    consumer = held.consumer.decode(errors="backslashreplace").replace("\0", "\\x00")
    return f"pending in Redis, with {consumer[:200]}"
