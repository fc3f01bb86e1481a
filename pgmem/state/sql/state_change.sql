-- Piece: the event of a state change, from the CTE `entry`. If `recording` is 0 there is none, and
-- then no process has a copy that would become old. The payload is the caller's or the value. With
-- a payload of the caller's the value is stored beside it, unless both are equal: so the log alone
-- can tell every state.
event AS (
    INSERT INTO {schema}.events
        (stream, stream_version, type, payload, agent_id, metadata,
         state_key, state_version, state_deleted, state_value, state_expires_at)
    SELECT coalesce(%(stream)s, 'state:' || entry.key),
           CASE WHEN %(stream)s::text IS NULL THEN entry.version END,
           %(type)s, coalesce(%(payload)s::json, entry.value, 'null'), %(agent_id)s, %(metadata)s,
           entry.key, entry.version, nullif(entry.value IS NULL, false),
           CASE WHEN %(payload)s::json IS NOT NULL THEN entry.value END, entry.expires_at
    FROM entry WHERE entry.recording > 0
    RETURNING *
)
