-- Copy the state as it was at one position. The position is final, so everything up to it is
-- visible here; entries that changed after it are looked up in the log, as they were before. Where
-- the log does not hold that change (retention has removed it, or it was not recorded), nobody
-- knows what the entry was: then nothing is copied.
WITH later AS MATERIALIZED (
    SELECT state_key AS key, min(state_version) AS version FROM {schema}.events
    WHERE position > %(position)s AND state_version IS NOT NULL
    GROUP BY state_key
),
before AS MATERIALIZED (
    SELECT later.key, before.value, before.version, before.expires_at, before.deleted,
           later.version > 1 AND before.version IS DISTINCT FROM later.version - 1 AS unknown
    FROM later LEFT JOIN LATERAL (
        SELECT coalesce(state_value, payload) AS value, state_version AS version,
               state_deleted AS deleted, state_expires_at AS expires_at
        FROM {schema}.events
        WHERE state_key = later.key AND state_version IS NOT NULL AND position <= %(position)s
        ORDER BY state_version DESC LIMIT 1
    ) AS before ON true
),
entries AS MATERIALIZED (
    SELECT key, value, version, expires_at FROM {schema}.state
    WHERE value IS NOT NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
      AND NOT EXISTS (SELECT FROM later WHERE later.key = state.key)
    UNION ALL
    SELECT key, value, version, expires_at FROM before
    WHERE version IS NOT NULL AND deleted IS NOT TRUE
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
),
snapshot AS (
    INSERT INTO {schema}.state_snapshots (name, position, entries)
    SELECT %(name)s, %(position)s, count(*) FROM entries
    HAVING NOT EXISTS (SELECT FROM before WHERE unknown)
    RETURNING id, name, position, entries, taken_at
),
copied AS (
    INSERT INTO {schema}.state_snapshot_entries (snapshot_id, key, value, version, expires_at)
    SELECT snapshot.id, entries.key, entries.value, entries.version, entries.expires_at
    FROM snapshot CROSS JOIN entries
)
SELECT id, name, position, entries, taken_at, {commit} FROM snapshot
