-- Piece: events that a group still needs, whatever its position: claimed, prefetched, delayed, or dead
-- letters. They are few.
    SELECT unnest(positions || prefetched) AS position FROM {schema}.batches
    UNION ALL SELECT position FROM {schema}.delayed
    UNION ALL SELECT position FROM {schema}.dead_letters
