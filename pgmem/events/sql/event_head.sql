-- Piece: how far positions have been drawn. Not last_value of the sequence: each 32nd nextval shows
-- there, for as long as it writes to the log, what it will have drawn 32 calls later, and who reads
-- that would take positions for void that are still to be drawn. The function takes the page's lock.
coalesce(pg_catalog.pg_sequence_last_value({sequence}), 0)
