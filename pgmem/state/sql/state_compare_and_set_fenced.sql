-- Write an entry if its version is the expected one, and a lease is still ours.
WITH {include lease_fence},
entry AS (
    UPDATE {schema}.state AS held
    SET value = %(value)s, version = version + 1, updated_at = clock_timestamp(),
        expires_at = CASE WHEN %(keep_ttl)s THEN expires_at
                     ELSE clock_timestamp() + make_interval(secs => %(ttl)s) END,
        recording = {include state_recording}
    WHERE key = %(key)s AND version = %(expected_version)s AND value IS NOT NULL
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
      AND EXISTS (SELECT FROM fence)
    RETURNING key, value, version, updated_at, expires_at, recording
),
{include state_change}
{include state_outcome}
