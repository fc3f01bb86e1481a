"""Go back to Redis (`--reverse`): write back what was written in pgmem since the cut-over.

1. Enter the phase "reversing". The writers to pgmem have stopped.
2. Write events that Redis does not have, in the order of the log (XADD).
3. Write entries that were changed, made or deleted (HSET, HDEL).
4. Write work that was done (SADD, SET).
5. Write groups (XACK what was acknowledged, XCLAIM what was not, XGROUP SETID).
6. Store the last id of each stream, so that what was written back is not imported again.
7. Revoke the deliveries that members in pgmem still hold.
8. Remove the fences: every key gets its old name back, with all its data.
9. Enter the phase "importing". The old writers write to Redis. A new cut-over is possible.

If the process is killed, run it again and it continues. A script writes events together with their
position, which is stored in Redis, so no event is written twice. What has no place in Redis (an
entry that no rule names, a stream that Redis never had) stays in pgmem and is listed in the file of
refused items.
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
from pgmem.redis.importing.keys import pages
from pgmem.redis.importing.passes import SWEEP, Step
from pgmem.redis.importing.places import Places
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.reverse_groups import release, write_groups
from pgmem.redis.importing.run import Import, enter, set_phase
from pgmem.redis.importing.source import Command, Refused
from pgmem.redis.importing.streams import StreamImport
from pgmem.redis.importing.walk import Walk

PAGE = 500
"""Events in one script. Redis does nothing else while it runs."""

# ARGV: a field, its expected position, the new one, then the commands, each after its length.
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
    """Numbers of items that were written back, by kind. `left` counts those that were not."""

    def add(self, kind: str, count: int) -> None:
        """Count items of a kind."""
        self[kind] = self.get(kind, 0) + count


def reverse(importer: Import) -> Written:
    """Go back to Redis.

    Raises:
        ImportConflict: it has not been cut over, or another process writes back too.
        SourceError: a fence is gone, or Redis refuses a command.
    """
    context = importer.context
    written = Written()
    part = enter(context, "reversing")
    # Before the first cut-over has ended, no agent writes to pgmem, and Redis has everything.
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
        fence(context.source, key.encode(), f"by the import {context.name!r}, which is going back")
    importer.open_streams(
        {
            key.encode(): rule
            for key in _streams(context)
            if (rule := context.rules.match("stream", key.encode())) is not None
        }
    )
    if not drained:  # otherwise an earlier run has written the new entries
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
    # Equal items belong to the import again, because the old writers may change them.
    importer.new_pass(adopt=True).run()


def _streams(context: Context) -> list[str]:
    """Return the imported streams, including those that are no longer in Redis."""
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
            raise SourceError(f"cannot write back to {stream.name!r}: {error.reason}") from None
        # If it is sent again after a lost answer, it finds its own position.
        if reached != last:
            raise ImportConflict(
                f"another process writes back to {stream.name!r} of Redis too. Only one may. Run "
                f"this again when that one has ended"
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
    """Write back the entries that were changed or made in pgmem."""
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
        _leave(context, written, "entry", entry.key, "its value is not an object, as a hash needs")
        return
    _send(context, commands)
    written.add("entries", 1)


def _send(context: Context, commands: Sequence[Command]) -> None:
    """Send repeatable commands."""
    for answer in context.source.many(commands, atomic=True):
        if isinstance(answer, Refused):
            raise answer


def _delete_entries(context: Context, places: Places) -> int:
    """Delete from Redis what was imported and has been deleted in pgmem since."""
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
        # An item without a history was refused, and stays in Redis.
        if entry.key in here or not context.memory.state.history(entry.key, limit=1):
            continue
        key = places.physical(item.key.decode())
        commands.append(("DEL", key) if item.kind == "hash" else ("HDEL", key, item.name))
    _send(context, commands)
    return len(commands)


def _write_records(context: Context, places: Places, written: Written) -> None:
    """Write back the records of work that was done in pgmem."""
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
