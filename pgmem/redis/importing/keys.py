"""What is in a Redis: its keys, their types and sizes, page by page.

A key that has been fenced off (see `pgmem.redis.importing.fences`) is spoken of by its old name:
its data
lies aside under another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pgmem.errors import InvalidInput
from pgmem.redis.importing.fences import FENCE, WRITTEN_BACK, named
from pgmem.redis.importing.rules import Rule, Rules
from pgmem.redis.importing.source import RedisSource, Refused

SCAN_COUNT = 1_000
EXAMPLES = 5

_SIZES = {"stream": "XLEN", "hash": "HLEN", "set": "SCARD"}


class Key(NamedTuple):
    """A key and its type.

    Attributes:
        name: as it is spoken of.
        physical: what it is called in Redis right now.
        kind: the type's name in Redis.
        rule: how it is brought in; None if it is not.
    """

    name: bytes
    physical: bytes
    kind: str
    rule: Rule | None


def page(source: RedisSource, cursor: int, rules: Rules) -> tuple[int, list[Key]]:
    """The next keys, and the cursor behind them; 0 at the end."""
    following, names = source.call("SCAN", cursor, "COUNT", SCAN_COUNT)
    kinds = [kind.decode() for kind in source.many([("TYPE", name) for name in names])]
    found = []
    for physical, kind in zip(names, kinds, strict=True):
        if kind == "none" or physical.startswith(WRITTEN_BACK):
            continue  # it has gone meanwhile, or is ours
        name = named(physical)
        found.append(Key(name, physical, kind, rules.match(kind, name)))
    return int(following), found


def pages(source: RedisSource, rules: Rules) -> Iterator[list[Key]]:
    """All keys, from the beginning; a key may come twice."""
    cursor, server = 0, source.server
    while True:
        cursor, found = page(source, cursor, rules)
        yield found
        if source.server != server:  # another process has other cursors
            cursor, server = 0, source.server
        elif cursor == 0:
            return


@dataclass(slots=True)
class Survey:
    """What there is to bring in, and what is left.

    Attributes:
        streams: the streams and the number of their entries.
        items: how many fields, entries, members and keys there are, by type.
        left: how many keys of each type are not brought in, and some of them.
    """

    streams: dict[bytes, tuple[Rule, int]] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    left: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many items there are."""
        return sum(self.items.values())

    def leave(self, kind: str, name: bytes) -> None:
        """Count a key that is not brought in."""
        count, examples = self.left.get(kind, (0, []))
        if len(examples) < EXAMPLES:
            examples.append(shown(name))
        self.left[kind] = (count + 1, examples)


def shown(name: bytes) -> str:
    """A key for a message."""
    return name.decode(errors="backslashreplace")[:100]


def survey(source: RedisSource, rules: Rules) -> Survey:
    """Look at every key once.

    Raises:
        InvalidInput: a key that was asked for by name has another type.
    """
    check_named(source, rules)
    found = Survey()
    for keys in pages(source, rules):
        for key, size in zip(keys, _sizes(source, keys), strict=True):
            if size is None:
                continue
            if key.rule is None or size < 0:
                found.leave(key.kind if size >= 0 else "string without an end", key.name)
                continue
            if key.kind == "stream":
                found.streams[key.name] = (key.rule, size)
            found.items[key.kind] = found.items.get(key.kind, 0) + size
    return found


def _sizes(source: RedisSource, keys: list[Key]) -> list[int | None]:
    """How many items each key is; -1 for a string without an end, None for what is not the user's.

    A key that has another type by now counts as what it was.
    """
    commands: list[tuple[object, ...]] = []
    for key in keys:
        if key.kind == "string":
            commands += [("PTTL", key.physical), ("GETRANGE", key.physical, 0, len(FENCE) - 1)]
        elif key.rule is not None:
            commands.append((_SIZES[key.kind], key.physical))
    answers = iter(source.many(commands))
    sizes: list[int | None] = []
    for key in keys:
        if key.kind == "string":
            ends, beginning = next(answers), next(answers)
            if beginning == FENCE:
                sizes.append(None)
            elif key.rule is not None and key.rule.only_ending and ends == -1:
                sizes.append(-1)
            else:
                sizes.append(1)
        elif key.rule is None:
            sizes.append(0)
        else:
            size = next(answers)
            sizes.append(0 if isinstance(size, Refused) else 1 if key.rule.whole else int(size))
    return sizes


def check_named(source: RedisSource, rules: Rules) -> None:
    """Refuse a rule for one key that has another type.

    Raises:
        InvalidInput: which one, and what it is.
    """
    answers = source.many([("TYPE", name) for name in rules.named])
    fenced = source.many([("GETRANGE", name, 0, len(FENCE) - 1) for name in rules.named])
    for (name, wanted), kind, beginning in zip(rules.named.items(), answers, fenced, strict=True):
        if kind.decode() not in {*wanted, "none"} and beginning != FENCE:
            raise InvalidInput(
                f"the key {shown(name)!r} of Redis is a {kind.decode()}, and was asked for as "
                f"{' or '.join(sorted(wanted))}: nothing was imported. Ask for it by its type, or "
                f"leave it out"
            )
