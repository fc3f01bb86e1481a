-- Append one event under an idempotency key: `event_append_once` without what several events and an
-- expected version need, which costs the server more than half of the statement.
WITH mark AS (
    INSERT INTO {schema}.dedupe AS mark
        (kind, key, fingerprint, completed_at, expires_at, result)
    SELECT 'append', %(key)s, %(fingerprint)s, clock_timestamp(),
           clock_timestamp() + make_interval(secs => %(ttl)s),
           json_build_array(nextval({sequence}))
    WHERE NOT EXISTS (
        SELECT FROM {schema}.dedupe AS done
        WHERE done.kind = 'append' AND done.key = %(key)s
          AND (done.expires_at IS NULL OR done.expires_at > clock_timestamp())
    )
    ON CONFLICT (kind, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, token = nextval({dedupe_tokens}),
            completed_at = excluded.completed_at, created_at = clock_timestamp(),
            expires_at = excluded.expires_at, result = excluded.result
        WHERE mark.expires_at <= clock_timestamp()
    RETURNING result
),
event AS (
    INSERT INTO {schema}.events (position, stream, type, payload, agent_id, metadata)
    SELECT (result->>0)::bigint, %(stream)s, %(type)s, %(payload)s, %(agent_id)s, %(metadata)s
    FROM mark
    RETURNING *
)
SELECT event.position, existing.fingerprint, existing.result::text,
       {commit}, CASE WHEN event.position IS NOT NULL THEN {notify} END
FROM (VALUES (true)) AS always
LEFT JOIN event ON true
LEFT JOIN {schema}.dedupe AS existing
    ON event.position IS NULL AND existing.kind = 'append' AND existing.key = %(key)s
    AND (existing.expires_at IS NULL OR existing.expires_at > clock_timestamp())
