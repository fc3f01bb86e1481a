-- Who holds which lease, and how many wait for it.
SELECT name, holder, token, acquired_at, expires_at,
       (SELECT count(*) FROM jsonb_array_elements(waiters) AS waiter (entry)
        WHERE {include lease_alive})
FROM {schema}.leases
WHERE owner IS NOT NULL AND expires_at > clock_timestamp() AND {filter} ORDER BY name
