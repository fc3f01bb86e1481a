"""Find values that would get another type than their neighbours.

With `--values auto`, `90210` becomes a number, and `01234` stays a text because JSON has no such
number. A program that reads both finds two types in one place. Does no I/O.

Neighbours are the values of one field in keys that differ in their last part (`zip` of `user:1` and
`user:2`), the strings of such keys, and numbers in one hash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MOST_PLACES = 10_000
"""Places beyond this number are not watched."""
MOST_ROWS = 10
"""Rows that are named for each type of a place."""

_TYPES = {b'"': "text", b"{": "object", b"[": "list", b"t": "boolean", b"f": "boolean", b"n": ""}
_LIKE_A_NUMBER = re.compile(rb'"[+-]?[0-9][0-9., _]*([eE][+-]?[0-9]+)?"')


def type_of(value: bytes) -> str:
    """Return the type of a JSON text; "" for null, which fits all."""
    return _TYPES.get(value.lstrip()[:1], "number")


@dataclass(slots=True)
class Place:
    """The values of one place, by type."""

    counts: dict[str, int] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, row: str) -> None:
        """Count a value."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        rows = self.rows.setdefault(kind, [])
        if len(rows) < MOST_ROWS:
            rows.append(row)


@dataclass(slots=True)
class Mixture:
    """A place with values of several types.

    Attributes:
        place: the keys and the field.
        counts: number of values by type, the most frequent first.
        rows: the keys and fields of values of the other types, at most ten for each type.
    """

    place: str
    counts: dict[str, int]
    rows: list[str]


class Types:
    """Count the types of the values of each place."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], Place] = {}

    def note(self, kind: str, key: str, part: str, value: bytes) -> None:
        """Count a value.

        Args:
            kind: the type of the key.
            key: the key.
            part: the field; "" if there is none.
            value: the value as JSON text.
        """
        found = type_of(value)
        if not found:
            return
        row = f"{key} {part}" if part else key
        family = f"{key.rpartition(':')[0]}:*" if ":" in key else "*"
        self._add((family, part), found, row)
        if kind == "hash" and (found == "number" or _LIKE_A_NUMBER.fullmatch(value)):
            self._add((key, "*"), found, row)

    def _add(self, place: tuple[str, str], kind: str, row: str) -> None:
        known = self._places.get(place)
        if known is None:
            if len(self._places) >= MOST_PLACES:
                return
            known = self._places[place] = Place()
        known.add(kind, row)

    def mixtures(self) -> list[Mixture]:
        """Return the places with values of several types."""
        found = []
        named: set[str] = set()
        # Places of one field first. A hash is named only for rows that they have not named.
        for (keys, part), place in sorted(self._places.items(), key=lambda pair: pair[0][1] == "*"):
            if len(place.counts) < 2:
                continue
            counts = dict(sorted(place.counts.items(), key=lambda pair: -pair[1]))
            others = ["text"] if part == "*" else list(counts)[1:]
            rows = [row for kind in others for row in place.rows[kind] if row not in named]
            if rows:
                named.update(rows)
                found.append(Mixture(f"{keys} {part}".rstrip(), counts, rows))
        return found
