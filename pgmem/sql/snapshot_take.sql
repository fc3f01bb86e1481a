-- Copy the state as it was at one position. The position is final, so everything up to it is
-- visible here; entries that changed after it are looked up in the log, as they were before.
WITH later AS MATERIALIZED (
    SELECT DISTINCT state_key AS key FROM {schema}.events
    WHERE position > %(position)s AND state_version IS NOT NULL
),
entries AS MATERIALIZED (
    SELECT key, value, version, expires_at FROM {schema}.state
    WHERE value IS NOT NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
      AND NOT EXISTS (SELECT FROM later WHERE later.key = state.key)
    UNION ALL
    SELECT later.key, before.value, before.version, before.expires_at
    FROM later CROSS JOIN LATERAL (
        SELECT coalesce(state_value, payload) AS value, state_version AS version,
               state_deleted AS deleted, state_expires_at AS expires_at
        FROM {schema}.events
        WHERE state_key = later.key AND state_version IS NOT NULL AND position <= %(position)s
        ORDER BY state_version DESC LIMIT 1
    ) AS before
    WHERE before.deleted IS NOT TRUE
      AND (before.expires_at IS NULL OR before.expires_at > clock_timestamp())
),
snapshot AS (
    INSERT INTO {schema}.state_snapshots (name, position, entries)
    SELECT %(name)s, %(position)s, count(*) FROM entries
    RETURNING id, name, position, entries, taken_at
),
copied AS (
    INSERT INTO {schema}.state_snapshot_entries (snapshot_id, key, value, version, expires_at)
    SELECT snapshot.id, entries.key, entries.value, entries.version, entries.expires_at
    FROM snapshot CROSS JOIN entries
)
SELECT id, name, position, entries, taken_at, {commit} FROM snapshot
