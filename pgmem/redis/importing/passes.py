"""Import the hashes, sets and strings of Redis in one pass, as entries and dedupe records.

A pass can be interrupted and continued, and repeated. It writes what is missing and what has
changed, and nothing that was written in pgmem. After a pass, `sweep` removes what is no longer in
Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pgmem.redis import ImportedEntry, ImportedRecord, ImportPart
from pgmem.redis.importing.collisions import Collision, place_of_entry, place_of_record
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import (
    Origin,
    Unfit,
    field_entry,
    member_record,
    string_record,
    text,
    whole_entry,
)
from pgmem.redis.importing.mixed import Types
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.walk import ENDED, Chunk, Walk

PART = "keys"
STEP = 2_000
"""Items in a step."""

FOREIGN_ENTRY = (
    "the entry {key!r} did not come from this key of Redis. It was written in pgmem, or came from "
    "another key, and was left as it is"
)
NO_RESULT = "the work is recorded as done without its result, because "
FOREIGN_RECORD = (
    "the idempotency key {key!r} is claimed in pgmem right now, or came from another key of Redis. "
    "It was left as it is"
)
END_OF_FIELD = (
    "the field ends by itself in Redis (HEXPIRE), and was imported without its end: it is a part "
    "of the entry {key!r}, and pgmem ends whole entries. To keep its end, make an entry of each "
    "field (--hash 'KEY={{key}}:{{field}}')"
)


@dataclass(slots=True)
class Step:
    """Items that were read and are not written yet.

    Attributes:
        entries, records: converted items.
        refused: items that are left out, with the reasons.
        notes: items that are imported, and listed because something of them is lost.
        types: counts the types of values; None to count none.
    """

    entries: list[tuple[ImportedEntry, Item]] = field(default_factory=list)
    records: list[tuple[ImportedRecord, Item]] = field(default_factory=list)
    refused: list[tuple[Item, str]] = field(default_factory=list)
    notes: list[tuple[Item, str]] = field(default_factory=list)
    types: Types | None = None

    @property
    def size(self) -> int:
        """The number of items."""
        return len(self.entries) + len(self.records) + len(self.refused)

    def take(self, source: str, chunk: Chunk) -> None:
        """Convert the contents of a key."""
        key, parts = chunk.key, chunk.parts
        if chunk.fault:
            self.refused.append((Item("key", key.name), chunk.fault))
            return
        try:
            origin = Origin(source, chunk.rule, text(key.name, "the key"))
        except Unfit as error:
            self.refused.append((Item("key", key.name, b"", parts), str(error)))
            return
        if key.kind == "string":
            self._record(Item("string", key.name, b"", parts), origin, chunk)
        elif key.kind == "set":
            for member in parts:
                self._record(Item("member", key.name, member), origin, chunk)
        elif chunk.rule.whole:
            self._whole(Item("hash", key.name, b"", parts), origin, chunk)
        else:
            for at in range(0, len(parts), 2):
                ttl = chunk.ttls[at // 2] if chunk.ttls is not None else None
                ends = [left for left in (ttl, chunk.ttl) if left is not None]
                item = Item("field", key.name, parts[at], (parts[at + 1],))
                self._field(item, origin, min(ends, default=None))

    def _whole(self, item: Item, origin: Origin, chunk: Chunk) -> None:
        try:
            entry, fields = whole_entry(origin, list(item.raw), chunk.ttl)
        except Unfit as error:
            self.refused.append((item, str(error)))
            return
        self.entries.append((entry, item))
        if self._watches(origin):
            for name, converted in fields:
                self._note("hash", origin, name, converted)
        for at, ttl in enumerate(chunk.ttls or ()):
            if ttl is not None and (chunk.ttl is None or ttl < chunk.ttl):
                field_name, raw = chunk.parts[2 * at : 2 * at + 2]
                lost = Item("end", item.key, field_name, (raw,))
                self.notes.append((lost, END_OF_FIELD.format(key=entry.key[:60])))

    def _field(self, item: Item, origin: Origin, ttl: float | None) -> None:
        try:
            entry = field_entry(origin, item.name, item.raw[0], ttl)
        except Unfit as error:
            self.refused.append((item, str(error)))
            return
        self.entries.append((entry, item))
        if self._watches(origin):
            self._note("hash", origin, item.name.decode(), entry.value)

    def _record(self, item: Item, origin: Origin, chunk: Chunk) -> None:
        try:
            if item.kind == "member":
                record = member_record(origin, item.name, chunk.ttl)
            else:
                record, why = string_record(origin, item.raw[0], chunk.ttl)
                if why:
                    self.refused.append((item, NO_RESULT + why))
                elif record.result is not None and self._watches(origin):
                    self._note("string", origin, "", record.result)
        except Unfit as error:
            self.refused.append((item, str(error)))
        else:
            self.records.append((record, item))

    def _watches(self, origin: Origin) -> bool:
        return self.types is not None and origin.rule.values == "auto"

    def _note(self, kind: str, origin: Origin, part: str, converted: bytes) -> None:
        assert self.types is not None  # noqa: S101  # _watches has said so
        self.types.note(kind, origin.key, part, converted)


T = TypeVar("T", ImportedEntry, ImportedRecord)


class Pass:
    """One pass.

    Args:
        context: the objects of the import.
        part: the part that stores its progress, as the last step returned it.
        slack: an expiry may differ by this share of the remaining time.
        adopt: equal entries that were written in pgmem belong to the import from now on.

    Attributes:
        part: the part as the last step returned it.
        first: it is the first pass and at its beginning, so nothing can be stale.
        left_out: number of items that were refused or left as they are.
        streams: the streams that the pass has found.
        types: the types of the values that were converted by `--values auto`.
        collisions: items of different places that have one name in pgmem.
    """

    def __init__(
        self, context: Context, part: ImportPart, *, slack: float = 0.0, adopt: bool = False
    ) -> None:
        self._context = context
        self._slack = slack
        self._adopt = adopt
        self.first = part.step == 0
        self.left_out = 0
        self.part = part
        self._walk = Walk(context.source, context.rules, part.cursor)
        self.streams = self._walk.streams
        self.types = Types()
        self.collisions: list[Collision] = []

    @property
    def claims(self) -> int:
        """The number of strings that are claims in progress by their value."""
        return self._walk.claims

    def run(self) -> None:
        """Run to the end."""
        for _ in self.steps():
            pass
        self._context.writer.wait()

    def steps(self) -> Iterator[int]:
        """Run step by step. Yield the number of items of each step."""
        step = Step(types=self.types)
        for chunk in self._walk.chunks():
            step.take(self._context.name, chunk)
            if step.size >= STEP:
                yield from self._write(step, self._walk.cursor)
                step = Step(types=self.types)
        yield from self._write(step, ENDED)

    def _write(self, step: Step, cursor: str) -> Iterator[int]:
        """Write a step, in several if a large hash exceeds the limit."""
        entries = [step.entries[at : at + STEP] for at in range(0, len(step.entries), STEP)]
        records = [step.records[at : at + STEP] for at in range(0, len(step.records), STEP)]
        refused = [*step.refused, *step.notes]
        for some in entries:
            self._put(some, refused)
            refused = []
            yield len(some)
        for few in records:
            self._record(few, refused)
            refused = []
            yield len(few)
        self._advance(cursor, refused)
        yield len(refused)

    def _put(
        self, given: Sequence[tuple[ImportedEntry, Item]], refused: list[tuple[Item, str]]
    ) -> None:
        context = self._context
        given = self._without_rivals("the entry", given, refused)
        batch = context.imports.check_entries([entry for entry, _ in given])
        refused = [*refused, *((given[place][1], reason) for place, reason in batch.refused)]

        def write() -> None:
            self._refuse(refused)
            self.part, kept = context.imports.put_entries(
                self.part,
                batch,
                cursor=self.part.cursor,
                done=len(given) - len(batch.refused),
                refused=len(refused),
                slack=self._slack,
                adopt=self._adopt,
            )
            items = {entry.key: item for entry, item in given}
            self._refuse(self._foreign_entries(items, kept))
            context.watcher.moved("hash", len(given) - len(batch.refused), len(refused))

        context.writer.write(write)

    def _record(
        self, given: Sequence[tuple[ImportedRecord, Item]], refused: list[tuple[Item, str]]
    ) -> None:
        context = self._context
        given = self._without_rivals("the idempotency key", given, refused)
        batch = context.imports.check_records([record for record, _ in given])
        if any(given[place][0].result is not None for place, _ in batch.refused):
            # Work that is done stays done, although its result cannot be stored.
            bad = dict(batch.refused)
            refused = [
                *refused,
                *((given[place][1], NO_RESULT + why) for place, why in bad.items()),
            ]
            given = [
                (record._replace(result=None) if place in bad else record, item)
                for place, (record, item) in enumerate(given)
            ]
            batch = context.imports.check_records([record for record, _ in given])
        refused = [*refused, *((given[place][1], reason) for place, reason in batch.refused)]

        def write() -> None:
            self._refuse(refused)
            self.part, kept = context.imports.put_records(
                self.part,
                batch,
                cursor=self.part.cursor,
                done=len(given) - len(batch.refused),
                refused=len(refused),
                slack=self._slack,
            )
            items = {record.key: item for record, item in given}
            self._refuse(self._foreign_records(items, kept))
            context.watcher.moved("record", len(given) - len(batch.refused), len(refused))

        context.writer.write(write)

    def _without_rivals(
        self, what: str, given: Sequence[tuple[T, Item]], refused: list[tuple[Item, str]]
    ) -> list[tuple[T, Item]]:
        """Return the items of a step without those whose name an item of another place has."""
        first: dict[str, Item] = {}
        kept = []
        for one, item in given:
            other = first.setdefault(one.key, item)
            if (other.key, other.name, other.kind) == (item.key, item.name, item.kind):
                kept.append((one, item))
            else:
                refused.append((item, self._collide(what, one.key, other.place, item.place)))
        return kept

    def _collide(self, what: str, name: str, first: str, second: str) -> str:
        """Keep a collision. Return the reason why the second place is left out."""
        found = Collision(what, name, first, second)
        if found not in self.collisions:
            self.collisions.append(found)
        return str(found)

    def _foreign_entries(
        self, items: dict[str, Item], kept: Sequence[str]
    ) -> Iterator[tuple[Item, str]]:
        """Yield the entries that were left as they are, with the reasons."""
        known = self._context.imports.known_entries(kept, limit=STEP) if kept else ()
        places = {one.key: place_of_entry(self._context.name, one) for one in known}
        yield from self._foreign("the entry", FOREIGN_ENTRY, items, kept, places.get)

    def _foreign_records(
        self, items: dict[str, Item], kept: Sequence[str]
    ) -> Iterator[tuple[Item, str]]:
        """Yield the records that were left as they are, with the reasons."""
        known = self._context.imports.known_records(kept, limit=STEP) if kept else ()
        places = {one.key: place_of_record(self._context, one) for one in known}
        yield from self._foreign("the idempotency key", FOREIGN_RECORD, items, kept, places.get)

    def _foreign(
        self,
        what: str,
        words: str,
        items: dict[str, Item],
        kept: Iterable[str],
        place_of: Callable[[str], str | None],
    ) -> Iterator[tuple[Item, str]]:
        for key in kept:
            item, other = items[key], place_of(key)
            if other is not None and other != item.place:
                yield item, self._collide(what, key, other, item.place)
            else:
                yield item, words.format(key=key)

    def _refuse(self, items: Iterable[tuple[Item, str]]) -> None:
        found = list(items)
        self.left_out += len(found)
        self._context.refuse(found)

    def _advance(self, cursor: str, refused: list[tuple[Item, str]]) -> None:
        context = self._context

        def write() -> None:
            self._refuse(refused)
            self.part = context.imports.advance(self.part, cursor=cursor, refused=len(refused))
            if refused:
                context.watcher.moved("key", 0, len(refused))

        context.writer.write(write)
