-- Piece: an event as the payload of a notification, for readers whose next event it is.
-- The first number is the payload's format. Readers treat another format as a bare notification.
json_build_array(
    1, event.position, event.stream, coalesce(event.stream_version, event.state_version),
    event.type, event.payload::text, event.agent_id, event.metadata::text, event.recorded_at,
    event.state_key, event.state_version, event.state_deleted, event.state_value::text,
    event.state_expires_at
)::text
