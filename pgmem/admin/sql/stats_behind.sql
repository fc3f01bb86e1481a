-- Piece: since when the row `reader` is behind: when the first event after its position was recorded.
-- In front of what was trimmed of the whole log, the index may be full of what was removed.
SELECT recorded_at AS since FROM {schema}.events
WHERE position > greatest(
    reader.position, (SELECT position FROM {schema}.trimmed WHERE stream = '')
)
ORDER BY position LIMIT 1
