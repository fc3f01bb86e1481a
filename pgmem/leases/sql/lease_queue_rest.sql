-- Piece: the queue of `ours` without `next`. Entries in front of that one are dead: those that have
-- expired are removed with it.
CASE WHEN next.place = 1 THEN ours.waiters - 0 ELSE coalesce((
    SELECT jsonb_agg(waiter.entry ORDER BY waiter.place)
    FROM jsonb_array_elements(ours.waiters) WITH ORDINALITY AS waiter (entry, place)
    WHERE waiter.place IS DISTINCT FROM next.place
      AND (waiter.entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())::float8
), '[]') END
