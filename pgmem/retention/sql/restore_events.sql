-- Put events back at their positions. If another event has one of these positions or versions,
-- nothing is put back. If the file holds what was removed last, the low-water mark goes back to where
-- it was before.
WITH file AS MATERIALIZED (
    SELECT event.* FROM unnest(%(lines)b::json[]) AS line CROSS JOIN LATERAL json_to_record(line)
        AS event (position bigint, stream text, stream_version bigint, type text, agent_id text,
                  payload text, metadata text, state_key text, state_version bigint,
                  state_deleted boolean, state_value text, state_expires_at timestamptz,
                  recorded_at timestamptz)
),
other AS MATERIALIZED (
    SELECT file.position FROM file JOIN {schema}.events AS event USING (position)
    WHERE (file.stream, file.stream_version, file.type, file.agent_id, file.payload, file.metadata,
           file.state_key, file.state_version, file.state_deleted, file.state_value,
           file.state_expires_at, file.recorded_at)
       IS DISTINCT FROM
          (event.stream, event.stream_version, event.type, event.agent_id, event.payload::text,
           event.metadata::text, event.state_key, event.state_version, event.state_deleted,
           event.state_value::text, event.state_expires_at, event.recorded_at)
    UNION
    SELECT file.position FROM file JOIN {schema}.events AS event
        ON event.stream = file.stream AND event.stream_version = file.stream_version
           AND event.state_key IS NULL
    WHERE file.state_key IS NULL AND event.position <> file.position
    UNION
    SELECT file.position FROM file JOIN {schema}.events AS event
        ON event.state_key = file.state_key AND event.state_version = file.state_version
    WHERE event.position <> file.position
),
event AS (
    INSERT INTO {schema}.events
        (position, stream, stream_version, type, agent_id, payload, metadata, state_key,
         state_version, state_deleted, state_value, state_expires_at, recorded_at)
    SELECT position, stream, stream_version, type, agent_id, payload::json, metadata::json,
           state_key, state_version, state_deleted, state_value::json, state_expires_at,
           recorded_at
    FROM file
    WHERE NOT EXISTS (SELECT FROM other)
    ORDER BY position
    ON CONFLICT (position) DO NOTHING
    RETURNING position
),
lowered AS (
    UPDATE {schema}.trimmed
    SET position = %(position_before)s, removed = %(removed_before)s
    WHERE stream = %(stream)s AND %(position_before)s::bigint IS NOT NULL
      AND position = %(position_after)s AND removed = %(removed_after)s
      AND NOT EXISTS (SELECT FROM other)
    RETURNING stream
),
forgotten AS (
    DELETE FROM {schema}.trimmed
    WHERE stream = %(stream)s AND %(position_before)s::bigint IS NULL
      AND position = %(position_after)s AND removed = %(removed_after)s
      AND NOT EXISTS (SELECT FROM other)
    RETURNING stream
)
SELECT (SELECT count(*) FROM event),
       ARRAY(SELECT position FROM other ORDER BY position LIMIT 5),
       EXISTS (SELECT FROM lowered) OR EXISTS (SELECT FROM forgotten),
       {commit}, CASE WHEN EXISTS (SELECT FROM event) THEN {notify} END
