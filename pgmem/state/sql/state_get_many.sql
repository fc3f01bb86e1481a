-- Read several entries.
SELECT key, value::text, version, updated_at, created_at, expires_at, ttl
FROM {schema}.state WHERE key = ANY (%(keys)s) AND {include state_live}
