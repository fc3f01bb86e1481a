-- Turn expired entries in some pages of the table into tombstones. Their versions go on, so that no
-- stale expected version matches. Watchers get an event if the change before was recorded, because
-- the next one was promised (`recording`).
WITH due AS MATERIALIZED (
    SELECT key FROM {schema}.state
    WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid
      AND value IS NOT NULL AND expires_at <= clock_timestamp()
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
),
swept AS (
    UPDATE {schema}.state
    SET value = NULL, version = version + 1, updated_at = clock_timestamp(), expires_at = NULL,
        ttl = NULL
    WHERE key = ANY (ARRAY(SELECT key FROM due))
      AND value IS NOT NULL AND expires_at <= clock_timestamp()
    RETURNING key, version, recording
),
change AS (
    INSERT INTO {schema}.events
        (stream, stream_version, type, payload, agent_id, state_key, state_version, state_deleted)
    SELECT 'state:' || key, version, %(type)s, 'null', %(agent_id)s, key, version, true
    FROM swept WHERE recording > 0
    ORDER BY key
    RETURNING position
)
SELECT (SELECT count(*) FROM swept), {pages state}, {commit},
       CASE WHEN EXISTS (SELECT FROM change) THEN {notify} END
