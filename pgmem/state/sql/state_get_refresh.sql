-- Read one entry and renew its end by its own lifetime. It had an end and keeps one, so no process
-- has a copy and no event is needed. If another transaction removes the end while the statement
-- waits for its row, the entry is returned as it was when the statement began.
WITH entry AS (
    UPDATE {schema}.state SET expires_at = clock_timestamp() + make_interval(secs => ttl)
    WHERE key = %(key)s AND ttl IS NOT NULL AND {include state_live}
    {include state_entry}
)
SELECT key, value::text, version, updated_at, created_at, expires_at, ttl, {commit} FROM entry
UNION ALL
SELECT key, value::text, version, updated_at, created_at, expires_at, ttl, NULL
FROM {schema}.state
WHERE key = %(key)s AND {include state_live} AND NOT EXISTS (SELECT FROM entry)
