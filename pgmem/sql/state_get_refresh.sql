-- One live entry, whose expiry the read pushes out.
WITH entry AS (
    UPDATE {schema}.state SET expires_at = clock_timestamp() + make_interval(secs => %(ttl)s)
    WHERE key = %(key)s AND value IS NOT NULL
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
    RETURNING key, value, version, updated_at, expires_at
)
SELECT key, value::text, version, updated_at, expires_at, {commit} FROM entry
