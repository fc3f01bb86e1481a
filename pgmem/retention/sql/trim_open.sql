-- Piece: events that some group still has to deal with, however far it has come: handed out,
-- reserved, to be handed out again, or given up and kept to be looked at. They are few.
    SELECT unnest(positions || reserved) AS position FROM {schema}.deliveries
    UNION ALL SELECT position FROM {schema}.parked
    UNION ALL SELECT position FROM {schema}.dead_letters
