-- The live entries among some keys.
SELECT key, value::text, version, updated_at, expires_at FROM {schema}.state
WHERE key = ANY (%(keys)s) AND value IS NOT NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
