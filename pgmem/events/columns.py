"""The places of the columns in an event's row, as `event_columns.sql` and the letters have them."""

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
