-- Leave the queue of a lease. If the lease was granted to the caller in this moment, change nothing
-- and return it.
WITH gone AS (
    UPDATE {schema}.leases AS held
    SET waiters = coalesce((
        SELECT jsonb_agg(waiter.entry ORDER BY waiter.place)
        FROM jsonb_array_elements(held.waiters) WITH ORDINALITY AS waiter (entry, place)
        WHERE waiter.entry ->> 'id' <> %(owner_id)s
    ), '[]')
    WHERE name = %(name)s AND waiters @> {include lease_queue_self}
    RETURNING token, owner, expires_at
)
SELECT gone.token IS NOT NULL, seen.waiters @> {include lease_queue_self},
       seen.owner_id = %(owner_id)s AND seen.expires_at > clock_timestamp(),
       coalesce(gone.token, seen.token), coalesce(gone.owner, seen.owner),
       coalesce(gone.expires_at, seen.expires_at),
       extract(epoch FROM coalesce(gone.expires_at, seen.expires_at) - clock_timestamp())::float8,
       {commit}
FROM (VALUES (true)) AS always
LEFT JOIN gone ON true
LEFT JOIN {schema}.leases AS seen ON seen.name = %(name)s
