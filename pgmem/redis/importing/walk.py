"""Read the contents of all hashes, sets and strings of a Redis, in a walk that can be resumed.

SCAN, HSCAN and SSCAN return everything that exists during the whole walk, some of it twice. Items
that are added or removed meanwhile may or may not be returned. Cursors are valid for one server
process; with another one the walk begins again. So the import of an item must be repeatable.

Small keys are read whole, large ones page by page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pgmem.redis.importing.fences import FENCE
from pgmem.redis.importing.keys import Key, page
from pgmem.redis.importing.rules import UNREADABLE, Rule, Rules
from pgmem.redis.importing.source import RedisSource, Refused

LARGE = 1_000
"""Keys with more fields or members are read page by page."""
FOR_EVER = 100 * 366 * 86_400_000
"""Milliseconds. A longer TTL counts as none, because pgmem limits the TTL."""
AT_ONCE = 5_000
"""Maximum number of fields and members in one round trip."""

MAY_NOT_READ = "this user may not read it, so it was not imported"
REPLACED = "it was replaced by a key of another type while it was read"

_READ = {"hash": "HGETALL", "set": "SMEMBERS", "string": "GET"}
_SCAN = {"hash": "HSCAN", "set": "SSCAN"}
_SIZE = {"hash": "HLEN", "set": "SCARD", "string": "STRLEN"}


class Chunk(NamedTuple):
    """Some of the contents of a key.

    Attributes:
        key: the key.
        rule: its rule.
        parts: alternating names and values of a hash, members of a set, or the value of a string.
        ttl: seconds until the key expires; None for ever.
        ttls: the same for each field of a hash, if fields have a TTL.
        fault: why nothing was read; "" if it was.
    """

    key: Key
    rule: Rule
    parts: Sequence[bytes]
    ttl: float | None
    ttls: Sequence[float | None] | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a walk.

    Attributes:
        server: the server process that the cursors belong to.
        scan: the cursor of the present page of keys.
        past: large keys of the page that have been read.
        key: the large key that is being read.
        inner: the cursor in that key.
    """

    server: str = ""
    scan: int = 0
    past: tuple[bytes, ...] = ()
    key: bytes = b""
    inner: int = 0

    @classmethod
    def parse(cls, cursor: str) -> Place:
        """Parse a stored cursor. An empty one is the beginning."""
        if not cursor.startswith("{"):
            return cls()
        found: dict[str, Any] = json.loads(cursor)
        past = tuple(key.encode("latin-1") for key in found["past"])
        return cls(
            found["server"], found["scan"], past, found["key"].encode("latin-1"), found["inner"]
        )

    def __str__(self) -> str:
        names = [key.decode("latin-1") for key in self.past]
        return json.dumps(
            {
                "server": self.server,
                "scan": self.scan,
                "past": names,
                "key": self.key.decode("latin-1"),
                "inner": self.inner,
            }
        )


ENDED = "ended"
"""The cursor of a walk that has ended. The next one begins again."""


