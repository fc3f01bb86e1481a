-- Append events to a versioned stream, if its version is the expected one.
-- The first event decides: two writers that expect the same version meet in the unique index, and
-- the loser's statement appends nothing. Nobody can hold a later version without the first.
WITH head AS (
    SELECT coalesce(max(stream_version), 0) AS version FROM {schema}.events
    WHERE stream = %(stream)s AND stream_version IS NOT NULL AND state_key IS NULL
),
batch AS MATERIALIZED (
    SELECT type, payload::json, agent_id, metadata::json, n FROM {include event_batch}
),
first AS (
    INSERT INTO {schema}.events (stream, stream_version, type, payload, agent_id, metadata)
    SELECT %(stream)s, head.version + 1, batch.type, batch.payload,
           batch.agent_id, batch.metadata
    FROM head, batch
    WHERE batch.n = 1 AND head.version = %(expected_version)s
    ON CONFLICT (stream, stream_version) WHERE stream_version IS NOT NULL AND state_key IS NULL
    DO NOTHING
    RETURNING position, stream_version
),
rest AS (
    INSERT INTO {schema}.events (stream, stream_version, type, payload, agent_id, metadata)
    SELECT %(stream)s, first.stream_version + batch.n - 1, batch.type,
           batch.payload, batch.agent_id, batch.metadata
    FROM first, batch
    WHERE batch.n > 1
    ORDER BY batch.n
    RETURNING position
),
done AS (
    SELECT array_agg(position ORDER BY position) AS positions
    FROM (SELECT position FROM first UNION ALL SELECT position FROM rest) AS appended
)
SELECT positions, head.version, {commit}, CASE WHEN positions IS NOT NULL THEN {bell} END
FROM done, head
