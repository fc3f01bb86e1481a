-- Piece: whether `waiter`, an entry of a queue, still waits. A process that listens holds the
-- advisory lock of its listener id, so the server knows at once that a process is dead. A process
-- that cannot listen has no id, and counts as alive until its entry expires.
(waiter.entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())::float8
AND (waiter.entry ->> 'listener' IS NULL
     OR NOT pg_catalog.pg_try_advisory_xact_lock_shared((waiter.entry ->> 'listener')::bigint))
