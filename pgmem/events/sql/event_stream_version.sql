-- Read the version of a versioned stream; 0 if it has none.
SELECT coalesce(max(stream_version), 0) FROM {schema}.events
WHERE stream = %(stream)s AND stream_version IS NOT NULL AND state_key IS NULL
