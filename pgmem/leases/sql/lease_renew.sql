-- Keep some leases of a process for another time each, if they are ours by owner, token and clock.
-- It never waits for a row: whoever has it locked is about to be done.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(
        %(names)s::text[], %(owners)s::text[], %(tokens)s::bigint[], %(ttls)s::float8[]
    ) AS asked (name, owner, token, ttl)
),
ours AS MATERIALIZED (
    SELECT held.name, asked.ttl
    FROM asked JOIN {schema}.leases AS held USING (name, owner, token)
    WHERE held.expires_at > clock_timestamp()
    FOR NO KEY UPDATE OF held SKIP LOCKED
),
renewed AS (
    UPDATE {schema}.leases AS held
    SET expires_at = clock_timestamp() + make_interval(secs => ours.ttl)
    FROM ours WHERE held.name = ours.name
    RETURNING held.owner, held.expires_at
)
SELECT asked.owner, renewed.expires_at,
       extract(epoch FROM renewed.expires_at - clock_timestamp())::float8,
       current.token, current.owner, current.holder, current.expires_at,
       current.expires_at > clock_timestamp(), {commit}
FROM asked
LEFT JOIN renewed ON renewed.owner = asked.owner
LEFT JOIN {schema}.leases AS current ON current.name = asked.name
