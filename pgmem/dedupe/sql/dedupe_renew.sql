-- Renew claims whose token is still the newest. A row that is locked is skipped: its lock is short.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%(keys)s::text[], %(tokens)s::bigint[], %(leases)s::float8[])
        AS asked (key, token, lease)
),
ours AS MATERIALIZED (
    SELECT held.key, held.token, asked.lease
    FROM asked
    JOIN {schema}.dedupe AS held
        ON held.kind = 'work' AND held.key = asked.key AND held.token = asked.token
    WHERE held.completed_at IS NULL
    FOR NO KEY UPDATE OF held SKIP LOCKED
),
renewed AS (
    UPDATE {schema}.dedupe AS held
    SET lease_expires_at = clock_timestamp() + make_interval(secs => ours.lease)
    FROM ours WHERE held.kind = 'work' AND held.key = ours.key AND held.token = ours.token
    RETURNING held.key, held.token
)
SELECT asked.token, renewed.token IS NOT NULL, current.token IS NOT NULL, {commit}
FROM asked
LEFT JOIN renewed ON renewed.key = asked.key AND renewed.token = asked.token
LEFT JOIN {schema}.dedupe AS current
    ON current.kind = 'work' AND current.key = asked.key AND current.token = asked.token
       AND current.completed_at IS NULL
