-- Piece: an event in the payload of a notification, for readers whose next event it is.
json_build_array(
    event.position, event.stream, coalesce(event.stream_version, event.state_version),
    event.type, event.payload::text, event.agent_id, event.metadata::text, event.recorded_at,
    event.state_key, event.state_version, event.state_deleted, event.state_value::text,
    event.state_expires_at
)
