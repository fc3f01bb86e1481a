"""Events that travel in a notification: JSON text, as `event_inline.sql` makes it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import orjson

from pgmem.core.op import Row
from pgmem.events.columns import RECORDED_AT, STATE_EXPIRES_AT

_FORM = 1
_NONE: type = type(None)
_COLUMNS: tuple[tuple[type, ...], ...] = (
    (int,), (str,), (int, _NONE), (str,), (str,), (str, _NONE), (str, _NONE), (str,),
    (str, _NONE), (int, _NONE), (bool, _NONE), (str, _NONE), (str, _NONE),
)  # fmt: skip
_KINDS = frozenset(product(*_COLUMNS))
"""The types that the columns of an event can have together: one set membership test covers all."""


def parse_inline(text: str) -> list[Row] | None:
    """Return the events of a notification as rows, or None if the text is not in a known form.

    Every column is checked, because each role that knows the channel can notify with any text.

    Args:
        text: the notification's payload.
    """
    try:
        content = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(content, list) or len(content) < 2 or content[0] != _FORM:
        return None
    rows = []
    for columns in content[1:]:
        row = _parse_row(columns)
        if row is None:
            return None
        rows.append(row)
    return rows


def _parse_row(row: Any) -> Row | None:
    if not isinstance(row, list) or tuple(map(type, row)) not in _KINDS:
        return None
    try:
        for moment in (RECORDED_AT, STATE_EXPIRES_AT):
            if row[moment] is not None:
                row[moment] = datetime.fromisoformat(row[moment]).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return tuple(row)
