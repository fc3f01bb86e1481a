"""Find places of Redis that would get one name in pgmem.

The hash `a` with the field `b:c` and the hash `a:b` with the field `c` both become `a:b:c`. The
first one stays, the second one is listed, and a cut-over does not begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from pgmem.redis import KnownEntry, KnownRecord
from pgmem.redis.importing.context import Context
from pgmem.redis.importing.refused import place_words

SHOWN = 5
_OPTIONS = {
    "the stream": "--stream 'KEY=NAME'",
    "the group": "--group 'KEY={key}/{group}'",
    "the entry": "--hash 'KEY={key}/{field}'",
    "the idempotency key": "--dedupe 'KEY={key}/{member}'",
}


class Collision(NamedTuple):
    """Two places of Redis with one name in pgmem.

    Attributes:
        what: "the stream", "the group", "the entry" or "the idempotency key".
        name: the name.
        first, second: the places. The first one has the name.
    """

    what: str
    name: str
    first: str
    second: str

    def __str__(self) -> str:
        return (
            f"{self.what} {self.name[:200]!r} would come from {self.first} and from {self.second}. "
            f"The first was imported. Give one of them another name ({_OPTIONS[self.what]}), or "
            f"leave it out (--except KEY)"
        )


def told(collisions: Sequence[Collision]) -> str:
    """Return the words for an error about collisions."""
    words = "; ".join(str(one) for one in collisions[:SHOWN])
    more = len(collisions) - SHOWN
    return f"{words}; and {more} more" if more > 0 else words


def place_of_entry(source: str, known: KnownEntry) -> str | None:
    """Return where an entry of this import came from; None if it did not come from there."""
    where = (known.origin or {}).get("redis", {})
    if where.get("source") != source or "key" not in where:
        return None
    field = where.get("field")
    return place_words("hash" if field is None else "field", where["key"], field or "")


def place_of_record(context: Context, known: KnownRecord) -> str | None:
    """Return where a record of this import came from; None if it did not come from there."""
    where = (orjson.loads(known.origin) if known.origin else {}).get("redis", {})
    if where.get("source") != context.name or "key" not in where:
        return None
    if where["type"] == "string":
        return place_words("string", where["key"], "")
    rule = context.rules.match("set", where["key"].encode())
    member = rule.part_of(where["key"], known.key) if rule is not None else None
    return place_words("member", where["key"], member or "?")
