-- Write an entry, whatever was there. The version goes on from where it was, also over a deleted
-- or expired entry.
WITH entry AS (
    INSERT INTO {schema}.state AS held (key, value, version, expires_at, recording)
    VALUES (%(key)s, %(value)s, 1, clock_timestamp() + make_interval(secs => %(ttl)s),
            CASE WHEN %(record)s THEN 2 ELSE 0 END)
    ON CONFLICT (key) DO UPDATE
        SET value = excluded.value, version = held.version + 1,
            updated_at = clock_timestamp(), expires_at = excluded.expires_at,
            recording = {include state_recording}
    RETURNING key, value, version, updated_at, expires_at, recording
),
{include state_change}
SELECT done.version, done.updated_at, done.expires_at, done.position, {commit},
       CASE WHEN done.position IS NOT NULL THEN {notify} END
FROM done {with_inline}
