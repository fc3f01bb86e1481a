-- The entry under a key, locked until the transaction ends: the queue of a hot key.
SELECT key, value::text, version, updated_at, expires_at,
       value IS NOT NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
FROM {schema}.state WHERE key = %(key)s
FOR NO KEY UPDATE
