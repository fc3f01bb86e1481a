-- Read one entry.
SELECT key, value::text, version, updated_at, created_at, expires_at, ttl, recording
FROM {schema}.state WHERE key = %(key)s AND {include state_live}
