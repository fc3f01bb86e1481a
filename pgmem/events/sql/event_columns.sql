-- Piece: the columns of an event, as `pgmem.events.ops` reads them.
position, stream, coalesce(stream_version, state_version), type, payload::text, agent_id,
       metadata::text, recorded_at, state_key, state_version, state_deleted, state_value::text,
       state_expires_at
