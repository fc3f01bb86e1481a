"""Compare two JSON values field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

ABSENT: Final = object()
"""Stands for the value of a field that does not exist."""


class FieldChange(NamedTuple):
    """A field that differs between two values.

    Attributes:
        path: the field as a JSON path, such as "$.plan.steps[0]". "$" is the value itself.
        before: what it held; None if it did not exist.
        after: what it holds; None if it does not exist any more.
        existed: False if the field is new.
        exists: False if the field was removed.
    """

    path: str
    before: Any
    after: Any
    existed: bool = True
    exists: bool = True


def changed_fields(before: Any, after: Any, path: str = "$") -> Iterator[FieldChange]:
    """Yield the fields that differ, in the order of the value after, then those that are gone.

    An object or list that exists on one side only is one field. An item of a list is known by its
    index.

    Args:
        before: a JSON value, or `ABSENT`.
        after: a JSON value, or `ABSENT`.
        path: of the values themselves.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name, item in after.items():
            yield from changed_fields(before.get(name, ABSENT), item, path + field_path(name))
        for name, item in before.items():
            if name not in after:
                yield FieldChange(path + field_path(name), item, None, exists=False)
    elif isinstance(before, list) and isinstance(after, list):
        for index, item in enumerate(after):
            old = before[index] if index < len(before) else ABSENT
            yield from changed_fields(old, item, f"{path}[{index}]")
        for index in range(len(after), len(before)):
            yield FieldChange(f"{path}[{index}]", before[index], None, exists=False)
    elif before is ABSENT:
        if after is not ABSENT:
            yield FieldChange(path, None, after, existed=False)
    elif after is ABSENT:
        yield FieldChange(path, before, None, exists=False)
    elif not is_same(before, after):
        yield FieldChange(path, before, after)


def is_same(old: Any, new: Any) -> bool:
    """Return True if two JSON values are the same. In Python 1 equals True, in JSON it does not."""
    if isinstance(new, dict):
        return (
            isinstance(old, dict)
            and old.keys() == new.keys()
            and all(is_same(old[name], item) for name, item in new.items())
        )
    if isinstance(new, list):
        return isinstance(old, list) and len(old) == len(new) and all(map(is_same, old, new))
    return bool(old == new) and isinstance(old, bool) is isinstance(new, bool)


def field_path(name: str) -> str:
    """Return the part of a JSON path that stands for a field of an object."""
    return f".{name}" if _NAME.fullmatch(name) else f"[{orjson.dumps(name).decode()}]"
