-- Read the visible events of a versioned stream, by version.
SELECT {include event_columns}
FROM {schema}.events
WHERE stream = %(stream)s AND stream_version > %(after)s AND stream_version <= %(until)s
  AND state_key IS NULL
ORDER BY stream_version {direction}
LIMIT %(limit)s
