-- Read events in the order of the log.
SELECT position, stream, coalesce(stream_version, state_version), type, payload::text, agent_id,
       metadata::text, recorded_at, state_key, state_version, state_deleted, state_value::text,
       state_expires_at
FROM {schema}.events
WHERE position > %(after)s AND position <= %(until)s {filter}
ORDER BY position {direction}
LIMIT %(limit)s
