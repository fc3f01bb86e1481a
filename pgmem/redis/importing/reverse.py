"""The way back (`--reverse`): what was written in pgmem since the cut-over goes to Redis.

::

    1  reversing   the writers to pgmem have stopped
    2              events that Redis has not: XADD, in the order of the log
    3              entries that were changed, made or deleted: HSET, HDEL
    4              work that was done: SADD, SET
    5              groups: XACK what was done, XCLAIM what was not, XGROUP SETID
    6              each stream's last id is noted: what was written back is not imported again
    7              what members in pgmem still hold is taken from them
    8              unfencing: every key gets its old name back, with all that it had
    9  importing   the old writers write to Redis, as before; one may follow and cut over again

Killed anywhere, it is run again and goes on. Events are written by a script that also keeps, in
Redis, the position up to which they are there: never twice. What has no place in Redis (an entry
that no rule names, a stream that Redis never had) stays in pgmem and is listed with what is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from pgmem import RecordedEvent
from pgmem.redis import KnownEntry, KnownRecord
from pgmem.redis.errors import ImportConflict, SourceError
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import entry_fields, plain
from pgmem.redis.importing.fences import SUFFIX, WRITTEN_BACK, fence, is_fenced, unfence
from pgmem.redis.importing.groups_back import release, write_groups
from pgmem.redis.importing.keys import pages
from pgmem.redis.importing.passes import SWEEP, Step
from pgmem.redis.importing.places import Places
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.run import Import, enter, set_phase
from pgmem.redis.importing.source import Command, Refused
from pgmem.redis.importing.streams import StreamImport
from pgmem.redis.importing.walk import Walk

PAGE = 500
"""Events in one script: Redis does nothing else while it runs."""

# ARGV: the position that must be there, the new one, then the commands, each behind its length.
_WRITE = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '0') ~= ARGV[2] then
  return redis.call('HGET', KEYS[1], ARGV[1])
end
local at = 4
while at <= #ARGV do
  local command = {}
  for n = 1, tonumber(ARGV[at]) do
    command[n] = ARGV[at + n]
  end
  at = at + #command + 1
  redis.call(unpack(command))
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
"""


class Written(dict[str, int]):
    """How much was written back, by kind; `left` was not."""

    def add(self, kind: str, count: int) -> None:
        """Count."""
        self[kind] = self.get(kind, 0) + count


def reverse(importer: Import) -> Written:
    """Go back to Redis.

    Raises:
        ImportConflict: it has not been cut over, or another process writes back, too.
        SourceError: a fence is gone, or Redis refuses something.
    """
    context = importer.context
    written = Written()
    part = enter(context, "reversing")
    # Before a cut-over has ended once, nobody writes to pgmem, and Redis has everything.
    over = part.detail.get("over", False)
    if over and not part.detail.get("unfencing"):
        _write_back(importer, written, drained=part.detail.get("drained", False))
        set_phase(context, "reversing", unfencing=True)
    if over:
        release(context)
    context.watcher.say("giving every key its old name back")
    for found in pages(context.source, context.rules):
        for key in found:
            if key.physical.endswith(SUFFIX) or is_fenced(context.source, key.physical):
                unfence(context.source, key.name)
    set_phase(context, "importing", drained=False, unfencing=False, over=False)
    return written


def _write_back(importer: Import, written: Written, *, drained: bool) -> None:
    context = importer.context
    importer.survey()
    for key in _streams(context):
        fence(context.source, key.encode(), f"by the import {context.name!r}, on its way back")
    importer.open_streams(
        {
            key.encode(): rule
            for key in _streams(context)
            if (rule := context.rules.match("stream", key.encode())) is not None
        }
    )
    if not drained:  # else what the streams have got since, a killed run of ours has written
        importer.drain_streams()
        set_phase(context, "reversing", drained=True)
    for stream in importer.streams.values():
        written.add("events", sum(_write_stream(context, stream)))
    places = Places(context)
    _write_entries(context, places, written)
    written.add("deleted", _delete_entries(context, places))
    _write_records(context, places, written)
    for stream in importer.streams.values():
        groups, lost = write_groups(context, stream)
        if groups:
            written.add("groups", groups)
        if lost:
            written.add("left", lost)
    for stream in importer.streams.values():
        stream.skip_to_end()
    # What is the same on both sides is the import's again: the old writers may change it.
    importer.new_pass(adopt=True).run()


def _streams(context: Context) -> list[str]:
    """The streams that were brought in, also those that are not in Redis any more."""
    parts = context.imports.list(context.name)
    return [part.part.removeprefix("stream ") for part in parts if part.target is not None]


