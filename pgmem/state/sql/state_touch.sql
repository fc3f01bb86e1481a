-- Set when an entry expires. Its value and version stay, so its event has no version. No process
-- keeps a copy of an entry that expires. So an unrecorded touch must append an event in one case
-- only: it sets an end where there was none and copies may exist (`recording` 2). That makes
-- `recording` 1, and nothing else does: what was 1 becomes 0.
WITH entry AS (
    UPDATE {schema}.state
    SET expires_at = clock_timestamp() + make_interval(secs => %(ttl)s), ttl = %(ttl)s,
        recording = CASE WHEN %(record)s THEN recording
                    WHEN recording = 2 AND expires_at IS NULL AND %(ttl)s IS NOT NULL THEN 1
                    WHEN recording = 1 THEN 0
                    ELSE recording END
    WHERE key = %(key)s AND {include state_live}
    RETURNING key, expires_at, recording
),
change AS (
    INSERT INTO {schema}.events
        (stream, type, payload, agent_id, metadata, state_key, state_expires_at)
    SELECT 'state:' || key, %(type)s, json_build_object('expires_at', expires_at), %(agent_id)s,
           %(metadata)s, key, expires_at
    FROM entry WHERE %(record)s OR recording = 1
    RETURNING position
)
SELECT entry.key, {commit}, CASE WHEN change.position IS NOT NULL THEN {notify} END
FROM entry LEFT JOIN change ON true
