"""Rules for the keys of Redis that are imported, and for their names in pgmem.

A rule has a pattern of keys in Redis's syntax (`*`, `?`, `[a-c]`, `\\*`) and a template of the name
in pgmem. The template has `{key}`, and `{field}` of a hash, `{member}` of a set or `{group}` of a
stream. A hash whose template has no `{field}` becomes one entry. This module does no I/O.

A string with an expiry may be finished work or a claim in progress (SET NX EX, a lock). Redis does
not tell, so a rule must: `--dedupe`, `--claim` or `--strings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pgmem.errors import InvalidInput

Kind = Literal["stream", "hash", "set", "string"]
Strings = Literal["done", "claims"]
Values = Literal["auto", "json", "text"]
HashAs = Literal["fields", "entry"]

KINDS: tuple[Kind, ...] = ("stream", "hash", "set", "string")

_PLACES = {
    "stream": ("key",),
    "hash": ("key", "field"),
    "set": ("key", "member"),
    "string": ("key",),
    "group": ("key", "group"),
}
_PLACEHOLDER = re.compile(r"\{(key|field|member|group)\}")
_SPLIT = re.compile(r"(?<!\\)=")
_GLOB = re.compile(r"[*?\[\\]")

EXCEPTED = "left out by --except"
CLAIM = "string that is a claim in progress"
UNDECIDED = "string with an expiry"
"""Nothing says whether the work of such a string is done or in progress."""
FOR_EVER = "string without an expiry"
UNREADABLE = "key that this user may not read"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for the keys of one type that match a pattern.

    Attributes:
        kind: the type of the keys; "group" for the groups of streams.
        pattern: the pattern, in Redis's syntax.
        template: the name in pgmem.
        values: how the values of a hash and the payloads of a stream are read.
        only_expiring: import only keys that have an expiry.
        leaves: why the keys are not imported; "" if they are.
    """

    kind: Kind | Literal["group"]
    pattern: str
    template: str
    values: Values = "auto"
    only_expiring: bool = False
    leaves: str = ""
    matches: re.Pattern[bytes] = field(init=False, repr=False, compare=False)
    _pieces: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = _PLACES[self.kind]
        unknown = {name for name in _PLACEHOLDER.findall(self.template) if name not in places}
        if unknown or not self.template:
            raise InvalidInput(
                f"the name {self.template!r} for {self.kind} keys {self.pattern!r} may contain "
                f"{' and '.join(f'{{{place}}}' for place in places)}, and must not be empty"
            )
        if self.kind == "set" and "{member}" not in self.template:
            raise InvalidInput(
                f"the name {self.template!r} for set keys {self.pattern!r} needs {{member}}: "
                f"each member becomes an idempotency key"
            )
        object.__setattr__(self, "matches", glob(self.pattern))
        # Texts and placeholders in turn.
        object.__setattr__(self, "_pieces", tuple(_PLACEHOLDER.split(self.template)))

    @property
    def literal(self) -> bytes | None:
        """The only key that the pattern matches, or None if it may match several."""
        return None if _GLOB.search(self.pattern) else self.pattern.encode()

    @property
    def whole(self) -> bool:
        """True if a hash becomes one entry."""
        return self.kind == "hash" and "{field}" not in self.template

    def name(self, key: str, part: str = "") -> str:
        """Return the name in pgmem of a key, or of a field or member of it."""
        pieces = list(self._pieces)
        pieces[1::2] = [key if place == "key" else part for place in pieces[1::2]]
        return "".join(pieces)

    def part_of(self, key: str, name: str) -> str | None:
        """Return the field or member of a key that has this name in pgmem, or None."""
        before, _, after = self.template.replace("{field}", "{member}").partition("{member}")
        before, after = before.replace("{key}", key), after.replace("{key}", key)
        if len(name) <= len(before) + len(after):
            return None
        if not (name.startswith(before) and name.endswith(after)):
            return None
        part = name[len(before) : len(name) - len(after)]
        return part if self.name(key, part) == name else None


