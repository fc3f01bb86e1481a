"""Events that travel in a notification: JSON text, as `event_inline.sql` makes it."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from pgmem.core.op import Row
from pgmem.events.columns import RECORDED_AT, STATE_EXPIRES_AT

_FORM = 1
_NONE: type = type(None)
_COLUMNS: tuple[tuple[type, ...], ...] = (
    (int,), (str,), (int, _NONE), (str,), (str,), (str, _NONE), (str, _NONE), (str,),
    (str, _NONE), (int, _NONE), (bool, _NONE), (str, _NONE), (str, _NONE),
)  # fmt: skip


def parse_inline(text: str) -> Row | None:
    """Return the event of a notification as a row, or None if the text is not in a known form.

    Every column is checked, because each role that knows the channel can notify with any text.

    Args:
        text: the notification's payload.
    """
    try:
        content = orjson.loads(text)
    except ValueError:
        return None
    if not isinstance(content, list) or len(content) != len(_COLUMNS) + 1 or content[0] != _FORM:
        return None
    row = content[1:]
    if not all(type(value) in kinds for value, kinds in zip(row, _COLUMNS, strict=True)):
        return None
    try:
        for moment in (RECORDED_AT, STATE_EXPIRES_AT):
            if row[moment] is not None:
                row[moment] = datetime.fromisoformat(row[moment]).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return tuple(row)
