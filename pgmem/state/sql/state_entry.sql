-- Piece: what the CTE `entry` returns of the row that was written.
RETURNING key, value, version, updated_at, created_at, expires_at, ttl, recording
