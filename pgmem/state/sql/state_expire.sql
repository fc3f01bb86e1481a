-- Piece: set when a live entry expires. Its value and version stay, so its event carries no
-- version. Nobody keeps a copy of an entry with an end. So of what is not recorded only one thing
-- must be announced: an end where none was and copies may be about (`recording` 2). That makes it
-- 1, and nothing else does: what was 1 becomes 0 here.
WITH entry AS (
    UPDATE {schema}.state
    SET expires_at = clock_timestamp() + make_interval(secs => %(ttl)s),
        recording = CASE WHEN %(record)s THEN recording
                    WHEN recording = 2 AND expires_at IS NULL AND %(ttl)s IS NOT NULL THEN 1
                    WHEN recording = 1 THEN 0
                    ELSE recording END
    WHERE key = %(key)s AND value IS NOT NULL
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
    RETURNING key, value, version, updated_at, expires_at, recording
),
change AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id, state_key, state_expires_at)
    SELECT 'state:' || key, %(type)s, json_build_object('expires_at', expires_at), %(agent_id)s,
           key, expires_at
    FROM entry WHERE %(record)s OR recording = 1
    RETURNING position
),
done AS (SELECT entry.*, change.position FROM entry LEFT JOIN change ON true)
