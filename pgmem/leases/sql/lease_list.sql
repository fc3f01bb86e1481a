-- The leases that are held, with their owners and the number of live waiters.
SELECT name, owner, token, acquired_at, expires_at,
       (SELECT count(*) FROM jsonb_array_elements(waiters) AS waiter (entry)
        WHERE {include lease_waiter_lives})
FROM {schema}.leases
WHERE owner_id IS NOT NULL AND expires_at > clock_timestamp() AND {filter} ORDER BY name
