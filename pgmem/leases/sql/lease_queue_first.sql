-- Piece: the entries of the queue in the CTE `ours`. The including statement selects the first one
-- that still waits.
SELECT waiter.entry ->> 'id' AS owner_id, waiter.entry ->> 'owner' AS owner,
       (waiter.entry ->> 'ttl')::float8 AS ttl, waiter.entry ->> 'listener' AS listener,
       waiter.place
FROM ours, jsonb_array_elements(ours.waiters) WITH ORDINALITY AS waiter (entry, place)
