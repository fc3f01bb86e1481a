-- Set when a live entry expires. Its value and version stay, so its event carries no version.
WITH entry AS (
    UPDATE {schema}.state SET expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)
    WHERE key = %(key)s AND value IS NOT NULL
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
    RETURNING key, expires_at
),
change AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id, state_key, state_expires_at)
    SELECT 'state:' || key, %(type)s, json_build_object('expires_at', expires_at), %(agent_id)s,
           key, expires_at
    FROM entry WHERE %(record)s
    RETURNING position
),
done AS (SELECT entry.key, change.position FROM entry LEFT JOIN change ON true)
SELECT key, {commit}, CASE WHEN position IS NOT NULL THEN {bell} END FROM done
