-- Piece: the queue of `held` with the asker in it: at its end, or still in its place with a new
-- entry. Those whose time is over are removed when the first one is such a one.
CASE WHEN held.waiters @> {include lease_self}
       OR (held.waiters -> 0 ->> 'until')::float8 <= extract(epoch FROM clock_timestamp())
THEN coalesce((
    SELECT jsonb_agg(CASE WHEN waiter.entry ->> 'id' = %(owner)s THEN {include lease_entry}
                     ELSE waiter.entry END ORDER BY waiter.place)
    FROM jsonb_array_elements(held.waiters) WITH ORDINALITY AS waiter (entry, place)
    WHERE waiter.entry ->> 'id' = %(owner)s
       OR (waiter.entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())
), '[]') || CASE WHEN held.waiters @> {include lease_self} THEN '[]'
            ELSE {include lease_entry} END
ELSE held.waiters || {include lease_entry} END
