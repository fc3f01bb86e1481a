"""Indexes of the columns in an event's row: as in `event_columns.sql` and in inlined events."""

from __future__ import annotations

(
    POSITION,
    STREAM,
    VERSION,
    TYPE,
    PAYLOAD,
    AGENT_ID,
    METADATA,
    RECORDED_AT,
    STATE_KEY,
    STATE_VERSION,
    STATE_DELETED,
    STATE_VALUE,
    STATE_EXPIRES_AT,
) = range(13)