@dataclass(slots=True)
class Walk:
    """One walk over the keys.

    Attributes:
        source: the Redis.
        rules: the keys to read.
        cursor: the place to continue from, once everything so far is imported.
        streams: the streams that the walk has found.
        claims: number of strings that are claims in progress by their value.
    """

    source: RedisSource
    rules: Rules
    cursor: str = ""
    streams: dict[bytes, Rule] = field(default_factory=dict)
    claims: int = 0

    def chunks(self) -> Iterator[Chunk]:
        """Yield the contents of the keys."""
        place = Place.parse(self.cursor)
        while True:
            if place.server != self.source.server:
                place = Place(self.source.server)
            following, found = page(self.source, place.scan, self.rules)
            self.streams |= {
                key.name: key.rule for key in found if key.kind == "stream" and key.rule
            }
            yield from self._page(found, place)
            if place.server != self.source.server:
                continue
            if following == 0:
                self.cursor = ENDED
                return
            place = Place(place.server, following)
            self.cursor = str(place)

    def _page(self, found: Sequence[Key], place: Place) -> Iterator[Chunk]:
        for key in found:
            if key.kind == UNREADABLE and key.rule is not None:
                yield Chunk(key, key.rule, (), None, fault=MAY_NOT_READ)
        wanted = [key for key in found if key.rule is not None and key.kind in _READ]
        sizes = self.source.many([(_SIZE[key.kind], key.physical) for key in wanted])
        small: list[Key] = []
        large: list[Key] = []
        room = AT_ONCE
        for key, size in zip(wanted, sizes, strict=True):
            weight = 0 if isinstance(size, Refused) or key.kind == "string" else int(size)
            if weight > LARGE and not (key.rule and key.rule.whole):
                large.append(key)
                continue
            if small and weight > room:
                yield from self._whole(small)
                small, room = [], AT_ONCE
            small.append(key)
            room -= weight
        yield from self._whole(small)
        for key in large:
            if key.name not in place.past:
                begin = place.inner if place.key == key.name else 0
                yield from self._large(key, replace(place, key=key.name, inner=begin))
                place = replace(place, past=(*place.past, key.name), key=b"", inner=0)

    def _whole(self, keys: Sequence[Key]) -> Iterator[Chunk]:
        """Yield keys that are read whole."""
        commands: list[tuple[Any, ...]] = []
        for key in keys:
            commands += [("PTTL", key.physical), (_READ[key.kind], key.physical)]
        answers = iter(self.source.many(commands))
        chunks = []
        for key in keys:
            ttl, held = next(answers), next(answers)
            alone = key.kind == "string" or isinstance(held, Refused)
            chunks += self._chunk(key, ttl, [held] if alone else held)
        yield from self._with_field_ttls(chunks)

    def _chunk(self, key: Key, ttl: Any, parts: Any) -> list[Chunk]:
        assert key.rule is not None  # noqa: S101  # _page leaves out the others
        for answer in (ttl, parts, *([] if isinstance(parts, Refused) else parts[:1])):
            if isinstance(answer, Refused):
                return [Chunk(key, key.rule, (), None, fault=_fault(answer))]
        gone = ttl == -2 or not parts or parts == [None]
        fence = key.kind == "string" and not gone and parts[0].startswith(FENCE)
        if gone or fence or (key.rule.only_expiring and ttl == -1):
            return []
        if key.kind == "string" and self.rules.is_claim(key.name, parts[0]):
            self.claims += 1
            return []
        return [Chunk(key, key.rule, parts, _seconds(ttl))]

    def _large(self, key: Key, place: Place) -> Iterator[Chunk]:
        """Yield a key that is read page by page."""
        while True:
            commands = [
                ("PTTL", key.physical),
                (_SCAN[key.kind], key.physical, place.inner, "COUNT", LARGE),
            ]
            ttl, answer = self.source.many(commands)
            if isinstance(answer, Refused):
                yield from self._chunk(key, ttl, [answer])
                return
            inner, parts = int(answer[0]), answer[1]
            yield from self._with_field_ttls(self._chunk(key, ttl, parts))
            if place.server != self.source.server:
                return  # the page is read again from its beginning
            if inner == 0:
                past = (*place.past, key.name)
                self.cursor = str(replace(place, past=past, key=b"", inner=0))
                return
            place = replace(place, inner=inner)
            self.cursor = str(place)

    def _with_field_ttls(self, chunks: list[Chunk]) -> Iterator[Chunk]:
        """Add the TTLs of the fields of hashes, if the server has them."""
        hashes = [chunk for chunk in chunks if chunk.key.kind == "hash" and chunk.parts]
        if not self.source.field_ends or not hashes:
            yield from chunks
            return
        answers = self.source.many(
            [
                ("HPTTL", chunk.key.physical, "FIELDS", len(chunk.parts) // 2, *chunk.parts[::2])
                for chunk in hashes
            ]
        )
        ends = {id(chunk): answer for chunk, answer in zip(hashes, answers, strict=True)}
        for chunk in chunks:
            yield from _with_ends(chunk, ends[id(chunk)]) if id(chunk) in ends else [chunk]


def _with_ends(chunk: Chunk, answer: Any) -> list[Chunk]:
    """Add the TTLs of the fields to a chunk, and leave out fields that ended since."""
    if isinstance(answer, Refused):
        return [Chunk(chunk.key, chunk.rule, (), None, fault=_fault(answer))]
    if answer is None or all(left == -2 for left in answer):
        return []  # the key ended since
    if all(left == -1 for left in answer):
        return [chunk]
    there = [place for place, left in enumerate(answer) if left != -2]
    parts = [part for place in there for part in chunk.parts[2 * place : 2 * place + 2]]
    return [chunk._replace(parts=parts, ttls=[_seconds(answer[place]) for place in there])]


def _fault(answer: Refused) -> str:
    """Return why a key was not read."""
    if answer.denied_key:
        return MAY_NOT_READ
    return REPLACED if answer.reason.startswith("WRONGTYPE") else answer.reason


def _seconds(milliseconds: int) -> float | None:
    """Convert the answer of PTTL. A hundred years are for ever."""
    if milliseconds == -1 or milliseconds > FOR_EVER:
        return None
    return max(milliseconds, 1) / 1_000
