-- Leave the queue of a lease. It may have been handed to us in this moment: then nothing is changed,
-- and what we hold is told.
WITH gone AS (
    UPDATE {schema}.leases AS held
    SET waiters = coalesce((
        SELECT jsonb_agg(waiter.entry ORDER BY waiter.place)
        FROM jsonb_array_elements(held.waiters) WITH ORDINALITY AS waiter (entry, place)
        WHERE waiter.entry ->> 'id' <> %(owner)s
    ), '[]')
    WHERE name = %(name)s AND waiters @> {include lease_self}
    RETURNING token, holder, expires_at
)
SELECT gone.token IS NOT NULL, seen.waiters @> {include lease_self},
       seen.owner = %(owner)s AND seen.expires_at > clock_timestamp(),
       coalesce(gone.token, seen.token), coalesce(gone.holder, seen.holder),
       coalesce(gone.expires_at, seen.expires_at),
       extract(epoch FROM coalesce(gone.expires_at, seen.expires_at) - clock_timestamp())::float8,
       {commit}
FROM (VALUES (true)) AS always
LEFT JOIN gone ON true
LEFT JOIN {schema}.leases AS seen ON seen.name = %(name)s
