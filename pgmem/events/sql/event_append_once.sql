-- Append events under an idempotency key, and at an expected version if one is given. The
-- positions are drawn before the events are inserted, because the receipt is stored with the
-- key. A duplicate and a wrong version are found before that: a position without an event is a
-- gap that every reader must resolve. Only two first uses of a key at the same moment leave one.
WITH existing AS (
    SELECT fingerprint, result FROM {schema}.dedupe
    WHERE kind = 'append' AND key = %(key)s
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
),
head AS (
    SELECT coalesce(max(stream_version), 0) AS version FROM {schema}.events
    WHERE %(expected_version)s::bigint IS NOT NULL
      AND stream = %(stream)s AND stream_version IS NOT NULL AND state_key IS NULL
),
batch AS MATERIALIZED (
    SELECT type, payload, agent_id, metadata, n FROM {include event_batch}
),
mark AS (
    INSERT INTO {schema}.dedupe AS mark
        (kind, key, fingerprint, completed_at, expires_at, result)
    SELECT 'append', %(key)s, %(fingerprint)s, clock_timestamp(),
           clock_timestamp() + make_interval(secs => %(ttl)s),
           (SELECT json_agg(nextval({sequence})) FROM batch)
    FROM head
    WHERE NOT EXISTS (SELECT FROM existing)
      AND (%(expected_version)s::bigint IS NULL OR head.version = %(expected_version)s)
    ON CONFLICT (kind, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, token = nextval({dedupe_tokens}),
            completed_at = excluded.completed_at, created_at = clock_timestamp(),
            expires_at = excluded.expires_at, result = excluded.result
        WHERE mark.expires_at <= clock_timestamp()
    RETURNING result
),
event AS (
    INSERT INTO {schema}.events
        (position, stream, stream_version, type, payload, agent_id, metadata)
    SELECT drawn.position::bigint, %(stream)s, %(expected_version)s::bigint + batch.n, batch.type,
           batch.payload, batch.agent_id, batch.metadata
    FROM mark
    CROSS JOIN json_array_elements_text(mark.result) WITH ORDINALITY AS drawn (position, n)
    JOIN batch ON batch.n = drawn.n
    ORDER BY batch.n
    RETURNING *
),
done AS (SELECT array_agg(position ORDER BY position) AS positions FROM event)
SELECT done.positions, head.version, existing.fingerprint, existing.result::text,
       {commit}, CASE WHEN done.positions IS NOT NULL THEN {notify} END
FROM done CROSS JOIN head LEFT JOIN existing ON true {with_inline}
