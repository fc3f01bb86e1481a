-- Dedupe records of work that is done, in the order of their keys.
SELECT key, result::text, owner,
       extract(epoch FROM expires_at - clock_timestamp())::float8
FROM {schema}.dedupe
WHERE kind = 'work' AND key > %(after)s AND completed_at IS NOT NULL
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
  {among}
ORDER BY key LIMIT %(limit)s
