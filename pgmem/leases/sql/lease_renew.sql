-- Renew the leases of a process that owner, token and clock show to be held. A row that is locked is
-- skipped, because its lock is short.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(
        %(names)s::text[], %(owner_ids)s::text[], %(tokens)s::bigint[], %(ttls)s::float8[]
    ) AS asked (name, owner_id, token, ttl)
),
ours AS MATERIALIZED (
    SELECT held.name, asked.ttl
    FROM asked JOIN {schema}.leases AS held USING (name, owner_id, token)
    WHERE held.expires_at > clock_timestamp()
    FOR NO KEY UPDATE OF held SKIP LOCKED
),
renewed AS (
    UPDATE {schema}.leases AS held
    SET expires_at = clock_timestamp() + make_interval(secs => ours.ttl)
    FROM ours WHERE held.name = ours.name
    RETURNING held.owner_id, held.expires_at
)
SELECT asked.owner_id, renewed.expires_at,
       extract(epoch FROM renewed.expires_at - clock_timestamp())::float8,
       current.token, current.owner_id, current.owner, current.expires_at,
       current.expires_at > clock_timestamp(), {commit}
FROM asked
LEFT JOIN renewed ON renewed.owner_id = asked.owner_id
LEFT JOIN {schema}.leases AS current ON current.name = asked.name
