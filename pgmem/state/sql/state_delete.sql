-- Delete a live entry, if its version is the expected one (where one is expected). The row stays
-- without a value, so that its version goes on growing: a stale expected_version can never match
-- an entry that was deleted and created again.
WITH entry AS (
    UPDATE {schema}.state AS held
    SET value = NULL, version = version + 1, updated_at = clock_timestamp(), expires_at = NULL,
        recording = {include state_recording}
    WHERE key = %(key)s AND value IS NOT NULL
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
      AND (%(expected_version)s::bigint IS NULL OR version = %(expected_version)s)
    RETURNING key, value, version, updated_at, expires_at, recording
),
{include state_change}
{include state_outcome}
