"""Go back to Redis (`--reverse`): write back what was written in pgmem since the cut-over.

1. Enter the phase "reversing". The writers to pgmem have stopped.
2. Write events that Redis does not have, in the order of the log (XADD).
3. Write entries that were changed, made or deleted (HSET, HDEL), with their ends.
4. Write work that was done (SADD, SET).
5. Write groups (XACK what was acknowledged, XCLAIM what was not, XGROUP SETID).
6. Store the last id of each stream, so that what was written back is not imported again.
7. Revoke the deliveries that members in pgmem still hold.
8. Remove the fences: every key gets its old name back, with all its data.
9. Enter the phase "importing". The old writers write to Redis. A new cut-over is possible.

A key that Redis refuses is blocked: it stays fenced, and is listed with the reason. All others go
back. The next run tries the blocked keys alone, because old writers may use the others again, and
`--except KEY` gives one up.

If the process is killed, run it again and it continues. A script writes events together with their
position, which is stored in Redis, so no event is written twice. What has no place in Redis (an
entry that no rule names, a stream that Redis never had) stays in pgmem and is listed in the file of
refused items.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pgmem import RecordedEvent
from pgmem.redis import ImportPart
from pgmem.redis.errors import ImportConflict
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import entry_fields
from pgmem.redis.importing.fences import SUFFIX, WRITTEN_BACK, fence, is_fenced, unfence
from pgmem.redis.importing.keys import pages
from pgmem.redis.importing.places import Places
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.reverse_groups import release, write_groups
from pgmem.redis.importing.reverse_keys import KeysBack
from pgmem.redis.importing.run import PHASE_PART, Import, enter, set_phase
from pgmem.redis.importing.source import KeyFault, Refused
from pgmem.redis.importing.streams import StreamImport
from pgmem.redis.importing.way_back import WayBack, Written

PAGE = 500
"""Events in one script. Redis does nothing else while it runs."""

END_OF_STREAM = (
    "the stream had an end in Redis (EXPIRE) and has none now: it had ended there, and was made "
    "anew with the events that were written in pgmem since"
)

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


def reverse(importer: Import) -> Written:
    """Go back to Redis. What is written back, left or blocked is counted.

    Raises:
        ImportConflict: it has not been cut over, or another process writes back too.
        SourceError: the server does not let this user do it.
    """
    context = importer.context
    importer.check_rights("reverse")
    known = context.imports.get(context.name, PHASE_PART)
    # What the cut-over has left out was never fenced, and old writers use it.
    context.rules.except_also((known.detail if known is not None else {}).get("excepted", ()))
    part = enter(context, "reversing")
    detail = part.detail
    again = bool(detail.get("unfencing"))
    back = WayBack(context, detail.get("blocked", ()) if again else None)
    # Before the first cut-over has ended, no agent writes to pgmem, and Redis has everything.
    over = detail.get("over", False)
    if over and back.only != set():
        _write_back(importer, back, drained=detail.get("drained", False))
    set_phase(context, "reversing", unfencing=True, blocked=back.stored)
    if over:
        release(context, back.blocked)
    context.watcher.say("giving every key its old name back")
    _unfence_all(context, back)
    back.list_blocked()
    if back.blocked:
        set_phase(context, "reversing", blocked=back.stored)
    else:
        done = {"drained": False, "unfencing": False, "over": False, "blocked": [], "excepted": []}
        set_phase(context, "importing", **done)
    return back.written


def _unfence_all(context: Context, back: WayBack) -> None:
    for found in pages(context.source, context.rules):
        for key in found:
            name = key.name.decode(errors="surrogateescape")
            if context.rules.is_excepted(key.name) or name in back.blocked:
                continue
            if key.physical.endswith(SUFFIX) or is_fenced(context.source, key.physical):
                with back.guard(name):
                    unfence(context.source, key.name)


def _write_back(importer: Import, back: WayBack, *, drained: bool) -> None:
    context = importer.context
    streams = [part for part in _streams(context) if back.concerns(_key(part))]
    words = f"by the import {context.name!r}, which is going back"
    for part in streams:
        with back.guard(_key(part)):
            fence(context.source, _key(part).encode(), "stream", words)
    keys = [_key(part).encode() for part in streams if _key(part) not in back.blocked]
    rules = {key: context.rules.match("stream", key) for key in keys}
    importer.open_streams({key: rule for key, rule in rules.items() if rule is not None})
    if not drained or back.only:  # otherwise an earlier run has written the new entries
        back.each(importer.streams, StreamImport.drain)
        context.writer.wait()
        if back.only is None:
            set_phase(context, "reversing", drained=True)
    back.each(importer.streams, lambda stream: _write_stream(context, back, stream))
    KeysBack(context, back, Places(context)).write()
    back.each(importer.streams, lambda stream: _write_groups(context, back, stream))
    back.each(importer.streams, StreamImport.skip_to_end)
    # Equal items belong to the import again, because the old writers may change them.
    importer.new_pass(adopt=True).run()


def _streams(context: Context) -> list[ImportPart]:
    """Return the parts of the imported streams, including those that are no longer in Redis."""
    parts = [part for part in context.imports.list(context.name) if part.target is not None]
    return [part for part in parts if not context.rules.is_excepted(_key(part).encode())]


def _key(part: ImportPart) -> str:
    return part.part.removeprefix("stream ")


def _write_groups(context: Context, back: WayBack, stream: StreamImport) -> None:
    groups, lost = write_groups(context, stream)
    if groups:
        back.written.add("groups", groups)
    if lost:
        back.written.add("left", lost)


def _write_stream(context: Context, back: WayBack, stream: StreamImport) -> None:
    """Write back the events of one stream that did not come from Redis."""
    marker, name = WRITTEN_BACK + context.name.encode(), stream.key
    stored = context.source.call("HGET", marker, name) or b"0"
    names = stream.part.detail.get("names", [])
    anew = stream.part.detail.get("ends", False) and not context.source.call(
        "EXISTS", stream.physical
    )
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
            raise KeyFault(f"cannot write back to {stream.name!r}: {error.reason}") from None
        # If it is sent again after a lost answer, it finds its own position.
        if reached != last:
            raise ImportConflict(
                f"another process writes back to {stream.name!r} of Redis too. Only one may. Run "
                f"this again when that one has ended"
            )
        if anew:
            context.refuse([(Item("end", stream.key), END_OF_STREAM)])
            anew = False
        stored = last
        context.watcher.moved("event", len(events), 0)
        back.written.add("events", len(events))


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
