-- Live entries in the order of their keys, from a key on. Keys compare by their bytes, so a prefix
-- is a range.
SELECT key, value::text, version, updated_at, expires_at FROM {schema}.state
WHERE key >= %(prefix)s AND key > %(after)s
  AND (%(end)s::text IS NULL OR key < %(end)s)
  AND value IS NOT NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY key LIMIT %(limit)s
