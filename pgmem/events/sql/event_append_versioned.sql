-- Append events to a versioned stream, if its version is the expected one. The first event
-- decides. If two writers expect the same version, the unique index lets one in, and the other's
-- statement appends nothing. No writer can have a later version without the first.
WITH head AS (
    SELECT coalesce(max(stream_version), 0) AS version FROM {schema}.events
    WHERE stream = %(stream)s AND stream_version IS NOT NULL AND state_key IS NULL
),
batch AS MATERIALIZED (
    SELECT type, payload, agent_id, metadata, n FROM {include event_batch}
),
first AS (
    INSERT INTO {schema}.events (stream, stream_version, type, payload, agent_id, metadata)
    SELECT %(stream)s, head.version + 1, batch.type, batch.payload,
           batch.agent_id, batch.metadata
    FROM head, batch
    WHERE batch.n = 1 AND head.version = %(expected_version)s
    ON CONFLICT (stream, stream_version) WHERE stream_version IS NOT NULL AND state_key IS NULL
    DO NOTHING
    RETURNING *
),
rest AS (
    INSERT INTO {schema}.events (stream, stream_version, type, payload, agent_id, metadata)
    SELECT %(stream)s, first.stream_version + batch.n - 1, batch.type,
           batch.payload, batch.agent_id, batch.metadata
    FROM first, batch
    WHERE batch.n > 1
    ORDER BY batch.n
    RETURNING {returned}
),
event AS (SELECT {returned} FROM first UNION ALL SELECT {returned} FROM rest),
done AS (SELECT array_agg(position ORDER BY position) AS positions FROM event)
SELECT done.positions, head.version, {commit},
       CASE WHEN done.positions IS NOT NULL THEN {notify} END
FROM done CROSS JOIN head {with_inline}
