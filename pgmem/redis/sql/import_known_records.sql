-- Work that is marked as done, in the order of the keys: all of it, or only what is asked for.
SELECT key, result::text, owner,
       extract(epoch FROM expires_at - clock_timestamp())::float8
FROM {schema}.dedupe
WHERE kind = 'work' AND key > %(after)s AND completed_at IS NOT NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
  {among}
ORDER BY key LIMIT %(limit)s
