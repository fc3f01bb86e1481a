-- Read the recorded changes of one entry, oldest first.
SELECT position, stream, coalesce(stream_version, state_version), type, payload::text, agent_id,
       metadata::text, recorded_at, state_key, state_version, state_deleted, state_value::text,
       state_expires_at
FROM {schema}.events
WHERE state_key = %(key)s AND state_version > %(after)s
ORDER BY state_version LIMIT %(limit)s
