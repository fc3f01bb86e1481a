-- Piece: events that some group still has to deal with, however far it has come: handed out,
-- reserved, to be handed out again, or given up and kept to be looked at. They are few.
    SELECT unnest(positions || prefetched) AS position FROM {schema}.batches
    UNION ALL SELECT position FROM {schema}.delayed
    UNION ALL SELECT position FROM {schema}.dead_letters
