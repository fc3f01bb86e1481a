-- Entries in the order of their keys, with the origin of the latest change if an import made it. The
-- page is read before the events, whatever the planner knows of the tables.
SELECT entry.key, entry.value::text, entry.version,
       extract(epoch FROM entry.expires_at - clock_timestamp())::float8, event.metadata::text
FROM (
    SELECT key, value, version, expires_at FROM {schema}.state
    WHERE key > %(after)s AND value IS NOT NULL
      AND (expires_at IS NULL OR expires_at > clock_timestamp())
      {among}
    ORDER BY key LIMIT %(limit)s
) AS entry
LEFT JOIN LATERAL (
    SELECT metadata FROM {schema}.events
    WHERE state_key = entry.key AND state_version = entry.version AND type = %(type)s
    LIMIT 1
) AS event ON true
ORDER BY entry.key
