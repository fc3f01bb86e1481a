-- Append events to several streams: all of them or none. Positions are drawn in the order given.
-- Rows are inserted in the order of the streams' names, so two calls that share streams wait for
-- each other in the unique index in one order: no deadlock. There is no ON CONFLICT: the loser
-- of a race gets a unique violation, which undoes everything. A duplicate and a wrong version
-- are found before positions are drawn, because a position without an event is a gap that every
-- reader must resolve.
WITH existing AS (
    SELECT fingerprint, result FROM {schema}.dedupe
    WHERE kind = 'append' AND key = %(key)s::text
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
),
batch AS MATERIALIZED (
    SELECT stream, nullif(version, 0) AS version, type, payload, agent_id, metadata, n
    FROM unnest(
        %(streams)b::text[], %(versions)b::bigint[],
        %(types)b::text[], %(payloads)b::json[], %(agents)b::text[], %(metadata)b::json[]
    ) WITH ORDINALITY AS batch (stream, version, type, payload, agent_id, metadata, n)
),
conflict AS MATERIALIZED (
    SELECT first.stream, first.version - 1 AS expected, found.version AS actual
    FROM (
        SELECT stream, min(version) AS version, min(n) AS n
        FROM batch WHERE version IS NOT NULL GROUP BY stream
    ) AS first
    CROSS JOIN LATERAL (
        SELECT coalesce(max(stream_version), 0) AS version FROM {schema}.events
        WHERE stream = first.stream AND stream_version IS NOT NULL AND state_key IS NULL
    ) AS found
    WHERE found.version <> first.version - 1
    ORDER BY first.n LIMIT 1
),
drawn AS MATERIALIZED (
    SELECT n, nextval({sequence}) AS position FROM batch
    WHERE NOT EXISTS (SELECT FROM existing) AND NOT EXISTS (SELECT FROM conflict)
    ORDER BY n
),
mark AS (
    INSERT INTO {schema}.dedupe AS mark
        (kind, key, fingerprint, completed_at, expires_at, result)
    SELECT 'append', %(key)s::text, %(fingerprint)s, clock_timestamp(),
           clock_timestamp() + make_interval(secs => %(ttl)s),
           (SELECT json_agg(position ORDER BY n) FROM drawn)
    WHERE %(key)s::text IS NOT NULL AND EXISTS (SELECT FROM drawn)
    ON CONFLICT (kind, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, token = nextval({dedupe_tokens}),
            completed_at = excluded.completed_at, created_at = clock_timestamp(),
            expires_at = excluded.expires_at, result = excluded.result
        WHERE mark.expires_at <= clock_timestamp()
    RETURNING key
),
event AS (
    INSERT INTO {schema}.events
        (position, stream, stream_version, type, payload, agent_id, metadata)
    SELECT drawn.position, batch.stream, batch.version, batch.type, batch.payload,
           batch.agent_id, batch.metadata
    FROM drawn JOIN batch USING (n)
    WHERE %(key)s::text IS NULL OR EXISTS (SELECT FROM mark)
    ORDER BY batch.stream COLLATE "C", batch.n
    RETURNING {returned}
),
done AS (SELECT array_agg(position ORDER BY position) AS positions FROM event)
SELECT done.positions, conflict.stream, conflict.expected, conflict.actual,
       existing.fingerprint, existing.result::text,
       {commit}, CASE WHEN done.positions IS NOT NULL THEN {notify} END
FROM done LEFT JOIN conflict ON true LEFT JOIN existing ON true
