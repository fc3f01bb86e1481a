"""Which keys of Redis are brought in, and under which names.

A rule is a pattern of keys, as Redis writes them (`*`, `?`, `[a-c]`, `\\*`), and the name that what
it matches gets in pgmem: a template with `{key}`, and `{field}` of a hash or `{member}` of a set.
A hash whose template has no `{field}` becomes one entry.

This module asks nobody; it only compares and replaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pgmem.errors import InvalidInput

Kind = Literal["stream", "hash", "set", "string"]
Values = Literal["auto", "json", "text"]

KINDS: tuple[Kind, ...] = ("stream", "hash", "set", "string")

_PLACES = {
    "stream": ("key",),
    "hash": ("key", "field"),
    "set": ("key", "member"),
    "string": ("key",),
}
_PLACEHOLDER = re.compile(r"\{(key|field|member)\}")
_SPLIT = re.compile(r"(?<!\\)=")
_GLOB = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class Rule:
    """How the keys of one kind that match a pattern are brought in.

    Attributes:
        kind: the type of the keys.
        pattern: which keys, as Redis writes patterns.
        template: what is made of them.
        values: what the texts in a hash are, and the payloads of a stream.
        only_ending: only keys that Redis will forget by itself.
    """

    kind: Kind
    pattern: str
    template: str
    values: Values = "auto"
    only_ending: bool = False
    matches: re.Pattern[bytes] = field(init=False, repr=False, compare=False)
    _pieces: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = _PLACES[self.kind]
        unknown = {name for name in _PLACEHOLDER.findall(self.template) if name not in places}
        if unknown or not self.template:
            raise InvalidInput(
                f"the name {self.template!r} for {self.kind} keys {self.pattern!r} may hold "
                f"{' and '.join(f'{{{place}}}' for place in places)}, and must not be empty"
            )
        if self.kind == "set" and "{member}" not in self.template:
            raise InvalidInput(
                f"the name {self.template!r} for set keys {self.pattern!r} needs {{member}}: each "
                f"member is an idempotency key of its own"
            )
        object.__setattr__(self, "matches", glob(self.pattern))
        # Texts and placeholders in turn.
        object.__setattr__(self, "_pieces", tuple(_PLACEHOLDER.split(self.template)))

    @property
    def literal(self) -> bytes | None:
        """The one key that the pattern matches, or None if it matches several."""
        return None if _GLOB.search(self.pattern) else self.pattern.encode()

    @property
    def whole(self) -> bool:
        """Whether a hash becomes one entry."""
        return self.kind == "hash" and "{field}" not in self.template

    def name(self, key: str, part: str = "") -> str:
        """What a key, or a field or member of it, is called in pgmem."""
        pieces = list(self._pieces)
        pieces[1::2] = [key if place == "key" else part for place in pieces[1::2]]
        return "".join(pieces)

    def part_of(self, key: str, name: str) -> str | None:
        """The field or member of a key that has this name in pgmem; None if it is of no such."""
        before, _, after = self.template.replace("{field}", "{member}").partition("{member}")
        before, after = before.replace("{key}", key), after.replace("{key}", key)
        if len(name) <= len(before) + len(after):
            return None
        if not (name.startswith(before) and name.endswith(after)):
            return None
        part = name[len(before) : len(name) - len(after)]
        return part if self.name(key, part) == name else None


def glob(pattern: str) -> re.Pattern[bytes]:
    """A pattern of Redis as a regular expression.

    Raises:
        InvalidInput: it is empty, or a bracket in it is not closed.
    """
    if not pattern:
        raise InvalidInput("a pattern of keys is empty: give a key, or * for all")
    text, rest = [], pattern
    while rest:
        sign, rest = rest[0], rest[1:]
        if sign == "*":
            text.append(".*")
        elif sign == "?":
            text.append(".")
        elif sign == "[":
            inside, closed, rest = rest.partition("]")
            if not closed or not inside.strip("^"):
                raise InvalidInput(f"the pattern {pattern!r} opens a bracket and does not close it")
            negated = "^" if inside.startswith("^") else ""
            signs = (c if c.isalnum() or c == "-" else f"\\{c}" for c in inside.removeprefix("^"))
            text.append(f"[{negated}{''.join(signs)}]")
        else:
            if sign == "\\" and rest:
                sign, rest = rest[0], rest[1:]
            text.append(re.escape(sign))
    return re.compile("".join(text).encode(), flags=re.DOTALL)


class Rules:
    """All rules of an import: of those that match a key, the first one counts.

    Attributes:
        all: the rules.
        named: the keys that were asked for by name, and the types that they may have.
    """

    def __init__(self, rules: Iterable[Rule], *, asked: bool = True) -> None:
        self.all = tuple(rules)
        self.named: dict[bytes, set[Kind]] = {}
        if asked:
            for rule in self.all:
                if rule.literal is not None:
                    self.named.setdefault(rule.literal, set()).add(rule.kind)
        self._by_kind: dict[str, list[Rule]] = {kind: [] for kind in KINDS}
        for rule in self.all:
            self._by_kind[rule.kind].append(rule)

    def match(self, kind: str, key: bytes) -> Rule | None:
        """The rule for a key; None if it is not asked for, or its type is no known one."""
        for rule in self._by_kind.get(kind, ()):
            if rule.matches.fullmatch(key):
                return rule
        return None

    def of(self, kind: Kind) -> list[Rule]:
        """The rules for keys of one type."""
        return self._by_kind[kind]


def published(values: Values | None) -> list[Rule]:
    """How the hashes of the published approach are brought in, so that `pgmem.redis` finds them.

    Its state holds JSON, each field an entry of its own. A resource is a hash, and one entry, with
    the texts that the code which reads it knows.
    """
    return [
        Rule("hash", "agent:state", "{key}:{field}", values or "json"),
        Rule("hash", "resource:*", "{key}", values or "text"),
    ]


def parse_rules(
    streams: Sequence[str] = (),
    hashes: Sequence[str] = (),
    dedupe: Sequence[str] = (),
    *,
    hash_as: Literal["fields", "entry"] | None = None,
    values: Values | None = None,
) -> Rules:
    """The rules that a command line asks for: `PATTERN` or `PATTERN=NAME` each.

    Nothing asked for is everything: streams, hashes, sets, and strings that have an end.

    Raises:
        InvalidInput: a pattern or a name that cannot be used.
    """
    whole = "{key}" if hash_as == "entry" else "{key}:{field}"
    texts: Values = values or "auto"
    if not (streams or hashes or dedupe):
        return Rules(
            [
                Rule("stream", "*", "{key}", values or "json"),
                *(published(values) if hash_as is None else []),
                Rule("hash", "*", whole, texts),
                Rule("set", "*", "{key}:{member}"),
                Rule("string", "*", "{key}", texts, only_ending=True),
            ],
            asked=False,
        )
    rules: list[Rule] = []
    for given in streams:
        pattern, template = _split(given)
        rules.append(Rule("stream", pattern, template or "{key}", values or "json"))
    for given in hashes:
        pattern, template = _split(given)
        known = [rule for rule in published(values) if rule.pattern == pattern]
        if known and template is None and hash_as is None:
            rules += known
        else:
            rules.append(Rule("hash", pattern, template or whole, texts))
    for given in dedupe:
        pattern, template = _split(given)
        # What the keys are is seen when they are read: a set, or strings.
        if template is None or "{member}" in template:
            rules.append(Rule("set", pattern, template or "{key}:{member}"))
        if template is None or "{member}" not in template:
            rules.append(Rule("string", pattern, template or "{key}", texts))
    return Rules(rules)


def _split(given: str) -> tuple[str, str | None]:
    pattern, *template = _SPLIT.split(given, maxsplit=1)
    if template == [""]:
        raise InvalidInput(f"{given!r} ends with =: write PATTERN=NAME, or PATTERN alone")
    return pattern, template[0] if template else None
