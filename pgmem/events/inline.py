"""Events that travel in a notification: JSON text, as `event_inline.sql` makes it."""

from __future__ import annotations

from datetime import UTC, datetime
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
    rows = [_parse_row(row) for row in content[1:]]
    return None if None in rows else [row for row in rows if row is not None]


def _parse_row(row: Any) -> Row | None:
    if not isinstance(row, list) or len(row) != len(_COLUMNS):
        return None
    if not all(type(value) in kinds for value, kinds in zip(row, _COLUMNS, strict=True)):
        return None
    try:
        for moment in (RECORDED_AT, STATE_EXPIRES_AT):
            if row[moment] is not None:
                row[moment] = datetime.fromisoformat(row[moment]).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return tuple(row)
