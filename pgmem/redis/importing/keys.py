"""Read the keys of a Redis with their types and sizes, page by page.

A fenced key (see `pgmem.redis.importing.fences`) goes by its original name, although its data has
another key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pgmem.errors import InvalidInput
from pgmem.redis.importing.fences import FENCE, WRITTEN_BACK, original_name
from pgmem.redis.importing.rules import UNREADABLE, Rule, Rules
from pgmem.redis.importing.source import RedisSource, Refused

SCAN_COUNT = 1_000
EXAMPLES = 5

_SIZES = {"stream": "XLEN", "hash": "HLEN", "set": "SCARD"}


class Key(NamedTuple):
    """A key and its type.

    Attributes:
        name: its original name.
        physical: its present name in Redis.
        kind: its type; `UNREADABLE` if the user may not ask for it.
        rule: its rule; None if it is not imported.
    """

    name: bytes
    physical: bytes
    kind: str
    rule: Rule | None


def page(source: RedisSource, cursor: int, rules: Rules) -> tuple[int, list[Key]]:
    """Return the cursor of the next page (0 at the end) and the keys of this one."""
    following, names = source.call("SCAN", cursor, "COUNT", SCAN_COUNT)
    kinds = source.many([("TYPE", name) for name in names])
    found = []
    for physical, kind in zip(names, kinds, strict=True):
        if kind == b"none" or physical.startswith(WRITTEN_BACK):
            continue  # deleted meanwhile, or made by the import
        name = original_name(physical)
        if isinstance(kind, Refused):  # SCAN also lists keys that the user may not read
            found.append(Key(name, physical, UNREADABLE, rules.match_any(name)))
        else:
            found.append(Key(name, physical, kind.decode(), rules.match(kind.decode(), name)))
    return int(following), found


def pages(source: RedisSource, rules: Rules) -> Iterator[list[Key]]:
    """Yield all keys in pages. A key may come twice."""
    cursor, server = 0, source.server
    while True:
        cursor, found = page(source, cursor, rules)
        yield found
        if source.server != server:  # another server process has other cursors
            cursor, server = 0, source.server
        elif cursor == 0:
            return


def fences_among(source: RedisSource, keys: list[Key]) -> set[bytes]:
    """Return the keys of a page that are fences."""
    strings = [key.physical for key in keys if key.kind == "string"]
    beginnings = source.many([("GETRANGE", key, 0, len(FENCE) - 1) for key in strings])
    return {key for key, text in zip(strings, beginnings, strict=True) if text == FENCE}


@dataclass(slots=True)
class Survey:
    """The keys that can be imported, and those that are left in Redis.

    Attributes:
        streams: the streams with their rules and numbers of entries.
        items: numbers of entries, fields, members and strings, by type.
        left: numbers of keys that are not imported, by type, with examples.
    """

    streams: dict[bytes, tuple[Rule, int]] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    left: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of items."""
        return sum(self.items.values())

    def leave(self, kind: str, name: bytes) -> None:
        """Count a key that is not imported."""
        count, examples = self.left.get(kind, (0, []))
        if len(examples) < EXAMPLES:
            examples.append(shown(name))
        self.left[kind] = (count + 1, examples)


def shown(name: bytes) -> str:
    """Return a key as text for a message."""
    return name.decode(errors="backslashreplace")[:100]


def survey(source: RedisSource, rules: Rules) -> Survey:
    """Count the items of all keys.

    Raises:
        InvalidInput: a key that a rule names has another type.
    """
    check_named(source, rules)
    found = Survey()
    for keys in pages(source, rules):
        for key, size in zip(keys, _sizes(source, keys), strict=True):
            if size is None:
                continue
            if key.rule is None or size < 0:
                found.leave(rules.reason(key.kind, key.name, ends=size >= 0), key.name)
                continue
            if key.kind == UNREADABLE:
                found.leave(UNREADABLE, key.name)
                continue
            if key.kind == "stream":
                found.streams[key.name] = (key.rule, size)
            found.items[key.kind] = found.items.get(key.kind, 0) + size
    return found


def _sizes(source: RedisSource, keys: list[Key]) -> list[int | None]:
    """Return the number of items of each key; -1 for a string without an expiry, None for a fence.

    A key whose type has changed since counts with its old type.
    """
    commands: list[tuple[object, ...]] = []
    for key in keys:
        if key.kind == "string":
            commands += [("PTTL", key.physical), ("GETRANGE", key.physical, 0, len(FENCE) - 1)]
        elif key.rule is not None and key.kind in _SIZES:
            commands.append((_SIZES[key.kind], key.physical))
    answers = iter(source.many(commands))
    sizes: list[int | None] = []
    for key in keys:
        if key.kind == "string":
            ends, beginning = next(answers), next(answers)
            if beginning == FENCE:
                sizes.append(None)
            elif ends == -1 and (key.rule is None or key.rule.only_expiring):
                sizes.append(-1)
            else:
                sizes.append(1)
        elif key.rule is None or key.kind not in _SIZES:
            sizes.append(0)
        else:
            size = next(answers)
            sizes.append(0 if isinstance(size, Refused) else 1 if key.rule.whole else int(size))
    return sizes


def check_named(source: RedisSource, rules: Rules) -> None:
    """Check the types of the keys that rules name without a pattern.

    Raises:
        InvalidInput: a key has another type.
    """
    answers = source.many([("TYPE", name) for name in rules.named])
    fenced = source.many([("GETRANGE", name, 0, len(FENCE) - 1) for name in rules.named])
    for (name, wanted), kind, beginning in zip(rules.named.items(), answers, fenced, strict=True):
        if isinstance(kind, Refused) or rules.is_excepted(name):
            continue  # the pass lists it
        if kind.decode() not in {*wanted, "none"} and beginning != FENCE:
            raise InvalidInput(
                f"the key {shown(name)!r} of Redis is a {kind.decode()}, and the option is for a "
                f"{' or '.join(sorted(wanted))}. Nothing was imported. Use the option for its "
                f"type, or leave it out"
            )
