-- Read the row of a key and lock it until the transaction ends.
SELECT key, value::text, version, updated_at, created_at, expires_at, ttl, {include state_live}
FROM {schema}.state WHERE key = %(key)s
FOR NO KEY UPDATE
