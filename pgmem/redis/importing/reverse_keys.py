"""Write entries and dedupe records back to hashes, sets and strings of Redis.

Everything here is repeatable. The ends of fields are in `pgmem.redis.importing.reverse_ends`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pgmem.redis import KnownEntry, KnownRecord
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.convert import plain
from pgmem.redis.importing.passes import Step
from pgmem.redis.importing.places import Place, Places
from pgmem.redis.importing.refused import Item
from pgmem.redis.importing.reverse_ends import FieldEnd, end_fields
from pgmem.redis.importing.source import Command, Refused
from pgmem.redis.importing.stale import SWEEP
from pgmem.redis.importing.walk import Walk
from pgmem.redis.importing.way_back import WayBack


class KeysBack:
    """Write back what belongs to hashes, sets and strings.

    Args:
        context: the objects of the import.
        back: the run.
        places: the places in Redis of entries and records.
    """

    def __init__(self, context: Context, back: WayBack, places: Places) -> None:
        self._context = context
        self._back = back
        self._places = places

    def write(self) -> None:
        """Write everything back."""
        self._write_entries()
        self._delete_entries()
        self._write_records()

    def _write_entries(self) -> None:
        """Write back the entries that were changed or made in pgmem."""
        after = ""
        while found := self._context.imports.known_entries(after=after, limit=SWEEP):
            after = found[-1].key
            ends: dict[str, list[FieldEnd]] = {}
            for entry in found:
                if entry.origin is None:
                    self._write_entry(entry, ends)
            for key, some in ends.items():
                with self._back.guard(key):
                    for item, why in end_fields(self._context, self._physical(key), some):
                        self._back.written.add("without their end", 1)
                        self._context.refuse([(item, why)])

    def _write_entry(self, entry: KnownEntry, ends: dict[str, list[FieldEnd]]) -> None:
        """Write back an entry. Add the end of a field to `ends`, by key."""
        place = self._places.of_entry(entry.key)
        if place is None:
            self._leave("entry", entry.key, "no hash of Redis is known to hold it")
            return
        if not self._back.concerns(place.key):
            return
        if place.rule.whole and not isinstance(entry.value, dict):
            self._leave("entry", entry.key, "its value is not an object, as a hash needs")
            return
        with self._back.guard(place.key):
            self._send(self._commands(place, entry))
            self._back.written.add("entries", 1)
            if not place.rule.whole:
                field = (place.part or "").encode()
                ends.setdefault(place.key, []).append(FieldEnd(place.key, field, entry.ttl))

    def _commands(self, place: Place, entry: KnownEntry) -> list[Command]:
        key, values = self._physical(place.key), place.rule.values
        if not place.rule.whole:
            return [("HSET", key, (place.part or "").encode(), plain(entry.value, values))]
        commands: list[Command] = [("DEL", key)]
        for name, item in entry.value.items():
            commands.append(("HSET", key, name.encode(), plain(item, values)))
        if entry.ttl is not None and entry.value:
            commands.append(("PEXPIRE", key, _milliseconds(entry.ttl)))
        return commands

    def _delete_entries(self) -> None:
        """Delete from Redis what was imported and has been deleted in pgmem since."""
        self._back.written.add("deleted", 0)
        step = Step()
        for chunk in Walk(self._context.source, self._context.rules).chunks():
            name = chunk.key.name.decode(errors="surrogateescape")
            if chunk.key.kind == "hash" and self._back.concerns(name):
                step.take(self._context.name, chunk)
            if step.size >= SWEEP:
                self._delete_step(step)
                step = Step()
        self._delete_step(step)

    def _delete_step(self, step: Step) -> None:
        state = self._context.memory.state
        here = state.get_many([entry.key for entry, _ in step.entries])
        for entry, item in step.entries:
            # An item without a history was refused, and stays in Redis.
            if entry.key in here or not state.history(entry.key, limit=1):
                continue
            name = item.key.decode()
            key = self._physical(name)
            with self._back.guard(name):
                whole = item.kind == "hash"
                self._send([("DEL", key) if whole else ("HDEL", key, item.name)])
                self._back.written.add("deleted", 1)

    def _write_records(self) -> None:
        """Write back the records of work that was done in pgmem."""
        for record in self._new_records():
            place = self._places.of_record(record.key)
            if place is None:
                why = "no set or string of Redis is known to hold it"
                self._leave("record", record.key, why)
            elif self._back.concerns(place.key):
                with self._back.guard(place.key):
                    self._write_record(place, record)

    def _new_records(self) -> Iterator[KnownRecord]:
        after = ""
        while found := self._context.imports.known_records(after=after, limit=SWEEP):
            after = found[-1].key
            yield from (record for record in found if record.origin is None)

    def _write_record(self, place: Place, record: KnownRecord) -> None:
        key = self._physical(place.key)
        if place.rule.kind == "set":
            self._add_member(key, (place.part or "").encode(), record.ttl)
        else:
            ends = () if record.ttl is None else ("PX", _milliseconds(record.ttl))
            self._send([("SET", key, plain(record.result, place.rule.values), *ends)])
        self._back.written.add("records", 1)

    def _add_member(self, key: bytes, member: bytes, ttl: float | None) -> None:
        """Add a member to a set that ends with its last member.

        A member has no end of its own. Work that stays done for longer does no harm; work that is
        forgotten would be done twice.
        """
        left, _ = self._send([("PTTL", key), ("SADD", key, member)])
        if left == -1:
            return
        if ttl is None:
            self._send([("PERSIST", key)])
        elif _milliseconds(ttl) > left:  # -2 if there was no set
            self._send([("PEXPIRE", key, _milliseconds(ttl))])

    def _physical(self, key: str) -> bytes:
        return self._places.physical(key)

    def _send(self, commands: list[Command]) -> list[Any]:
        """Send repeatable commands for one key. Return the answers.

        Raises:
            Refused: the server refused one of them.
        """
        answers = self._context.source.many(commands, atomic=True)
        for answer in answers:
            if isinstance(answer, Refused):
                raise answer
        return answers

    def _leave(self, kind: str, key: str, why: str) -> None:
        if self._back.only is not None:
            return  # an earlier run has listed it
        self._back.written.add("left", 1)
        why = f"not written back to Redis: {why}. It is in pgmem"
        self._context.refuse([(Item(f"{kind} of pgmem", b"", key.encode()), why)])


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1_000))
