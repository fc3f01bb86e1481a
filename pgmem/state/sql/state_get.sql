-- One live entry.
SELECT key, value::text, version, updated_at, expires_at, recording FROM {schema}.state
WHERE key = %(key)s AND value IS NOT NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
