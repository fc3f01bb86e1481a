-- Piece: replace the row `held`. The version continues over a deleted or expired entry, which
-- begins a new life (`created_at`).
ON CONFLICT (key) DO UPDATE
        SET value = excluded.value, version = held.version + 1,
            updated_at = clock_timestamp(), created_at = {include state_created},
            expires_at = excluded.expires_at, ttl = excluded.ttl,
            recording = {include state_recording}, escaped = excluded.escaped