def _write_stream(context: Context, stream: StreamImport) -> Iterator[int]:
    """Write back the events of one stream that did not come from Redis."""
    marker, name = WRITTEN_BACK + context.name.encode(), stream.key
    stored = context.source.call("HGET", marker, name) or b"0"
    names = stream.part.detail.get("names", [])
    for events in _pages(_not_imported(context, stream, int(stored))):
        stream.begin_writing_back()
        last = b"%d" % events[-1].position
        arguments = [name, stored, last]
        for event in events:
            fields = entry_fields(event, names)
            identity = stream.written_id(event.position)
            command = [b"XADD", stream.physical, identity.encode()]
            for field, text in fields.items():
                command += [field.encode(), text]
            arguments += [b"%d" % len(command), *command]
        try:
            reached = context.source.script(_WRITE, [marker], *arguments)
        except Refused as error:
            raise SourceError(f"writing back to {stream.name!r} of Redis: {error.reason}") from None
        # Sent again after a lost answer, it finds its own position there.
        if reached != last:
            raise ImportConflict(
                f"writing back to {stream.name!r} of Redis: another process does, too: only one "
                f"may. Run this again when that one has ended"
            )
        stored = last
        context.watcher.moved("event", len(events), 0)
        yield len(events)


def _not_imported(context: Context, stream: StreamImport, after: int) -> Iterator[RecordedEvent]:
    while events := context.memory.events.read(stream.part.target, after=after, limit=2_000):
        after = events[-1].position
        for event in events:
            origin = (event.metadata or {}).get("redis")
            if not (isinstance(origin, dict) and "id" in origin):
                yield event


def _pages(events: Iterator[RecordedEvent]) -> Iterator[list[RecordedEvent]]:
    while page := list(islice(events, PAGE)):
        yield page


def _write_entries(context: Context, places: Places, written: Written) -> None:
    """Write back the entries that are not as an import brought them."""
    after = ""
    while found := context.imports.known_entries(after=after, limit=SWEEP):
        after = found[-1].key
        for entry in found:
            if entry.origin is None:
                _write_entry(context, places, entry, written)


def _write_entry(context: Context, places: Places, entry: KnownEntry, written: Written) -> None:
    place = places.of_entry(entry.key)
    if place is None:
        _leave(context, written, "entry", entry.key, "no hash of Redis is known to hold it")
        return
    key, rule = places.physical(place.key), place.rule
    ends = max(1, int((entry.ttl or 0) * 1_000))
    if not rule.whole:
        field = (place.part or "").encode()
        commands: list[Command] = [("HSET", key, field, plain(entry.value, rule.values))]
        if entry.ttl is not None:
            commands.append(("HPEXPIRE", key, ends, "FIELDS", 1, field))
    elif isinstance(entry.value, dict):
        commands = [("DEL", key)]
        for name, item in entry.value.items():
            commands.append(("HSET", key, name.encode(), plain(item, rule.values)))
        if entry.ttl is not None:
            commands.append(("PEXPIRE", key, ends))
    else:
        _leave(context, written, "entry", entry.key, "its value is no object, as a hash is")
        return
    _send(context, commands)
    written.add("entries", 1)


def _send(context: Context, commands: Sequence[Command]) -> None:
    """Send commands that may be sent again."""
    for answer in context.source.many(commands, atomic=True):
        if isinstance(answer, Refused):
            raise answer


def _delete_entries(context: Context, places: Places) -> int:
    """Delete from Redis what was brought in and has been deleted in pgmem since."""
    count, step = 0, Step()
    for chunk in Walk(context.source, context.rules).chunks():
        if chunk.key.kind == "hash":
            step.take(context.name, chunk)
        if step.size >= SWEEP:
            count += _delete_step(context, places, step)
            step = Step()
    return count + _delete_step(context, places, step)


def _delete_step(context: Context, places: Places, step: Step) -> int:
    here = context.memory.state.get_many([entry.key for entry, _ in step.entries])
    commands: list[Command] = []
    for entry, item in step.entries:
        # What was never here was refused: it stays in Redis.
        if entry.key in here or not context.memory.state.history(entry.key, limit=1):
            continue
        key = places.physical(item.key.decode())
        commands.append(("DEL", key) if item.kind == "hash" else ("HDEL", key, item.name))
    _send(context, commands)
    return len(commands)


def _write_records(context: Context, places: Places, written: Written) -> None:
    """Write back which work was done in pgmem."""
    after = ""
    while found := context.imports.known_records(after=after, limit=SWEEP):
        after = found[-1].key
        for record in found:
            if record.origin is None:
                _write_record(context, places, record, written)


def _write_record(context: Context, places: Places, record: KnownRecord, written: Written) -> None:
    place = places.of_record(record.key)
    if place is None:
        why = "no set or string of Redis is known to hold it"
        _leave(context, written, "record", record.key, why)
        return
    key = places.physical(place.key)
    if place.rule.kind == "set":
        commands: list[Command] = [("SADD", key, (place.part or "").encode())]
    else:
        ends = () if record.ttl is None else ("PX", max(1, int(record.ttl * 1_000)))
        commands = [("SET", key, plain(record.result, place.rule.values), *ends)]
    _send(context, commands)
    written.add("records", 1)


def _leave(context: Context, written: Written, kind: str, key: str, why: str) -> None:
    written.add("left", 1)
    why = f"not written back to Redis: {why}. It is in pgmem"
    context.refuse([(Item(f"{kind} of pgmem", b"", key.encode()), why)])
