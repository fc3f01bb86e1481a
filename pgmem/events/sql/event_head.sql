-- Piece: the highest position that was drawn. The function takes the sequence's page lock. A
-- plain read of last_value may be 32 too high for a moment, at each 32nd nextval, while that one
-- writes to the WAL. A reader would take positions for void that are still to be drawn.
coalesce(pg_catalog.pg_sequence_last_value({sequence}), 0)
