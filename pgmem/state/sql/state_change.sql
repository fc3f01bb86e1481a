-- Piece: the event of a state change, from a CTE `entry` (key, value, version, expires_at,
-- recording): not if `recording` is 0, and then nobody has a copy that would grow stale.
-- Without an event of the caller's, the payload is the value itself. With one, the value is kept
-- beside it unless it is the same, so that the log alone can tell every state.
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
),
done AS (SELECT entry.*, event.position FROM entry LEFT JOIN event ON true)
