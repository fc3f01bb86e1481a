"""Compare both sides (`--verify`): counts and contents, key by key, in pages.

Allowed differences are counted apart: refused items (they are in the file), entries that Redis has
trimmed since, and items that were changed in pgmem since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from pgmem import RecordedEvent
from pgmem.redis import ImportedEntry, ImportedEvent, ImportedRecord
from pgmem.redis.importing.collisions import place_of_entry, place_of_record
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import Streams, Unfit
from pgmem.redis.importing.groups import PART as GROUP_PART
from pgmem.redis.importing.groups import (
    RedisGroup,
    group_info,
    groups_of,
    is_of,
    known_deliveries,
    name_of,
    place_of,
    places_of,
)
from pgmem.redis.importing.keys import shown
from pgmem.redis.importing.passes import STEP, Step
from pgmem.redis.importing.positions import number
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.run import Import
from pgmem.redis.importing.source import KeyFault, key_error
from pgmem.redis.importing.stale import stale_entries, stale_records
from pgmem.redis.importing.streams import Entry, StreamImport
from pgmem.redis.importing.walk import Walk

PAGE = 2_000
EXAMPLES = 10
SLACK = 0.06
"""The share of its remaining time by which an expiry may differ; see `follow.SLACK`."""
SLACK_SECONDS = 5.0


@dataclass(slots=True)
class Comparison:
    """The numbers of items by the result of the comparison.

    Attributes:
        same: equal on both sides.
        refused: refused, or imported without their end, and listed in the file.
        written_back: entries of Redis that came from pgmem.
        only_here: trimmed or deleted in Redis since.
        changed_here: changed in pgmem since.
        missing: in Redis, and not in pgmem.
        different: different on both sides.
        disordered: events after one with a higher id, or repeated.
        examples: texts about some of the last three.
    """

    same: int = 0
    refused: int = 0
    written_back: int = 0
    only_here: int = 0
    changed_here: int = 0
    missing: int = 0
    different: int = 0
    disordered: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True if pgmem has everything that Redis has, with equal contents."""
        return not (self.missing or self.different or self.disordered)

    def fault(self, kind: str, words: str) -> None:
        """Count a fault."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {words}")


def compare(importer: Import) -> Comparison:
    """Compare all imported items, up to the last entries that were read."""
    found = Comparison()
    for stream in importer.streams.values():
        try:
            _compare_stream(importer.context, stream, found)
            if not importer.groups_in_use:
                _compare_groups(importer.context, stream, found)
        except KeyFault as error:
            found.fault("missing", str(error))
        found.refused += stream.ends
    _compare_keys(importer.context, found)
    return found


def _compare_stream(context: Context, stream: StreamImport, found: Comparison) -> None:
    if not stream.part.cursor or stream.part.target is None:
        return
    here = _imported(context, stream.part.target)
    there = _entries(context, stream)
    converter = Streams(stream.rule.values)
    event, entry = next(here, None), next(there, None)
    before = (-1, -1)
    while event is not None or entry is not None:
        ours = number(_id(event)) if event is not None else None
        theirs = number(entry[0]) if entry is not None else None
        if ours is not None and ours <= before:
            found.fault("disordered", f"{stream.name} {_id(event)}")
        if event is not None and (theirs is None or (ours is not None and ours < theirs)):
            found.only_here += 1
            before, event = number(_id(event)), next(here, None)
            continue
        assert entry is not None  # noqa: S101  # one of the two exists
        given = _converted(converter, entry)
        if ours == theirs and event is not None:
            if given is not None and _same_event(given, event):
                found.same += 1
            else:
                found.fault("different", f"{stream.name} {_id(event)}")
            before, event = number(_id(event)), next(here, None)
        elif _was_skipped(stream, number(entry[0])):
            found.written_back += 1
        elif given is None or context.imports.check_events([given]).refused:
            found.refused += 1
        else:
            found.fault("missing", f"{stream.name} {entry[0].decode()}")
        entry = next(there, None)
        if (found.same + found.refused) % PAGE == 0:
            context.watcher.compared(found.same + found.refused)


def _was_skipped(stream: StreamImport, identity: tuple[int, int]) -> bool:
    """Return True if the import wrote an entry to Redis."""
    return any(
        number(after) < identity <= number(until)
        for after, until in stream.part.detail.get("skipped", ())
    )


def _imported(context: Context, target: str) -> Iterator[RecordedEvent]:
    after = 0
    while events := context.memory.events.read(target, after=after, limit=PAGE):
        after = events[-1].position
        yield from (event for event in events if _id(event))


def _id(event: RecordedEvent | None) -> str:
    """Return the id that an event had in Redis; "" if it has none."""
    origin = (event.metadata or {}).get("redis") if event is not None else None
    return str(origin.get("id", "")) if isinstance(origin, dict) else ""


def _entries(context: Context, stream: StreamImport) -> Iterator[Entry]:
    """Yield the entries in Redis, up to the last one that was read."""
    after, until = "-", stream.part.cursor
    while True:
        with key_error(stream.name):
            command = ("XRANGE", stream.physical, after, until, "COUNT", PAGE)
            page = context.source.call(*command)
        yield from ((entry[0], entry[1]) for entry in page)
        if len(page) < PAGE:
            return
        after = f"({page[-1][0].decode()}"


def _converted(converter: Streams, entry: Entry) -> ImportedEvent | None:
    try:
        return converter.event(*entry)
    except Unfit:
        return None


def _same_event(given: ImportedEvent, event: RecordedEvent) -> bool:
    return (
        given.type == event.type
        and given.agent_id == event.agent_id
        and _is(given.payload, event.payload)
        and _is(given.metadata or b"null", event.metadata)
    )


def _is(text: bytes, value: Any) -> bool:
    try:
        return bool(orjson.loads(text) == value)
    except ValueError:
        return False


def _compare_groups(context: Context, stream: StreamImport, found: Comparison) -> None:
    if stream.part.target is None:
        return
    for group in groups_of(context.source, stream):
        try:
            name = name_of(context, stream, group.name)
        except Unfit:
            found.refused += 1
            continue
        part = context.imports.get(context.name, GROUP_PART + name)
        if part is not None and not is_of(part, stream, group.name):
            found.refused += 1  # another group has the name
            continue
        _compare_group(context, stream, group, name, found)


def _compare_group(
    context: Context, stream: StreamImport, group: RedisGroup, name: str, found: Comparison
) -> None:
    """Compare a group. Its position and each pending entry count as items."""
    info = group_info(context, name)
    if info is None:
        found.fault("missing", f"the group {name}")
        return
    with context.memory.transaction() as tx:
        position = place_of(tx, stream, group.last)
        places = places_of(tx, stream, [pending.identity for pending in group.pending])
    here = {known.position: known for known in known_deliveries(context, name)}
    part = context.imports.get(context.name, GROUP_PART + name)
    filled = part.detail.get("position") if part is not None else None
    if info.position != filled or not all(known.delayed for known in here.values()):
        found.changed_here += 1
        return
    if info.position == position:
        found.same += 1
    else:
        found.fault("different", f"the position of the group {name}")
    for pending in group.pending:
        place = places.get(number(pending.identity))
        known = here.pop(place, None) if place is not None else None
        words = f"{pending.identity.decode()} of the group {name}"
        if place is None:
            found.refused += 1
        elif known is None:
            found.fault("missing", words)
        elif known.attempts == pending.deliveries:
            found.same += 1
        else:
            found.fault("different", words)
    for place in here:
        found.fault("different", f"position {place} of the group {name} is not pending in Redis")


def _compare_keys(context: Context, found: Comparison) -> None:
    step = Step()
    for chunk in Walk(context.source, context.rules).chunks():
        step.take(context.name, chunk)
        if step.size >= STEP:
            _compare_step(context, step, found)
            step = Step()
    _compare_step(context, step, found)
    found.only_here += sum(1 for _ in stale_entries(context))
    found.only_here += sum(len(records) for records in stale_records(context))


def _compare_step(context: Context, step: Step, found: Comparison) -> None:
    found.refused += len(step.refused) + len(step.notes)
    for at in range(0, len(step.entries), STEP):
        _compare_entries(context, step.entries[at : at + STEP], found)
    for at in range(0, len(step.records), STEP):
        _compare_records(context, step.records[at : at + STEP], found)
    context.watcher.compared(found.same + found.refused)


def _compare_entries(
    context: Context, given: Sequence[tuple[ImportedEntry, Item]], found: Comparison
) -> None:
    batch = context.imports.check_entries([entry for entry, _ in given])
    refused = {place for place, _ in batch.refused}
    found.refused += len(refused)
    kept = [pair for place, pair in enumerate(given) if place not in refused]
    keys = [entry.key for entry, _ in kept]
    known = {entry.key: entry for entry in context.imports.known_entries(keys, limit=STEP)}
    for entry, item in kept:
        there = known.get(entry.key)
        if there is None:
            found.fault("missing", f"{shown(item.key)} {shown(item.name)}")
        elif _is(entry.value, there.value) and _same_expiry(entry.ttl, there.ttl):
            found.same += 1
        elif there.origin is None:
            found.changed_here += 1
        elif place_of_entry(context.name, there) not in (None, item.place):
            found.refused += 1  # another key has the name
        else:
            found.fault("different", f"{shown(item.key)} {shown(item.name)}")


def _compare_records(
    context: Context, given: Sequence[tuple[ImportedRecord, Item]], found: Comparison
) -> None:
    batch = context.imports.check_records([record for record, _ in given])
    refused = {place for place, _ in batch.refused}
    found.refused += len(refused)
    kept = [pair for place, pair in enumerate(given) if place not in refused]
    keys = [record.key for record, _ in kept]
    known = {record.key: record for record in context.imports.known_records(keys, limit=STEP)}
    for record, item in kept:
        there = known.get(record.key)
        if there is None:
            found.fault("missing", f"{shown(item.key)} {shown(item.name)}")
        elif there.origin is None:
            found.changed_here += 1
        elif _is(record.result or b"null", there.result) and _same_expiry(record.ttl, there.ttl):
            found.same += 1
        elif place_of_record(context, there) not in (None, item.place):
            found.refused += 1  # another key has the name
        else:
            found.fault("different", f"{shown(item.key)} {shown(item.name)}")


def _same_expiry(there: float | None, here: float | None) -> bool:
    """Return True if two expiries are about the same."""
    if there is None or here is None:
        return there is here
    return abs(there - here) <= max(SLACK_SECONDS, SLACK * there)
