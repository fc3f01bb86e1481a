-- How many leases are held, and how many wait for one. A lease that nobody holds has no row for long.
SELECT count(*) FILTER (WHERE owner_id IS NOT NULL AND expires_at > clock_timestamp()),
       coalesce(sum((
           SELECT count(*) FROM jsonb_array_elements(waiters) AS waiter (entry)
           WHERE (waiter.entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())
       )), 0)::bigint
FROM {schema}.leases
