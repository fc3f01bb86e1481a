-- Lock the rows of entries in the order of their keys, and return the versions of those that exist
-- and of streams.
WITH entry AS MATERIALIZED (
    SELECT key, version, value IS NOT NULL AS live, expires_at FROM {schema}.state
    WHERE key = ANY (%(keys)s::text[])
    ORDER BY key FOR NO KEY UPDATE
)
SELECT 'state', key, version FROM entry
WHERE live AND (expires_at IS NULL OR expires_at > clock_timestamp())
UNION ALL
SELECT 'stream', name, (
    SELECT coalesce(max(stream_version), 0) FROM {schema}.events
    WHERE stream = name AND stream_version IS NOT NULL AND state_key IS NULL
)
FROM unnest(%(streams)s::text[]) AS name
