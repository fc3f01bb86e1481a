"""Find and remove the entries and records of an import that are no longer in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import orjson

from pgmem.errors import VersionConflict
from pgmem.redis import KnownEntry, KnownRecord
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.fences import fenced_name
from pgmem.redis.importing.source import Command, Refused

SWEEP = 1_000
"""Entries and records that are looked up in Redis in one round trip."""


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
            elif place is not None and context.rules.is_claim(place.key.encode()):
                place = place._replace(kind="claim")  # no longer said to be finished work
            places.append((record, place))
        yield _missing(context, places)


class _Place(NamedTuple):
    """The key that an item came from, with its field or member."""

    kind: str
    key: str
    part: str | None


def _place(context: Context, origin: dict[str, Any] | None) -> _Place | None:
    """Return the place that an item came from; None if this import did not import it.

    Keys that are left out have no place: nothing of them is compared or removed.
    """
    where = (origin or {}).get("redis", {})
    if where.get("source") != context.name or "key" not in where:
        return None
    if context.rules.is_excepted(where["key"].encode()):
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
        commands += [
            (_ASK[kind], name, *parts) if parts else ("TYPE", name) for name in _names(context, key)
        ]
    answers = iter(context.source.many(commands))
    missing: list[K] = []
    for (kind, key), group in by_key.items():
        own, *fenced = [next(answers) for _ in _names(context, key)]
        there = _there(own, kind, len(group))
        for answer in fenced:
            # A user with the right to the key alone learns enough from it, if it is no fence.
            if not (isinstance(answer, Refused) and answer.denied_key) or isinstance(own, Refused):
                other = _there(answer, kind, len(group))
                there = [one or two for one, two in zip(there, other, strict=True)]
        missing += [
            known for (known, _), is_there in zip(group, there, strict=True) if not is_there
        ]
    return missing


def _names(context: Context, key: str) -> list[bytes]:
    """Return the names that a key may have. A fenced one has the other."""
    name = key.encode()
    return [name] if context.source.cluster else [name, fenced_name(name)]


_ASK = {"hash": "HMGET", "set": "SMISMEMBER"}


def _there(answer: Any, kind: str, size: int) -> list[bool]:
    """Return for each part of a key whether it exists. What may not be read may exist."""
    if isinstance(answer, Refused) and not answer.reason.startswith("WRONGTYPE"):
        return [True] * size
    if isinstance(answer, list):
        return [bool(part is not None and part != 0) for part in answer]
    return [answer == kind.encode()] * size