def glob(pattern: str) -> re.Pattern[bytes]:
    """Convert a pattern of Redis to a regular expression.

    Raises:
        InvalidInput: it is empty or not UTF-8, or a bracket in it is wrong.
    """
    if not pattern:
        raise InvalidInput("a pattern of keys is empty. Give a key, or * for all")
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
    try:
        return re.compile("".join(text).encode(), flags=re.DOTALL)
    except UnicodeEncodeError:
        raise InvalidInput(
            f"the pattern {pattern!r} is not UTF-8. Give ? in place of each byte that is not"
        ) from None
    except re.error as error:
        raise InvalidInput(f"the pattern {pattern!r} cannot be used: {error.msg}") from None


@dataclass(frozen=True, slots=True)
class Claim:
    """Strings that are claims in progress or locks, and no finished work.

    Attributes:
        keys: the keys.
        values: the values that such a string has; None for any.
    """

    keys: re.Pattern[bytes]
    values: re.Pattern[bytes] | None


class Rules:
    """All rules of an import. The first one that matches a key counts.

    Args:
        rules: the rules.
        asked: the caller has given the rules, so a key named by one must have its type.
        claims: strings that are claims in progress.
        excepted: patterns of keys that are left out.

    Attributes:
        all: the rules.
        named: the keys that rules name without a pattern, and the types that they may have.
        excepted: the patterns of keys that are left out.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        asked: bool = True,
        claims: Iterable[Claim] = (),
        excepted: Iterable[str] = (),
    ) -> None:
        self.all = tuple(rules)
        self.excepted: list[str] = []
        self._excepted: list[re.Pattern[bytes]] = []
        self._claims = tuple(claims)
        self.except_also(excepted)
        self.named: dict[bytes, set[Kind]] = {}
        self._by_kind: dict[str, list[Rule]] = {kind: [] for kind in (*KINDS, "group")}
        for rule in self.all:
            self._by_kind[rule.kind].append(rule)
            if asked and rule.literal is not None and rule.kind != "group":
                self.named.setdefault(rule.literal, set()).add(rule.kind)

    @property
    def kinds(self) -> list[Kind]:
        """The types of the keys that rules match."""
        return [kind for kind in KINDS if any(not rule.leaves for rule in self._by_kind[kind])]

    def except_also(self, patterns: Iterable[str]) -> None:
        """Leave out more keys.

        Raises:
            InvalidInput: a pattern that cannot be used.
        """
        for pattern in patterns:
            if pattern not in self.excepted:
                self._excepted.append(glob(pattern))
                self.excepted.append(pattern)

    def is_excepted(self, key: bytes) -> bool:
        """Return True if a key is left out."""
        return any(pattern.fullmatch(key) for pattern in self._excepted)

    def is_claim(self, key: bytes, value: bytes | None = None) -> bool:
        """Return True if a string is a claim in progress.

        Args:
            key: the key.
            value: its value; None asks whether it is one with any value.
        """
        return any(
            claim.keys.fullmatch(key)
            and (claim.values is None or (value is not None and claim.values.fullmatch(value)))
            for claim in self._claims
        )

    def match(self, kind: str, key: bytes) -> Rule | None:
        """Return the rule for a key, or None if it is not imported."""
        rule = self._first(kind, key)
        if rule is None or rule.leaves or self.is_excepted(key):
            return None
        return None if kind == "string" and self.is_claim(key) else rule

    def match_any(self, key: bytes) -> Rule | None:
        """Return a rule that matches a key of an unknown type, or None."""
        found = (self.match(kind, key) for kind in KINDS)
        return next((rule for rule in found if rule is not None), None)

    def reason(self, kind: str, key: bytes, *, ends: bool = True) -> str:
        """Return what a key that is not imported is called in the report.

        Args:
            kind: its type.
            key: the key.
            ends: it has an expiry.
        """
        if self.is_excepted(key):
            return EXCEPTED
        if kind == "string" and self.is_claim(key):
            return CLAIM
        rule = self._first(kind, key)
        if rule is None:
            return kind
        return FOR_EVER if rule.only_expiring and not ends else rule.leaves or kind

    def group_name(self, key: str, target: str, group: str) -> str:
        """Return the name in pgmem of a group of a stream."""
        rule = self._first("group", key.encode())
        return f"{target}:{group}" if rule is None else rule.name(key, group)

    def of(self, kind: Kind) -> list[Rule]:
        """Return the rules for keys of one type."""
        return [rule for rule in self._by_kind[kind] if not rule.leaves]

    def _first(self, kind: str, key: bytes) -> Rule | None:
        for rule in self._by_kind.get(kind, ()):
            if rule.matches.fullmatch(key):
                return rule
        return None


def published(values: Values | None) -> list[Rule]:
    """Return the rules for the hashes of the published approach, as `SharedMemoryLayer` reads them.

    Each field of its state is JSON and becomes an entry. A resource becomes one entry, and its
    fields stay texts.
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
    groups: Sequence[str] = (),
    claims: Sequence[str] = (),
    excepted: Sequence[str] = (),
    strings: Strings | None = None,
    hash_as: HashAs | None = None,
    values: Values | None = None,
) -> Rules:
    """Parse the rules of a command line, each `PATTERN` or `PATTERN=NAME`.

    Without streams, hashes and dedupe, the rules match everything: streams, hashes, sets, and
    strings with an expiry.

    Args:
        streams: rules for streams.
        hashes: rules for hashes.
        dedupe: rules for sets and strings, which are finished work.
        groups: names of the groups of the streams that match.
        claims: strings that are claims in progress, each `PATTERN` or `PATTERN=VALUE`.
        excepted: patterns of keys to leave out.
        strings: what strings with an expiry are if the rules match everything; None if that is
            not known. Only "done" imports them.
        hash_as: "entry" makes one entry of each hash without a name of its own.
        values: how payloads and values are read; None for the default of each type.

    Raises:
        InvalidInput: a pattern or a name that cannot be used.
    """
    texts: Values = values or "auto"
    rules = [
        *(_stream_rule(given, values or "json") for given in streams),
        *(rule for given in hashes for rule in _hash_rules(given, hash_as, values)),
        *(rule for given in dedupe for rule in _dedupe_rules(given, texts)),
    ]
    asked = bool(rules)
    if asked and strings is not None:
        raise InvalidInput(
            "--strings is for an import of everything. Beside --stream, --hash or --dedupe, "
            "--dedupe PATTERN names the strings that are finished work, and others stay in Redis"
        )
    if not asked:
        leaves = {"done": "", "claims": CLAIM, None: UNDECIDED}[strings]
        rules = [
            _stream_rule("*", values or "json"),
            *(published(values) if hash_as is None else []),
            *_hash_rules("*", hash_as, values),
            Rule("set", "*", "{key}:{member}"),
            Rule("string", "*", "{key}", texts, only_expiring=True, leaves=leaves),
        ]
    rules += map(_group_rule, groups)
    return Rules(rules, asked=asked, claims=map(_claim, claims), excepted=excepted)


