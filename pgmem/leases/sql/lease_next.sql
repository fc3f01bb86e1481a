-- Piece: from the row of the CTE `ours`, the first in its queue who still waits.
SELECT waiter.entry ->> 'id' AS owner, waiter.entry ->> 'holder' AS holder,
       (waiter.entry ->> 'ttl')::float8 AS ttl, waiter.entry ->> 'mark' AS mark, waiter.place
FROM ours, jsonb_array_elements(ours.waiters) WITH ORDINALITY AS waiter (entry, place)
