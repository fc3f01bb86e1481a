-- Store the result of claimed work. Only the newest token may. A second execution changes nothing.
WITH claim AS (
    UPDATE {schema}.dedupe
    SET completed_at = coalesce(completed_at, clock_timestamp()), lease_expires_at = NULL,
        result = CASE WHEN completed_at IS NULL THEN %(result)s ELSE result END,
        expires_at = CASE WHEN completed_at IS NULL
                     THEN clock_timestamp() + make_interval(secs => %(ttl)s) ELSE expires_at END
    WHERE kind = 'work' AND key = %(key)s AND token = %(token)s
    RETURNING token
)
SELECT claim.token, current.token, current.completed_at IS NOT NULL, {commit}
FROM (VALUES (true)) AS always
LEFT JOIN claim ON true
LEFT JOIN {schema}.dedupe AS current
    ON claim.token IS NULL AND current.kind = 'work' AND current.key = %(key)s
