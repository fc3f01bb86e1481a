"""Find out which change made each field of an entry's value what it is.

The recorded changes of the entry are compared one after the other, oldest first. The origins form a
tree of the same shape as the value. A change replaces the origins of the fields that it changes,
and everything else keeps its own. One comparison costs as much as the value has fields, so the
whole costs the number of changes times the number of fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from pgmem.core.context import CAUSE, RUN_ID
from pgmem.core.encoding import decode
from pgmem.core.op import Row
from pgmem.events.columns import (
    AGENT_ID,
    METADATA,
    PAYLOAD,
    POSITION,
    RECORDED_AT,
    STATE_DELETED,
    STATE_EXPIRES_AT,
    STATE_VALUE,
    STATE_VERSION,
    TYPE,
)
from pgmem.state.fields import field_path, is_same
from pgmem.state.models import FieldBlame, StateEntry

_ABSENT: Final = object()


class _Origin(NamedTuple):
    """The change that made a field what it is.

    Attributes:
        row: of the change's event; None if it is not in the log.
        before: what the field held, or `_ABSENT`.
        certain: False if writes that are not in the log lie between this change and the one before.
    """

    row: Row | None
    before: Any
    certain: bool


class _Change(NamedTuple):
    """A change that is being compared with the value before it."""

    row: Row | None
    certain: bool


def blame_fields(
    entry: StateEntry[Any], rows: Sequence[Row], depth: int | None
) -> list[FieldBlame]:
    """Return the last change of each field of an entry's value, in the order of the value.

    Args:
        entry: the entry as it is now.
        rows: the events of its recorded changes, oldest first; those above its version are ignored.
        depth: how many levels of objects and lists to look into; None for all.
    """
    levels = -1 if depth is None else depth
    value: Any = _ABSENT
    origins: Any = None
    version, end = 0, None
    for row in rows:
        if row[STATE_VERSION] > entry.version:
            break
        if end is not None and end <= row[RECORDED_AT] and end <= entry.created_at:
            value = _ABSENT
        certain = row[STATE_VERSION] == version + 1
        version, end = row[STATE_VERSION], row[STATE_EXPIRES_AT]
        if row[STATE_DELETED]:
            value = _ABSENT
            continue
        text = row[PAYLOAD] if row[STATE_VALUE] is None else row[STATE_VALUE]
        new = decode(text)
        origins = _compare(value, new, origins, levels, _Change(row, certain))
        value = new
    if version != entry.version:
        origins = _compare(value, entry.value, origins, levels, _Change(None, certain=False))
    return list(_flatten("$", entry.value, origins))


def _compare(old: Any, new: Any, origins: Any, levels: int, change: _Change) -> Any:
    """Return the origins of a new value.

    Args:
        old: the value before, or `_ABSENT`.
        new: the value after.
        origins: of the value before.
        levels: how many levels of containers to look into; negative for all.
        change: from the one to the other.
    """
    if levels and new and old:
        if isinstance(new, dict) and isinstance(old, dict):
            return {
                name: _compare(old[name], item, origins[name], levels - 1, change)
                if name in old
                else _create(_ABSENT, item, levels - 1, change)
                for name, item in new.items()
            }
        if isinstance(new, list) and isinstance(old, list):
            common = len(old)
            return [
                _compare(old[index], item, origins[index], levels - 1, change)
                if index < common
                else _create(_ABSENT, item, levels - 1, change)
                for index, item in enumerate(new)
            ]
    return origins if is_same(old, new) else _create(old, new, levels, change)


def _create(before: Any, new: Any, levels: int, change: _Change) -> Any:
    """Return the origins of a value that a change has made as a whole."""
    if levels and new:
        if isinstance(new, dict):
            return {n: _create(_ABSENT, item, levels - 1, change) for n, item in new.items()}
        if isinstance(new, list):
            return [_create(_ABSENT, item, levels - 1, change) for item in new]
    return _Origin(change.row, before, change.certain)


def _flatten(path: str, value: Any, origins: Any) -> Iterator[FieldBlame]:
    if isinstance(origins, dict):
        for name, item in value.items():
            yield from _flatten(f"{path}{field_path(name)}", item, origins[name])
    elif isinstance(origins, list):
        for index, item in enumerate(value):
            yield from _flatten(f"{path}[{index}]", item, origins[index])
    else:
        yield _field(path, value, origins)


def _field(path: str, value: Any, origin: _Origin) -> FieldBlame:
    existed = origin.before is not _ABSENT
    before = origin.before if existed else None
    row = origin.row
    if row is None:
        return FieldBlame(path, value, before, existed, certain=False)
    metadata: dict[str, Any] = {} if row[METADATA] is None else decode(row[METADATA])
    run_id, cause = metadata.get(RUN_ID), metadata.get(CAUSE)
    recorded_at: datetime = row[RECORDED_AT]
    return FieldBlame(
        path,
        value,
        before,
        existed,
        row[STATE_VERSION],
        row[POSITION],
        row[TYPE],
        row[AGENT_ID],
        run_id if isinstance(run_id, str) else None,
        cause if type(cause) is int else None,
        recorded_at,
        origin.certain,
    )
