-- Lock the rows of entries in the order of their keys, compare the versions that were read, and
-- undo the transaction if one has changed. 0 is the version of an absent entry.
WITH entry AS MATERIALIZED (
    SELECT key, version, value IS NOT NULL AS live, expires_at FROM {schema}.state
    WHERE key = ANY (%(keys)s::text[])
    ORDER BY key FOR NO KEY UPDATE
),
changed AS (
    SELECT FROM unnest(%(read_keys)s::text[], %(key_versions)s::bigint[]) AS wanted (key, version)
    LEFT JOIN entry ON entry.key = wanted.key AND entry.live
        AND (entry.expires_at IS NULL OR entry.expires_at > clock_timestamp())
    WHERE coalesce(entry.version, 0) <> wanted.version
    UNION ALL
    SELECT FROM unnest(%(streams)s::text[], %(stream_versions)s::bigint[]) AS wanted (name, version)
    WHERE wanted.version <> (
        SELECT coalesce(max(stream_version), 0) FROM {schema}.events
        WHERE stream = wanted.name AND stream_version IS NOT NULL AND state_key IS NULL
    )
)
-- The count executes all of `entry`, so that every row is locked.
SELECT (SELECT count(*) FROM entry),
       CASE WHEN EXISTS (SELECT FROM changed) THEN {schema}.refuse_commit() END
