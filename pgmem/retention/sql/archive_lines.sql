-- Events as lines of a file, one JSON object each. JSON values are strings with the stored text, so
-- that they come back exactly.
SELECT position, json_build_object(
    'position', position, 'stream', stream, 'stream_version', stream_version, 'type', type,
    'agent_id', agent_id, 'payload', payload::text, 'metadata', metadata::text,
    'state_key', state_key, 'state_version', state_version, 'state_deleted', state_deleted,
    'state_value', state_value::text, 'state_expires_at', state_expires_at,
    'recorded_at', recorded_at)::text
FROM {schema}.events WHERE position = ANY (%(positions)s) ORDER BY position
