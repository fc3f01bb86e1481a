-- Piece: an event as the text that rides on the doorbell, for readers that stand right before it.
-- The number in front is the form of the letter: readers take another form for a mere bell.
json_build_array(
    1, event.position, event.stream, coalesce(event.stream_version, event.state_version),
    event.type, event.payload::text, event.agent_id, event.metadata::text, event.recorded_at,
    event.state_key, event.state_version, event.state_deleted, event.state_value::text,
    event.state_expires_at
)::text
