-- Piece: the queue of `held` with the caller in it: at its end, or in its old place with a new
-- entry. Expired entries are removed when the first one has expired.
CASE WHEN held.waiters @> {include lease_queue_self}
       OR (held.waiters -> 0 ->> 'until')::float8 <= extract(epoch FROM clock_timestamp())::float8
THEN coalesce((
    SELECT jsonb_agg(CASE WHEN waiter.entry ->> 'id' = %(owner_id)s
                     THEN {include lease_queue_entry} ELSE waiter.entry END ORDER BY waiter.place)
    FROM jsonb_array_elements(held.waiters) WITH ORDINALITY AS waiter (entry, place)
    WHERE waiter.entry ->> 'id' = %(owner_id)s
       OR (waiter.entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())::float8
), '[]') || CASE WHEN held.waiters @> {include lease_queue_self} THEN '[]'
            ELSE {include lease_queue_entry} END
ELSE held.waiters || {include lease_queue_entry} END
