"""Import the consumer groups of the streams: the position and the pending entries.

The group `G` of the stream `S` becomes the group `S:G`, unless a rule gives it another name. Its
pending entries become delayed events with the same number of deliveries, and the next member gets
them::

    Redis    1-0  2-0  3-0  4-0  5-0          pgmem    11  12  13  14  15
                  pending   │ last-delivered-id             │    │ position
                                                            delayed (same attempts)

Imported again, a group in pgmem follows the one in Redis until a member reads from it in pgmem. The
last delivered id is read first, then the pending entries. The stream is imported up to that id
before both are written. So every pending entry that was not refused is in the log, and an entry
that a member gets in between is delivered later as a new one.
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
from pgmem.redis.importing.collisions import Collision
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
"""The prefix of the name of a group's part."""

FOREIGN_GROUP = (
    "the group {name!r} of pgmem was left as it is, because members have read from it or it reads "
    "something else"
)
NOT_THERE = (
    "it is pending in the group, and its entry was trimmed, deleted or refused before it was "
    "imported, so it cannot be delivered"
)

Identity = tuple[int, int]


class PendingEntry(NamedTuple):
    """A pending entry in Redis: its id, its consumer and its number of deliveries."""

    identity: bytes
    consumer: bytes
    deliveries: int


class RedisGroup(NamedTuple):
    """The state of a group in Redis.

    Attributes:
        name: its name.
        last: the last delivered id.
        pending: the pending entries up to that id.
    """

    name: bytes
    last: bytes
    pending: list[PendingEntry]


@dataclass(slots=True)
class GroupImport:
    """The import of one group.

    Attributes:
        name: its name in pgmem.
        part: the part that stores its progress.
        seen: the state that was imported last; None before.
        places: the positions of its pending entries.
        position: its position in pgmem.
        lost: number of pending entries that are not in the log.
        foreign: the group in pgmem is in use, and is left as it is.
    """

    name: str
    part: ImportPart
    seen: RedisGroup | None = None
    places: dict[Identity, int] = field(default_factory=dict)
    position: int = 0
    lost: int = 0
    foreign: bool = False


def groups_of(source: RedisSource, stream: StreamImport) -> Iterator[RedisGroup]:
    """Yield the groups of a stream; none if there is no stream."""
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
        pending = list(_pending(source, stream, name)) if known[b"pending"] else []
        # Entries that were delivered since are above `last`, and will be delivered as new ones.
        yield RedisGroup(
            name, last, [one for one in pending if number(one.identity) <= number(last)]
        )


def _pending(source: RedisSource, stream: StreamImport, group: bytes) -> Iterator[PendingEntry]:
    after = "-"
    while True:
        with key_error(stream.name):
            page = source.call("XPENDING", stream.physical, group, after, "+", PAGE)
        for identity, consumer, _, count in page:
            yield PendingEntry(identity, consumer, min(count, MOST_DELIVERIES))
        if len(page) < PAGE:
            return
        after = f"({page[-1][0].decode()}"


def name_of(context: Context, stream: StreamImport, group: bytes) -> str:
    """Return the name of a group in pgmem.

    Raises:
        Unfit: its name is not UTF-8, or is too long together with that of the stream.
    """
    own = text(group, "the name of the group")
    name = context.rules.group_name(stream.name, stream.part.target or "", own)
    size = len(name.encode())
    if size > NAME_BYTES:
        raise Unfit(
            f"the name of the group, {name[:60]!r}…, would have {size} bytes, and {NAME_BYTES} are "
            f"allowed. Give it another name (--group KEY=NAME)"
        )
    return name


def is_of(part: ImportPart, stream: StreamImport, group: bytes) -> bool:
    """Return True if a part imports this group of this stream."""
    return bool(
        part.detail.get("key") == stream.name and part.detail.get("group") == group.decode()
    )


def place_of(reader: Reader, stream: StreamImport, last: bytes) -> int:
    """Return the position of the last delivered id of a group."""
    target = stream.part.target or ""
    wanted = number(last)
    ends = [until for _, until in stream.part.detail.get("skipped", ()) if number(until) <= wanted]
    written = max([number(until)[1] for until in ends], default=0)
    return max(position_of(reader, target, last), written, stream.written_position(wanted) or 0)


