-- Entries whose latest change an import has brought, in the order of their keys, and from where.
SELECT entry.key, entry.value::text, entry.version, entry.expires_at, event.metadata::text,
       extract(epoch FROM entry.expires_at - clock_timestamp())::float8
FROM {schema}.state AS entry
JOIN {schema}.events AS event
    ON event.state_key = entry.key AND event.state_version = entry.version
       AND event.type = %(type)s
WHERE entry.key > %(after)s AND entry.value IS NOT NULL
  AND (entry.expires_at IS NULL OR entry.expires_at > clock_timestamp())
ORDER BY entry.key LIMIT %(limit)s
