-- Add to a number. An entry that does not exist or has expired starts at 0, and only then gets a
-- lifetime. A value that is not a number stays as it is, and so does a number whose sum would leave
-- the range.
WITH entry AS (
    INSERT INTO {schema}.state AS held (key, value, version, expires_at, ttl, recording, escaped)
    VALUES (%(key)s, to_json(%(by)s::numeric), 1,
            clock_timestamp() + make_interval(secs => %(ttl)s), %(ttl)s,
            CASE WHEN %(record)s THEN 2 ELSE 0 END, false)
    ON CONFLICT (key) DO UPDATE
        SET value = CASE WHEN held.value IS NULL OR held.expires_at <= clock_timestamp()
                    THEN excluded.value
                    ELSE to_json(held.value::text::numeric + %(by)s::numeric) END,
            version = held.version + 1, updated_at = clock_timestamp(),
            created_at = {include state_created},
            expires_at = CASE WHEN held.value IS NULL OR held.expires_at <= clock_timestamp()
                         THEN excluded.expires_at ELSE held.expires_at END,
            ttl = CASE WHEN held.value IS NULL OR held.expires_at <= clock_timestamp()
                  THEN excluded.ttl ELSE held.ttl END,
            recording = {include state_recording}, escaped = false
        WHERE held.value IS NULL OR held.expires_at <= clock_timestamp()
           OR CASE WHEN json_typeof(held.value) = 'number'
              THEN abs(held.value::text::numeric + %(by)s::numeric) < %(limit)s::numeric END
    {include state_entry}
),
{include state_change}
SELECT entry.version, entry.updated_at, entry.created_at, entry.expires_at, entry.ttl, event.position,
       entry.value::text, json_typeof(current.value), {commit},
       CASE WHEN event.position IS NOT NULL THEN {notify} END
FROM (VALUES (true)) AS always
LEFT JOIN entry ON true
LEFT JOIN event ON true
LEFT JOIN {schema}.state AS current ON entry.key IS NULL AND current.key = %(key)s
