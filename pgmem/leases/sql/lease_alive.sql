-- Piece: whether `waiter`, an entry of a queue, still waits. Its process holds the advisory lock of
-- its mark for as long as it listens, so the server knows at once that a process is dead. Who has
-- no mark cannot hear, and is taken to live until its time is over.
(waiter.entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())
AND (waiter.entry ->> 'mark' IS NULL
     OR NOT pg_catalog.pg_try_advisory_xact_lock_shared((waiter.entry ->> 'mark')::bigint))
