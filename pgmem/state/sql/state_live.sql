-- Piece: the row is an entry that exists and has not expired.
value IS NOT NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
