-- Copy the state as it was at one stable position. Everything up to it is visible here. An entry
-- that changed after it is read from the log as it was before. If the log does not hold that change
-- (retention removed it, or it was not recorded), the entry is unknown and nothing is copied. The
-- log stores no lifetimes: there it is the time from the write to the end, to the millisecond.
WITH later AS MATERIALIZED (
    SELECT state_key AS key, min(state_version) AS version FROM {schema}.events
    WHERE position > %(position)s AND state_version IS NOT NULL
    GROUP BY state_key
),
before AS MATERIALIZED (
    SELECT later.key, before.value, before.version, before.expires_at, before.ttl, before.deleted,
           later.version > 1 AND before.version IS DISTINCT FROM later.version - 1 AS unknown
    FROM later LEFT JOIN LATERAL (
        SELECT coalesce(state_value, payload) AS value, state_version AS version,
               state_deleted AS deleted, state_expires_at AS expires_at,
               round(extract(epoch FROM state_expires_at - recorded_at), 3)::float8 AS ttl
        FROM {schema}.events
        WHERE state_key = later.key AND state_version IS NOT NULL AND position <= %(position)s
        ORDER BY state_version DESC LIMIT 1
    ) AS before ON true
),
entries AS MATERIALIZED (
    SELECT key, value, version, expires_at, ttl FROM {schema}.state
    WHERE value IS NOT NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
      AND NOT EXISTS (SELECT FROM later WHERE later.key = state.key)
    UNION ALL
    SELECT key, value, version, expires_at, ttl FROM before
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
    INSERT INTO {schema}.state_snapshot_entries (snapshot_id, key, value, version, expires_at, ttl)
    SELECT snapshot.id, entries.key, entries.value, entries.version, entries.expires_at, entries.ttl
    FROM snapshot CROSS JOIN entries
)
SELECT id, name, position, entries, taken_at, {commit} FROM snapshot