def places_of(
    reader: Reader, stream: StreamImport, identities: Sequence[bytes]
) -> dict[Identity, int]:
    """Return the positions of entries that were imported or written back."""
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
    """Yield the open events of a group in pgmem."""
    after = 0
    while page := context.imports.known_deliveries(name, after=after, limit=PAGE):
        after = page[-1].position
        yield from page


class Groups:
    """Import the groups of the streams.

    Args:
        context: the objects of the import.

    Attributes:
        all: the groups by their names in pgmem.
        unfit: the groups whose names pgmem refuses, or another group has.
        collisions: the groups that have one name in pgmem.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.all: dict[str, GroupImport] = {}
        self.unfit: set[tuple[bytes, bytes]] = set()
        self.collisions: list[Collision] = []
        self._names: dict[str, Item] = {}

    @property
    def left_out(self) -> int:
        """The number of groups and pending entries that were left out."""
        groups = self.all.values()
        return len(self.unfit) + sum(group.lost + group.foreign for group in groups)

    def import_groups(self, stream: StreamImport, *, only_new: bool = False) -> None:
        """Import the groups of a stream, and the stream as far as they have read it.

        Args:
            stream: the stream.
            only_new: leave out groups that were imported before, because members use them.

        Raises:
            ImportConflict: another process continues a group.
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
                self._import(stream, group, found)

    def _opened(self, stream: StreamImport, found: RedisGroup) -> GroupImport | None:
        """Open a group. Return None in a dry run, where the log has no entries to refer to."""
        name = name_of(self._context, stream, found.name)
        item = Item("group", stream.key, found.name)
        first = self._names.setdefault(name, item)
        if first != item:
            collision = Collision("the group", name, first.place, item.place)
            if collision not in self.collisions:
                self.collisions.append(collision)
            raise Unfit(str(collision))
        if self._context.dry_run:
            return None
        if name not in self.all:
            self.all[name] = GroupImport(name, self._part(stream, found.name, name))
        return self.all[name]

    def _part(self, stream: StreamImport, group: bytes, name: str) -> ImportPart:
        """Open the part of a group. It stores which group of which stream it imports.

        Raises:
            Unfit: it has imported another group.
        """
        imports = self._context.imports
        part = imports.open(self._context.name, PART + name)
        detail = {**part.detail, "key": stream.name, "group": group.decode()}
        if "key" not in part.detail:
            return imports.advance(part, cursor=part.cursor, detail=detail)
        if not is_of(part, stream, group):
            known = Item("group", part.detail["key"].encode(), part.detail["group"].encode())
            raise Unfit(
                f"the group {name!r} was imported from {known.place}. Give this one another name "
                f"(--group 'KEY={{key}}/{{group}}')"
            )
        return part

    def _import(self, stream: StreamImport, group: GroupImport, found: RedisGroup) -> None:
        pending = {number(one.identity): one for one in found.pending}
        with self._context.memory.transaction() as tx:
            group.position = place_of(tx, stream, found.last)
            new = [one.identity for place, one in pending.items() if place not in group.places]
            found_now = places_of(tx, stream, new)
        group.places = {
            identity: place
            for identity, place in (group.places | found_now).items()
            if identity in pending
        }
        lost = [one for identity, one in pending.items() if identity not in group.places]
        group.lost = len(lost)
        self._context.refuse([(_item(stream, found, one), NOT_THERE) for one in lost])
        deliveries = sorted(
            ImportedDelivery(place, pending[identity].deliveries, _note(pending[identity]))
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
        """Write a group. Return False if members have read from it."""
        steps = [deliveries[at : at + STEP] for at in range(0, len(deliveries), STEP)] or [()]
        # Each step covers the positions after the last one of the step before, up to its own last.
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


def _item(stream: StreamImport, group: RedisGroup, pending: PendingEntry) -> Item:
    deliveries = b"%d" % pending.deliveries
    return Item("pending", stream.key, pending.identity, (group.name, pending.consumer, deliveries))


def _note(pending: PendingEntry) -> str:
    consumer = pending.consumer.decode(errors="backslashreplace").replace("\0", "\\x00")
    return f"pending in Redis, with {consumer[:200]}"
