-- Piece: the next `created_at` of the row `held`.
CASE WHEN held.value IS NULL OR held.expires_at <= clock_timestamp()
                 THEN excluded.created_at ELSE held.created_at END
