"""Import the hashes, sets and strings of Redis in one pass, as entries and dedupe records.

A pass can be interrupted and continued, and repeated. It writes what is missing and what has
changed, and nothing that was written in pgmem. After a pass, `sweep` removes what is no longer in
Redis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import orjson

from pgmem.errors import VersionConflict
from pgmem.redis import ImportedEntry, ImportedRecord, ImportPart, KnownEntry, KnownRecord
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
from pgmem.redis.importing.fences import fenced_name
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.source import Command
from pgmem.redis.importing.walk import ENDED, Chunk, Walk

PART = "keys"
STEP = 2_000
"""Items in a step."""
SWEEP = 1_000
"""Entries and records that are looked up in Redis in one round trip."""

FOREIGN_ENTRY = (
    "the entry {key!r} did not come from this key of Redis. It was written in pgmem, or came from "
    "another key, and was left as it is"
)
NO_RESULT = "the work is recorded as done without its result, because "
FOREIGN_RECORD = (
    "the idempotency key {key!r} is claimed in pgmem right now, or came from another key of Redis. "
    "It was left as it is"
)


@dataclass(slots=True)
class Step:
    """Items that were read and are not written yet."""

    entries: list[tuple[ImportedEntry, Item]] = field(default_factory=list)
    records: list[tuple[ImportedRecord, Item]] = field(default_factory=list)
    refused: list[tuple[Item, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The number of items."""
        return len(self.entries) + len(self.records) + len(self.refused)

    def take(self, source: str, chunk: Chunk) -> None:
        """Convert the contents of a key."""
        key, parts = chunk.key, chunk.parts
        if chunk.changed:
            why = "it was replaced by a key of another type while it was read"
            self.refused.append((Item("key", key.name), why))
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
            self._entry(Item("hash", key.name, b"", parts), origin, chunk.ttl)
        else:
            for at in range(0, len(parts), 2):
                ttl = chunk.ttls[at // 2] if chunk.ttls is not None else None
                ends = [left for left in (ttl, chunk.ttl) if left is not None]
                item = Item("field", key.name, parts[at], (parts[at + 1],))
                self._entry(item, origin, min(ends, default=None))

    def _entry(self, item: Item, origin: Origin, ttl: float | None) -> None:
        try:
            if item.kind == "hash":
                entry = whole_entry(origin, list(item.raw), ttl)
            else:
                entry = field_entry(origin, item.name, item.raw[0], ttl)
        except Unfit as error:
            self.refused.append((item, str(error)))
        else:
            self.entries.append((entry, item))

    def _record(self, item: Item, origin: Origin, chunk: Chunk) -> None:
        try:
            if item.kind == "member":
                record = member_record(origin, item.name, chunk.ttl)
            else:
                record, why = string_record(origin, item.raw[0], chunk.ttl)
                if why:
                    self.refused.append((item, NO_RESULT + why))
        except Unfit as error:
            self.refused.append((item, str(error)))
        else:
            self.records.append((record, item))


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

    def run(self) -> None:
        """Run to the end."""
        for _ in self.steps():
            pass
        self._context.writer.wait()

    def steps(self) -> Iterator[int]:
        """Run step by step. Yield the number of items of each step."""
        step = Step()
        for chunk in self._walk.chunks():
            step.take(self._context.name, chunk)
            if step.size >= STEP:
                yield from self._write(step, self._walk.cursor)
                step = Step()
        yield from self._write(step, ENDED)

    def _write(self, step: Step, cursor: str) -> Iterator[int]:
        """Write a step, in several if a large hash exceeds the limit."""
        entries = [step.entries[at : at + STEP] for at in range(0, len(step.entries), STEP)]
        records = [step.records[at : at + STEP] for at in range(0, len(step.records), STEP)]
        refused = step.refused
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
            self._refuse([(items[key], FOREIGN_ENTRY.format(key=key)) for key in kept])
            context.watcher.moved("hash", len(given) - len(batch.refused), len(refused))

        context.writer.write(write)

    def _record(
        self, given: Sequence[tuple[ImportedRecord, Item]], refused: list[tuple[Item, str]]
    ) -> None:
        context = self._context
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
            self._refuse([(items[key], FOREIGN_RECORD.format(key=key)) for key in kept])
            context.watcher.moved("record", len(given) - len(batch.refused), len(refused))

        context.writer.write(write)

    def _refuse(self, items: Sequence[tuple[Item, str]]) -> None:
        self.left_out += len(items)
        self._context.refuse(items)

    def _advance(self, cursor: str, refused: list[tuple[Item, str]]) -> None:
        context = self._context

        def write() -> None:
            self._refuse(refused)
            self.part = context.imports.advance(self.part, cursor=cursor, refused=len(refused))
            if refused:
                context.watcher.moved("key", 0, len(refused))

        context.writer.write(write)


def sweep(context: Context) -> int:
    """Remove the entries and records that came from Redis and are no longer there.

    Only unchanged items of this import are removed. Return their number.
    """
    removed = 0
    for entry in stale_entries(context):
        try:
            removed += context.memory.state.delete(entry.key, expected_version=entry.version)
        except VersionConflict:
            continue  # changed in pgmem at this moment
    for records in stale_records(context):
        removed += context.imports.delete_records(records)
    return removed


def stale_entries(context: Context) -> Iterator[KnownEntry]:
    """Yield the entries of this import that are no longer in Redis."""
    after = ""
    while found := context.imports.known_entries(after=after, limit=SWEEP):
        after = found[-1].key
        yield from _missing(context, [(entry, _place(context, entry.origin)) for entry in found])


def stale_records(context: Context) -> Iterator[list[KnownRecord]]:
    """Yield the dedupe records of this import that are no longer in Redis, in pages."""
    after = ""
    while found := context.imports.known_records(after=after, limit=SWEEP):
        after = found[-1].key
        places = []
        for record in found:
            place = _place(context, orjson.loads(record.origin) if record.origin else None)
            if place is not None and place.kind == "set":
                rule = context.rules.match("set", place.key.encode())
                member = rule.part_of(place.key, record.key) if rule is not None else None
                # Without a member, other rules have imported it.
                place = None if member is None else place._replace(part=member)
            places.append((record, place))
        yield _missing(context, places)


class _Place(NamedTuple):
    """The key that an item came from, with its field or member."""

    kind: str
    key: str
    part: str | None


def _place(context: Context, origin: dict[str, Any] | None) -> _Place | None:
    """Return the place that an item came from; None if this import did not import it."""
    where = (origin or {}).get("redis", {})
    if where.get("source") != context.name or "key" not in where:
        return None
    return _Place(where["type"], where["key"], where.get("field"))


K = TypeVar("K", KnownEntry, KnownRecord)


def _missing(context: Context, found: Sequence[tuple[K, _Place | None]]) -> list[K]:
    """Return the items that are no longer in Redis."""
    by_key: dict[tuple[str, str], list[tuple[K, _Place]]] = {}
    for known, place in found:
        if place is not None:
            by_key.setdefault((place.kind, place.key), []).append((known, place))
    commands: list[Command] = []
    for (kind, key), group in by_key.items():
        parts: list[bytes] = [place.part.encode() for _, place in group if place.part is not None]
        # A fenced key has the other name.
        names = (key.encode(), fenced_name(key.encode()))
        commands += [(_ASK[kind], name, *parts) if parts else ("TYPE", name) for name in names]
    answers = iter(context.source.many(commands))
    missing: list[K] = []
    for (kind, _), group in by_key.items():
        there = [_there(next(answers), kind, len(group)) for _ in range(2)]
        missing += [
            known
            for (known, _), one, other in zip(group, *there, strict=True)
            if not (one or other)
        ]
    return missing


_ASK = {"hash": "HMGET", "set": "SMISMEMBER"}


def _there(answer: Any, kind: str, size: int) -> list[bool]:
    """Return for each part of a key whether it exists."""
    if isinstance(answer, list):
        return [bool(part is not None and part != 0) for part in answer]
    return [answer == kind.encode()] * size
