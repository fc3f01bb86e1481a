-- Make the state equal to a snapshot. Each entry that differs is a change like any other: it gets
-- the next version and an event. Rows are locked in the order of their keys, so that two restores
-- cannot deadlock.
WITH wanted AS MATERIALIZED (
    SELECT key, value, version, expires_at, ttl FROM {schema}.state_snapshot_entries
    WHERE snapshot_id = %(id)s
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
),
put AS (
    INSERT INTO {schema}.state AS held (key, value, version, expires_at, ttl, recording, escaped)
    SELECT key, value, version + 1, expires_at, ttl, 2, {include state_escaped}
    FROM wanted ORDER BY key
    ON CONFLICT (key) DO UPDATE
        SET value = excluded.value, version = held.version + 1,
            updated_at = clock_timestamp(), created_at = {include state_created},
            expires_at = excluded.expires_at, ttl = excluded.ttl, recording = 2,
            escaped = excluded.escaped
        WHERE held.value IS NULL OR held.value::text <> excluded.value::text
           OR held.expires_at IS DISTINCT FROM excluded.expires_at
    RETURNING key, value, version, expires_at
),
unwanted AS MATERIALIZED (
    SELECT key FROM {schema}.state
    WHERE value IS NOT NULL AND NOT EXISTS (SELECT FROM wanted WHERE wanted.key = state.key)
    ORDER BY key FOR NO KEY UPDATE
),
removed AS (
    UPDATE {schema}.state SET value = NULL, version = version + 1,
           updated_at = clock_timestamp(), expires_at = NULL, ttl = NULL, recording = 2
    WHERE key IN (SELECT key FROM unwanted)
    RETURNING key, value, version, expires_at
),
change AS (
    INSERT INTO {schema}.events
        (stream, stream_version, type, payload, agent_id, metadata,
         state_key, state_version, state_deleted, state_expires_at)
    SELECT 'state:' || key, version,
           CASE WHEN value IS NULL THEN %(deleted_type)s ELSE %(restored_type)s END,
           coalesce(value, 'null'), %(agent_id)s, %(metadata)s,
           key, version, nullif(value IS NULL, false), expires_at
    FROM (SELECT * FROM put UNION ALL SELECT * FROM removed) AS changed
    ORDER BY key
    RETURNING state_deleted
),
done AS (
    SELECT count(*) FILTER (WHERE state_deleted IS NULL) AS put,
           count(*) FILTER (WHERE state_deleted) AS removed
    FROM change
)
SELECT put, removed, {commit}, CASE WHEN put + removed > 0 THEN {notify} END FROM done
