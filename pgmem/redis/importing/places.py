"""Find the place in Redis of an entry or a dedupe record of pgmem.

An imported item has its origin in the first change of its history. For an item that was made in
pgmem, the rules are applied backwards. If several places fit, the one with the longest key counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgmem.redis.importing.context import Context
from pgmem.redis.importing.fences import locate
from pgmem.redis.importing.keys import fences_among, pages
from pgmem.redis.importing.rules import Kind, Rule


class Place(NamedTuple):
    """A key of Redis, with its field or member."""

    rule: Rule
    key: str
    part: str | None = None


class Places:
    """The places of one Redis.

    Args:
        context: the objects of the import.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._physical: dict[str, bytes] = {}
        self._known: dict[Kind, dict[str, Rule]] = {"hash": {}, "set": {}, "string": {}}
        for kind, known in self._known.items():
            for rule in context.rules.of(kind):
                if rule.literal is not None:
                    known.setdefault(rule.literal.decode(errors="replace"), rule)
        fenced: set[bytes] = set()
        for found in pages(context.source, context.rules):
            fenced |= fences_among(context.source, found)
            for key in found:
                if key.rule is not None and key.kind in self._known and not key.rule.whole:
                    self._known[key.kind][key.name.decode(errors="replace")] = key.rule
        self._know_ended(fenced)

    def _know_ended(self, fenced: set[bytes]) -> None:
        """Add hashes and sets that have ended behind their fence."""
        context = self._context
        streams = {
            part.part.removeprefix("stream ")
            for part in context.imports.list(context.name)
            if part.target is not None
        }
        kinds: tuple[Kind, ...] = ("hash", "set")
        there = {name for kind in kinds for name in self._known[kind]} | streams
        for key in fenced:
            name = key.decode(errors="replace")
            for kind in kinds:
                rule = context.rules.match(kind, key)
                if name not in there and rule is not None and not rule.whole:
                    self._known[kind][name] = rule

    def physical(self, key: str) -> bytes:
        """Return the present name of a key in Redis."""
        if key not in self._physical:
            self._physical[key] = locate(self._context.source, key.encode())
        return self._physical[key]

    def of_entry(self, name: str) -> Place | None:
        """Return the place of a state entry; None if there is none, or more than one."""
        history = self._context.memory.state.history(name, limit=1)
        origin = (history[0].metadata or {}).get("redis") if history else None
        if isinstance(origin, dict) and origin.get("source") == self._context.name:
            rule = self._context.rules.match("hash", str(origin["key"]).encode())
            return None if rule is None else Place(rule, origin["key"], origin.get("field"))
        fields = self._fitting("hash", name)
        # A whole hash may become an entry of this name.
        rule = self._context.rules.match("hash", name.encode())
        if rule is not None and rule.whole and rule.name(name) == name:
            fields.append(Place(rule, name))
        return _closest(fields)

    def of_record(self, name: str) -> Place | None:
        """Return the place of an idempotency key; None if there is none, or more than one."""
        members = self._fitting("set", name)
        if members:
            return _closest(members)
        rule = self._context.rules.match("string", name.encode())
        if rule is not None and rule.name(name) == name:
            return Place(rule, name)
        return None

    def _fitting(self, kind: Kind, name: str) -> list[Place]:
        places = []
        for key, rule in self._known[kind].items():
            if rule.whole:
                continue
            part = rule.part_of(key, name)
            if part is not None:
                places.append(Place(rule, key, part))
        return places


def _closest(places: Sequence[Place]) -> Place | None:
    """Return the place with the shortest field or member; None if there are two such."""
    lengths = [len(place.part or "") for place in places]
    least = min(lengths, default=0)
    return places[lengths.index(least)] if lengths.count(least) == 1 else None
