-- The number of held leases and of their waiters. A free lease has no row for long.
SELECT count(*) FILTER (WHERE owner_id IS NOT NULL AND expires_at > clock_timestamp()),
       coalesce(sum((
           SELECT count(*) FROM jsonb_array_elements(waiters) AS waiter (entry)
           WHERE (waiter.entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())::float8
       )), 0)::bigint
FROM {schema}.leases
