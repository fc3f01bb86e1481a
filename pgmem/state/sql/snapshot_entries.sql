-- Read the entries of a snapshot in the order of their keys.
SELECT key, value::text, version, expires_at, ttl FROM {schema}.state_snapshot_entries
WHERE snapshot_id = %(id)s AND key > %(after)s
ORDER BY key LIMIT %(limit)s