def _stream_rule(given: str, values: Values) -> Rule:
    pattern, template = _split(given)
    return Rule("stream", pattern, template or "{key}", values)


def _hash_rules(given: str, hash_as: HashAs | None, values: Values | None) -> list[Rule]:
    pattern, template = _split(given)
    known = [rule for rule in published(values) if rule.pattern == pattern]
    if known and template is None and hash_as is None:
        return known
    own = "{key}" if hash_as == "entry" else "{key}:{field}"
    return [Rule("hash", pattern, template or own, values or "auto")]


def _dedupe_rules(given: str, values: Values) -> list[Rule]:
    """Return the rules for sets and strings. The type of a key is known when it is read."""
    pattern, template = _split(given)
    rules = []
    if template is None or "{member}" in template:
        rules.append(Rule("set", pattern, template or "{key}:{member}"))
    if template is None or "{member}" not in template:
        rules.append(Rule("string", pattern, template or "{key}", values))
    return rules


def _group_rule(given: str) -> Rule:
    pattern, template = _split(given)
    if template is None:
        raise InvalidInput(
            f"{given!r} gives groups no name. Write PATTERN=NAME, as in 'orders={{key}}/{{group}}'"
        )
    return Rule("group", pattern, template)


def _claim(given: str) -> Claim:
    pattern, value = _split(given)
    return Claim(glob(pattern), None if value is None else glob(value))


def _split(given: str) -> tuple[str, str | None]:
    pattern, *template = _SPLIT.split(given, maxsplit=1)
    if template == [""]:
        raise InvalidInput(f"{given!r} ends with =. Write PATTERN=NAME, or PATTERN alone")
    return pattern, template[0] if template else None
